//! The body of an answer, and the name of a request.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};

use super::X_REQUEST_ID;
use crate::meter::Metered;
use crate::meter::body::BodyError;

/// What is sent back.
pub enum Reply {
    /// Ours, whole; or nothing.
    Full(Option<Bytes>),
    /// The origin's, streamed and counted.
    Metered(Box<Metered>),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Metered(metered) => Pin::new(&mut **metered).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            Self::Metered(metered) => metered.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => {
                let length = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
            Self::Metered(metered) => metered.size_hint(),
        }
    }
}

/// Makes ids for requests that come without one: 24 hexadecimal digits, random start per worker, counted up.
pub struct RequestIds {
    next: Cell<u128>,
}

/// A client's own id is kept if it is at most so long.
const ID_AT_MOST: usize = 128;

impl RequestIds {
    /// Begins at a random number.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new() -> Result<Self, getrandom::Error> {
        let mut seed = [0; 16];
        getrandom::fill(&mut seed)?;
        Ok(Self { next: Cell::new(u128::from_be_bytes(seed)) })
    }

    /// The request's own id, or a new one.
    pub fn of(&self, headers: &HeaderMap) -> HeaderValue {
        match headers.get(&X_REQUEST_ID) {
            Some(id) if !id.is_empty() && id.len() <= ID_AT_MOST && id.to_str().is_ok() => id.clone(),
            Some(_) | None => self.fresh(),
        }
    }

    fn fresh(&self) -> HeaderValue {
        let id = self.next.get().wrapping_add(1);
        self.next.set(id);
        let mut digits = [0; 24];
        hex::encode_to_slice(&id.to_be_bytes()[4..], &mut digits).expect("12 bytes are 24 digits");
        HeaderValue::from_bytes(&digits).expect("hexadecimal digits are visible ASCII")
    }
}
