//! A client's TCP stream that closes so that the client can read the last answer.
//!
//! Closing a socket that holds unread bytes resets the connection, and the reset destroys an answer still on its way
//! (RFC 9112, section 9.6). So the write side closes first, and what the client is still sending is read and dropped.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// A client that was refused and sends nothing is listened to for so long at most.
const LINGER: Duration = Duration::from_secs(2);
/// A client that was refused and goes on sending is listened to for so long at most.
const LINGER_IN_ALL: Duration = Duration::from_secs(10);

/// Reads of one turn: a client that sends without end must neither hold up its worker nor escape its deadline.
const READS: usize = 16;

/// A client's connection.
#[derive(Debug)]
pub struct Stream {
    inner: TokioIo<TcpStream>,
    more_to_come: Arc<AtomicBool>,
    lingering: Option<Linger>,
}

#[derive(Debug)]
struct Linger {
    silence: Pin<Box<Sleep>>,
    end: Instant,
}

impl Linger {
    fn new() -> Self {
        let end = Instant::now() + LINGER_IN_ALL;
        Self { silence: Box::pin(tokio::time::sleep(LINGER)), end }
    }

    fn heard(&mut self) {
        let until = self.end.min(Instant::now() + LINGER);
        self.silence.as_mut().reset(until);
    }
}

impl Stream {
    /// Wraps an accepted stream. `more_to_come` says, when it closes, whether the client may be in the middle of a
    /// request that was answered.
    #[must_use]
    pub fn new(stream: TcpStream, more_to_come: Arc<AtomicBool>) -> Self {
        Self { inner: TokioIo::new(stream), more_to_come, lingering: None }
    }

    /// Drops what has come; ready once the client has closed, or if nothing was coming when the close began.
    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut dropped = [0; 4_096];
        if self.more_to_come.load(Relaxed) {
            self.lingering.get_or_insert_with(Linger::new);
        }
        for _ in 0..READS {
            match self.inner.inner().try_read(&mut dropped) {
                Ok(0) => return Poll::Ready(()),
                Ok(_) => self.lingering.get_or_insert_with(Linger::new).heard(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.lingering.is_some() => {
                    if ready!(self.inner.inner().poll_read_ready(cx)).is_err() {
                        return Poll::Ready(());
                    }
                }
                Err(_) => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_shutdown(cx))?;
        let drained = self.poll_drained(cx);
        match &mut self.lingering {
            Some(linger) if drained.is_pending() => linger.silence.as_mut().poll(cx).map(Ok),
            Some(_) | None => drained.map(Ok),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }
}
