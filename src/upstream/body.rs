//! The request body on its way to an origin.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::Flag;

/// Why an upload stops.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The client's side broke off.
    #[error("the client's request broke off: {0}")]
    Client(#[from] hyper::Error),
    /// The client sent nothing for too long.
    #[error("the client fell silent in the middle of its request")]
    Silent,
}

/// A request body: nothing, or the client's, streamed as it comes.
pub enum Upload {
    /// No body: may be sent again.
    Empty,
    /// The client's.
    Streamed(Streamed),
}

/// How far an upload has come, for whoever waits for the answer to it.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Its last byte has been taken.
    pub whole: Flag,
    /// The client broke it off or fell silent: what fails now is not the origin's fault.
    pub broken: Flag,
}

/// The client's body, which says when it has been sent.
pub struct Streamed {
    inner: Incoming,
    progress: Progress,
    limit: Duration,
    silence: Option<Pin<Box<Sleep>>>,
}

impl Upload {
    /// Wraps `inner`, which keeps `progress` up to date; a silence longer than `limit` ends it.
    #[must_use]
    pub fn of(inner: Incoming, progress: &Progress, limit: Duration) -> Self {
        if inner.is_end_stream() {
            progress.whole.set(true);
            return Self::Empty;
        }
        Self::Streamed(Streamed { inner, progress: progress.clone(), limit, silence: None })
    }
}

impl Streamed {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Err(error))) => {
                self.progress.broken.set(true);
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(frame) => {
                self.silence = None;
                if frame.is_none() || self.inner.is_end_stream() {
                    self.progress.whole.set(true);
                }
                Poll::Ready(frame.map(|frame| frame.map_err(UploadError::from)))
            }
            Poll::Pending => {
                let limit = self.limit;
                let silence = self.silence.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
                ready!(silence.as_mut().poll(cx));
                self.progress.broken.set(true);
                Poll::Ready(Some(Err(UploadError::Silent)))
            }
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Streamed(streamed) => streamed.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streamed(streamed) => streamed.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streamed(streamed) => streamed.inner.size_hint(),
        }
    }
}
