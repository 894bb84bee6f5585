//! Uploads that are answered before they end: by the gateway, which refuses, or by an origin that does not want them.

use std::time::Duration;

use crate::support::Gateway;
use crate::support::gateway::Setup;

fn with_tenant(plan: &str) -> (Gateway, String) {
    let gateway = Gateway::start();
    let key = gateway.runtime.block_on(gateway.tenant("acme", plan));
    (gateway, key)
}

/// Most libraries send head and body apart, and take the connection for the next request.
#[test]
fn a_refused_small_body_leaves_the_connection_open() {
    let (gateway, key) = with_tenant("free");
    gateway.runtime.block_on(async {
        let mut client = gateway.client();
        for _ in 0..3 {
            client.write(b"POST /one HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n").await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            client.write(b"0123456789").await.unwrap();
            let got = client.read(false).await.unwrap();
            assert_eq!((got.status, got.header("connection")), (401, ""));
        }
        assert_eq!(client.get("/one", &key).await.unwrap().status, 200);
    });
}

/// A reset in the middle of an upload destroys the answer for clients that read only once they have sent.
#[test]
fn an_upload_that_is_answered_early_can_be_sent_to_its_end() {
    let (gateway, key) = with_tenant("free");
    gateway.runtime.block_on(async {
        for framing in ["content-length: 4194304", "transfer-encoding: chunked"] {
            let refused = upload(&gateway, "/one", framing).await;
            assert!(refused.starts_with("HTTP/1.1 401 ") && refused.ends_with('}'), "{refused}");
            // The origin does not read it either.
            let answered = upload(&gateway, "/status/200", &format!("x-api-key: {key}\r\n{framing}")).await;
            assert!(answered.starts_with("HTTP/1.1 200 ") && answered.contains("\r\n\r\n"), "{answered}");
        }
        gateway.running().flush_now().await.unwrap();
        assert_eq!(gateway.used("acme").await, 2);
    });
}

/// Sends the head, waits for the answer to be on its way, sends 4 MiB, then reads to the end.
async fn upload(gateway: &Gateway, path: &str, headers: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(gateway.running().proxy()).await.unwrap();
    let head = format!("PUT {path} HTTP/1.1\r\nhost: a\r\n{headers}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let data = vec![b'x'; 65_536];
    let piece = if headers.ends_with("chunked") { [b"10000\r\n", &*data, b"\r\n"].concat() } else { data };
    for n in 0..64 {
        stream.write_all(&piece).await.unwrap_or_else(|error| panic!("{error} at piece {n} of {path}, {headers}"));
    }
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.contains("connection: close"), "{answer}");
    answer
}

/// As an origin does that finds an upload too large: answers from the head, and closes on what still comes.
#[test]
fn the_answer_of_an_origin_that_hangs_up_on_an_upload_arrives() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = listener.local_addr().unwrap();
    let (times, body) = (40, vec![b'x'; 4 << 20]);
    let hanging_up = std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        for _ in 0..times {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            stream.write_all(b"HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 4\r\n\r\nmuch").unwrap();
        }
    });
    let more = format!("upstreams: [{{ name: api, origins: [\"http://{origin}\"] }}]\n");
    let gateway = Gateway::with(&Setup { more: &more, ..Setup::default() });
    gateway.runtime.block_on(async {
        let key = gateway.tenant("acme", "free").await;
        for n in 0..times {
            let mut client = gateway.client();
            let got = client.send("PUT", "/one", &[("x-api-key", &key)], &body).await.unwrap();
            assert_eq!((got.status, got.text().as_str()), (413, "much"), "upload {n}");
        }
        gateway.running().flush_now().await.unwrap();
        assert_eq!(gateway.used("acme").await, 0);
    });
    hanging_up.join().unwrap();
}

/// Nobody asked for the body: no `100 Continue`, and the connection is not good for another request.
#[test]
fn a_refused_expectation_is_not_encouraged() {
    let (gateway, _) = with_tenant("free");
    gateway.runtime.block_on(async {
        let mut client = gateway.client();
        let head = b"PUT /one HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 10\r\n\r\n";
        client.write(head).await.unwrap();
        let got = client.read_head().await.unwrap();
        assert_eq!((got.status, got.header("connection")), (401, "close"));
    });
}
