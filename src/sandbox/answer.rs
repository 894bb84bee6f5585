//! A call as it came in, and what goes back.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::Value;

use super::errors::{ApiError, Stage};

/// A request to `/v1/…`, read completely.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) method: Method,
    /// Path and, after `?`, query, undecoded.
    pub(super) target: String,
    pub(super) authorization: Option<String>,
    pub(super) idempotency_key: Option<String>,
    pub(super) stripe_version: Option<String>,
    pub(super) content_type: Option<String>,
    pub(super) body: Bytes,
}

impl Request {
    /// The path alone, undecoded.
    pub(super) fn path(&self) -> &str {
        self.target.split_once('?').map_or(self.target.as_str(), |(path, _)| path)
    }

    /// The query alone, undecoded; empty if there is none.
    pub(super) fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }
}

/// What goes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
    /// Headers besides the ones that every answer has.
    pub(super) headers: Vec<(&'static str, String)>,
    /// Whether an idempotency key remembers it.
    pub(super) stage: Stage,
}

impl Answer {
    fn new(status: StatusCode, body: &Value, stage: Stage) -> Self {
        Self { status, body: Bytes::from(body.to_string()), headers: Vec::new(), stage }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl From<Result<Value, ApiError>> for Answer {
    fn from(result: Result<Value, ApiError>) -> Self {
        match result {
            Ok(body) => Self::new(StatusCode::OK, &body, Stage::Executed),
            Err(error) => Self::from(error),
        }
    }
}

impl From<ApiError> for Answer {
    fn from(error: ApiError) -> Self {
        let mut answer = Self::new(error.status, &error.body(), error.stage);
        if let Some(should) = error.should_retry {
            answer = answer.with("stripe-should-retry", should.to_string());
        }
        if error.status == StatusCode::UNAUTHORIZED {
            answer = answer.with("www-authenticate", "Basic realm=\"Stripe\"");
        }
        match error.limited_by {
            Some(reason) => answer.with("stripe-rate-limited-reason", reason),
            None => answer,
        }
    }
}

/// How a call ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Answer(Answer),
    /// The connection is closed without a byte.
    Hangup,
}
