//! A load that costs little: keep-alive connections, each with one request in flight.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Sends `requests` over `connections` and checks that each is answered 200.
pub fn run(address: SocketAddr, target: &str, key: &str, requests: u64, connections: u64) {
    let head = format!(
        "GET {target} HTTP/1.1\r\nhost: api.test\r\nuser-agent: load\r\naccept: */*\r\nauthorization: Bearer {key}\r\n\r\n"
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let tasks: Vec<_> =
            (0..connections).map(|_| tokio::spawn(connection(address, head.clone(), requests / connections))).collect();
        for task in tasks {
            task.await.expect("a connection ends well");
        }
    });
}

async fn connection(address: SocketAddr, head: String, requests: u64) {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.set_nodelay(true).expect("a TCP socket");
    let mut buffer = Vec::with_capacity(16 * 1024);
    for _ in 0..requests {
        stream.write_all(head.as_bytes()).await.expect("it takes requests");
        buffer.clear();
        loop {
            assert_ne!(stream.read_buf(&mut buffer).await.expect("it answers"), 0, "it does not close");
            if is_whole(&buffer) {
                break;
            }
        }
        assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer));
    }
}

fn is_whole(buffer: &[u8]) -> bool {
    let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
    buffer.len() >= end + 4 + length.unwrap_or(0)
}
