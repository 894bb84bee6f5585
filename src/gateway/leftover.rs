//! What a client still sends of a request that was refused.
//!
//! An answer in the middle of an upload must not cost the client its answer (RFC 9112, section 9.6): a small body is
//! read and dropped, so that the connection serves on; for others the answer says `Connection: close`, and the
//! connection's end waits for the client (`serve::stream`).

use std::time::Duration;

use http::header::EXPECT;
use http::request::Parts;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::timeout;

/// Bodies up to so many bytes are read and dropped: a round trip's worth, cheaper than a new connection.
const SMALL: u64 = 64 * 1024;
/// A small body gets so long to arrive; it usually has by now.
const PATIENCE: Duration = Duration::from_secs(1);

/// How a request's body would leave the connection if nobody reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// There is none.
    Nothing,
    /// Worth reading.
    Small,
    /// Long, of unknown length, or held back until we ask for it (`Expect: 100-continue`).
    Unwanted,
}

impl Leftover {
    /// Of a request whose body has not been touched.
    #[must_use]
    pub fn of(parts: &Parts, body: &Incoming) -> Self {
        if body.is_end_stream() {
            return Self::Nothing;
        }
        let is_small = body.size_hint().exact().is_some_and(|length| length <= SMALL);
        if is_small && !parts.headers.contains_key(EXPECT) { Self::Small } else { Self::Unwanted }
    }

    /// Whether the connection may serve another request. `body` is `None` if it went to an origin, which may have
    /// left any part of it unread.
    pub async fn settle(self, body: Option<Incoming>) -> bool {
        match (self, body) {
            (Self::Nothing, _) => true,
            (Self::Small, Some(body)) => timeout(PATIENCE, read(body)).await.unwrap_or(false),
            (Self::Small | Self::Unwanted, _) => false,
        }
    }
}

/// Reads and drops; whether the end came. As long as its `Content-Length`, which hyper enforces.
async fn read(mut body: Incoming) -> bool {
    while let Some(frame) = body.frame().await {
        if frame.is_err() {
            return false;
        }
    }
    true
}
