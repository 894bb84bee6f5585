//! A keep-alive HTTP/1.1 client that writes exactly what it is told and reads exactly what comes.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A whole response.
#[derive(Clone, Debug, Default)]
pub struct Got {
    pub status: u16,
    /// Lower-case names; repeated ones joined by ", ".
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Got {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

pub struct Client {
    address: SocketAddr,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, stream: None, buffer: Vec::new() }
    }

    pub async fn get(&mut self, target: &str, key: &str) -> io::Result<Got> {
        self.send("GET", target, &[("authorization", &format!("Bearer {key}"))], b"").await
    }

    pub async fn send(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Got> {
        let mut head = format!("{method} {target} HTTP/1.1\r\nhost: api.test\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() {
            head += &format!("content-length: {}\r\n", body.len());
        }
        head += "\r\n";
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        self.write(&bytes).await?;
        self.read(method == "HEAD").await
    }

    /// Sends bytes as they are, over the open connection or a new one.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.stream.is_none() {
            let stream = TcpStream::connect(self.address).await?;
            stream.set_nodelay(true)?;
            self.stream = Some(stream);
            self.buffer.clear();
        }
        let written = self.stream.as_mut().unwrap().write_all(bytes).await;
        if written.is_err() {
            self.stream = None;
        }
        written
    }

    /// Closes the connection, whatever is in flight.
    pub fn abort(&mut self) {
        self.stream = None;
    }

    /// Reads one response.
    pub async fn read(&mut self, head_only: bool) -> io::Result<Got> {
        let got = self.read_response(head_only).await;
        if got.is_err() {
            self.stream = None;
        }
        got
    }

    async fn read_response(&mut self, head_only: bool) -> io::Result<Got> {
        loop {
            let got = self.read_head().await?;
            if got.status >= 200 || got.status == 101 {
                return self.read_body(got, head_only).await;
            }
        }
    }

    /// Reads one head, which may be an interim one.
    pub async fn read_head(&mut self) -> io::Result<Got> {
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at;
            }
            self.fill().await?;
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let mut got = Got { status: status.ok_or_else(|| io::Error::other(head.clone()))?, ..Got::default() };
        for line in lines {
            let (name, value) = line.split_once(':').ok_or_else(|| io::Error::other(line.to_owned()))?;
            let all = got.headers.entry(name.to_ascii_lowercase()).or_default();
            *all = if all.is_empty() { value.trim().to_owned() } else { format!("{all}, {}", value.trim()) };
        }
        Ok(got)
    }

    async fn read_body(&mut self, mut got: Got, head_only: bool) -> io::Result<Got> {
        if head_only || matches!(got.status, 101 | 204 | 304) {
            return Ok(got);
        }
        if got.header("transfer-encoding").eq_ignore_ascii_case("chunked") {
            got.body = self.read_chunks().await?;
        } else if let Ok(length) = got.header("content-length").parse() {
            got.body = self.take(length).await?;
        } else {
            got.body = self.rest().await?;
        }
        if got.header("connection").eq_ignore_ascii_case("close") {
            self.stream = None;
        }
        Ok(got)
    }

    async fn read_chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line().await?;
            let size = usize::from_str_radix(line.split(';').next().unwrap().trim(), 16).map_err(io::Error::other)?;
            if size == 0 {
                while !self.line().await?.is_empty() {}
                return Ok(body);
            }
            body.extend(self.take(size).await?);
            self.take(2).await?;
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..at]).into_owned();
                self.buffer.drain(..at + 2);
                return Ok(line);
            }
            self.fill().await?;
        }
    }

    pub async fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.fill().await?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    async fn rest(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.fill().await {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.stream = None;
                    return Ok(std::mem::take(&mut self.buffer));
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        let stream = self.stream.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        if stream.read_buf(&mut self.buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}
