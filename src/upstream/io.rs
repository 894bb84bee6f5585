//! A TCP stream that counts what it has written and can be looked at while hyper drives it.
//!
//! An origin may answer from the head of a request and close on the rest of it, as one does that finds an upload too
//! large. Writing then fails while the answer lies there to be read, and hyper would give up at the failed write. So
//! what is left of such a request is dropped here as if it had been written, and hyper reads the answer.

use std::cell::{Cell, RefCell};
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::net::TcpStream;

/// A connected socket, shared within its worker between hyper's connection task and its lease.
#[derive(Debug)]
pub struct Socket {
    stream: RefCell<TokioIo<TcpStream>>,
    written: Cell<u64>,
    /// What `written` was when the present request began.
    began_at: Cell<u64>,
    /// The origin has answered the present request and takes no more of it.
    hung_up: Cell<bool>,
}

impl Socket {
    /// Wraps a connected stream.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        let stream = RefCell::new(TokioIo::new(stream));
        Self { stream, written: Cell::new(0), began_at: Cell::new(0), hung_up: Cell::new(false) }
    }

    /// The next request begins.
    pub fn begin(&self) {
        self.began_at.set(self.written.get());
        self.hung_up.set(false);
    }

    /// Bytes handed to the kernel so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written.get()
    }

    /// Whether the peer has neither closed nor sent anything: what an idle connection must look like.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        matches!(self.peek(), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether the origin broke off the last request: nothing more can go this way.
    #[must_use]
    pub fn has_hung_up(&self) -> bool {
        self.hung_up.get()
    }

    /// After a write has failed: whether the peer has the head of this request and has sent something back.
    fn has_answer(&self) -> bool {
        self.written.get() > self.began_at.get() && (self.hung_up.get() || matches!(self.peek(), Ok(1..)))
    }

    fn peek(&self) -> io::Result<usize> {
        let mut byte = [MaybeUninit::uninit()];
        SockRef::from(self.stream.borrow().inner()).peek(&mut byte)
    }
}

/// hyper's end of a [`Socket`]. Each call borrows the stream and gives it back before it returns.
#[derive(Debug)]
pub struct Wire(pub Rc<Socket>);

impl Wire {
    /// Counts what was written of `offered` bytes. What cannot be written to an origin that has answered is dropped,
    /// and not counted.
    fn count(&self, written: Poll<io::Result<usize>>, offered: usize) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(n)) => {
                self.0.written.set(self.0.written.get().saturating_add(u64::try_from(n).unwrap_or(u64::MAX)));
                written
            }
            Poll::Ready(Err(_)) if self.0.has_answer() => {
                self.0.hung_up.set(true);
                Poll::Ready(Ok(offered))
            }
            Poll::Ready(Err(_)) | Poll::Pending => written,
        }
    }
}

impl Read for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.stream.borrow_mut()).poll_read(cx, buf)
    }
}

impl Write for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.0.stream.borrow_mut()).poll_write(cx, buf);
        self.count(written, buf.len())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.stream.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.stream.borrow_mut()).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.stream.borrow().is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.0.stream.borrow_mut()).poll_write_vectored(cx, bufs);
        self.count(written, bufs.iter().map(|buf| buf.len()).sum())
    }
}
