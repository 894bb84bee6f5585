//! An origin whose every byte is scripted, for answers that no HTTP library would give.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub struct Raw {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Raw {
    /// Calls `script` with each request's connection and path; the connection closes when it returns.
    pub fn start(script: impl Fn(&mut TcpStream, &str) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, script) = (Arc::clone(&stop), Arc::new(script));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (mut stream, script) = (stream.unwrap(), Arc::clone(&script));
                std::thread::spawn(move || {
                    if let Some(path) = read_head(&mut stream) {
                        script(&mut stream, &path);
                    }
                });
            }
        });
        Self { address, stop }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

/// Writes as long as somebody listens.
pub fn say(stream: &mut TcpStream, text: impl AsRef<[u8]>) -> bool {
    stream.write_all(text.as_ref()).is_ok()
}

/// The path of a request whose head has come whole.
fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    Some(String::from_utf8_lossy(&head).split(' ').nth(1)?.to_owned())
}
