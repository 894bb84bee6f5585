//! The response body that counts: it closes its exchange before it hands on the last byte.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::Exchange;
use crate::journal::{LocalWriter, Sync};
use crate::upstream::Lease;

/// Why a response body ends early. The connection to the client is then closed without a proper end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The origin's response broke off.
    #[error("the origin's response broke off: {0}")]
    Origin(#[from] hyper::Error),
    /// The origin sent nothing for too long.
    #[error("the origin fell silent in the middle of its response")]
    Silent,
    /// The whole exchange took longer than `timeouts.total`.
    #[error("the exchange took too long")]
    TooLong,
    /// With `journal.sync: strict`, the record did not reach the disk: the last byte is not handed on.
    #[error(transparent)]
    NotDurable(#[from] NotDurable),
}

/// A record did not reach the disk itself in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record of this exchange could not be synced")]
pub struct NotDurable;

/// A disk that has not synced within this time is failing.
const SYNC_DEADLINE: Duration = Duration::from_secs(10);

/// The wait for a record's way to the disk.
type Syncing = LocalBoxFuture<'static, Result<(), NotDurable>>;

/// How long an origin may take for its response.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Longest silence within the body.
    pub idle: Option<Duration>,
    /// The end of the whole exchange.
    pub until: Option<Instant>,
}

impl Limits {
    /// For an exchange that begins now and may take `total` in all.
    #[must_use]
    pub fn from_now(idle: Option<Duration>, total: Option<Duration>) -> Self {
        Self { idle, until: total.map(|total| Instant::now() + total) }
    }
}

/// How the end of a metered body waits for the disk.
pub struct Durability {
    writer: Rc<LocalWriter>,
    sync: Sync,
}

impl Durability {
    /// For this worker's journal.
    #[must_use]
    pub fn new(writer: Rc<LocalWriter>, sync: Sync) -> Self {
        Self { writer, sync }
    }

    /// With `journal.sync: strict` a future that ends when the record is on the disk; else nothing to wait for.
    #[must_use]
    pub fn wait(&self, seq: u64) -> Option<Syncing> {
        match self.sync {
            Sync::Every(_) => None,
            Sync::Strict => {
                let durable = tokio::time::timeout(SYNC_DEADLINE, self.writer.durable(seq));
                Some(Box::pin(async move {
                    match durable.await {
                        Ok(Ok(())) => Ok(()),
                        Ok(Err(_)) | Err(_) => Err(NotDurable),
                    }
                }))
            }
        }
    }
}

/// A response body from an origin, with the exchange that pays for it and the connection it came over.
pub struct Metered {
    inner: Incoming,
    exchange: Option<Exchange>,
    lease: Option<Lease>,
    durability: Rc<Durability>,
    /// The last frame, held back until its record is on the disk (`strict` only).
    held: Option<(Syncing, Option<Frame<Bytes>>)>,
    /// Longest silence; its timer exists only while the origin is silent.
    idle: Option<Duration>,
    silence: Option<Pin<Box<Sleep>>>,
    /// The end of the whole exchange.
    end: Option<Pin<Box<Sleep>>>,
    done: bool,
}

impl Metered {
    /// Wraps `inner`; `exchange` is `None` for routes that are not metered.
    #[must_use]
    pub fn new(
        inner: Incoming,
        exchange: Option<Exchange>,
        lease: Option<Lease>,
        limits: Limits,
        durability: Rc<Durability>,
    ) -> Self {
        let end = limits.until.map(|until| Box::pin(tokio::time::sleep_until(until)));
        Self { inner, exchange, lease, durability, held: None, idle: limits.idle, silence: None, end, done: false }
    }

    /// Ends the exchange of a response without a body, before its head goes out.
    ///
    /// # Errors
    /// [`NotDurable`]: the head may not go out.
    pub async fn finish_empty(mut self) -> Result<(), NotDurable> {
        match self.finish() {
            Some(wait) => wait.await,
            None => Ok(()),
        }
    }

    /// Whether there is nothing to come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inner.is_end_stream()
    }

    /// The response is whole: its record is written, the connection goes back to its pool.
    fn finish(&mut self) -> Option<Syncing> {
        self.done = true;
        self.silence = None;
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
        let seq = self.exchange.take()?.complete();
        self.durability.wait(seq)
    }

    fn broke_off(&mut self) {
        self.done = true;
        self.lease = None;
        if let Some(exchange) = self.exchange.take() {
            exchange.origin_broke_off();
        }
    }

    fn end_with(
        &mut self,
        frame: Option<Frame<Bytes>>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.finish() {
            None => Poll::Ready(frame.map(Ok)),
            Some(wait) => {
                self.held = Some((wait, frame));
                self.poll_held(cx)
            }
        }
    }

    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some((wait, frame)) = &mut self.held {
            let synced = ready!(wait.as_mut().poll(cx));
            let frame = frame.take();
            self.held = None;
            return Poll::Ready(match synced {
                Ok(()) => frame.map(Ok),
                Err(error) => Some(Err(error.into())),
            });
        }
        Poll::Ready(None)
    }

    /// Fails once the whole exchange has taken too long, also while bytes are flowing.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(end) = &mut self.end else { return Poll::Pending };
        ready!(end.as_mut().poll(cx));
        self.broke_off();
        Poll::Ready(Some(Err(BodyError::TooLong)))
    }

    /// Pending from the origin: fails once it was silent for too long.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(idle) = self.idle else { return Poll::Pending };
        let silence = self.silence.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
        ready!(silence.as_mut().poll(cx));
        self.broke_off();
        Poll::Ready(Some(Err(BodyError::Silent)))
    }
}

impl Body for Metered {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if this.done {
            return this.poll_held(cx);
        }
        if let Poll::Ready(cut) = this.poll_end(cx) {
            return Poll::Ready(cut);
        }
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Pending => this.poll_silence(cx),
            Poll::Ready(Some(Ok(frame))) if this.inner.is_end_stream() => this.end_with(Some(frame), cx),
            Poll::Ready(Some(Ok(frame))) => {
                this.silence = None;
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.broke_off();
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => this.end_with(None, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.done && self.held.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
