//! Stripe's error envelope, and the errors that more than one resource answers with.

use http::StatusCode;
use serde_json::{Value, json};

/// Whether execution had begun: only then does an idempotency key remember the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Refused while looking at the request; the same key may be used again.
    Refused,
    /// Refused, or failed, by the operation itself.
    Executed,
}

/// The `type` of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Api,
    Card,
    Idempotency,
    InvalidRequest,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Api => "api_error",
            Self::Card => "card_error",
            Self::Idempotency => "idempotency_error",
            Self::InvalidRequest => "invalid_request_error",
        }
    }
}

/// One refusal or failure, as Stripe words it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) kind: Kind,
    pub(super) code: Option<&'static str>,
    /// The bank's reason, with a 402.
    pub(super) decline_code: Option<&'static str>,
    pub(super) message: String,
    pub(super) param: Option<String>,
    pub(super) stage: Stage,
    /// `Stripe-Should-Retry`, where Stripe sends it.
    pub(super) should_retry: Option<bool>,
    /// `Stripe-Rate-Limited-Reason`.
    pub(super) limited_by: Option<String>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, kind: Kind, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            code: None,
            decline_code: None,
            message: message.into(),
            param: None,
            stage: Stage::Refused,
            should_retry: None,
            limited_by: None,
        }
    }

    /// 400: the request is wrong.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Kind::InvalidRequest, message)
    }

    /// 402: the card is wrong, or the bank refuses it.
    pub(super) fn card(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYMENT_REQUIRED, Kind::Card, message).executed()
    }

    /// A required parameter is not there.
    pub(super) fn missing(param: &str) -> Self {
        Self::invalid(format!("Missing required param: {param}.")).code("parameter_missing").param(param)
    }

    /// Parameters nobody asked for; the first one is named as `param`.
    pub(super) fn unknown(params: &[String]) -> Self {
        let noun = if params.len() == 1 { "parameter" } else { "parameters" };
        let error = Self::invalid(format!("Received unknown {noun}: {}", params.join(", "))).code("parameter_unknown");
        match params.first() {
            Some(first) => error.param(first),
            None => error,
        }
    }

    /// The object a path names does not exist.
    pub(super) fn no_such(noun: &str, id: &str, param: &str) -> Self {
        let mut error = Self::no_such_reference(noun, id, param);
        error.status = StatusCode::NOT_FOUND;
        error
    }

    /// The object a parameter names does not exist.
    pub(super) fn no_such_reference(noun: &str, id: &str, param: &str) -> Self {
        Self::invalid(format!("No such {noun}: '{id}'")).code("resource_missing").param(param).executed()
    }

    /// The stand-in's own bound is reached: an answer given early, before anything happened.
    pub(super) fn full(what: &str, limit: usize) -> Self {
        let message = format!("The sandbox holds at most {limit} {what}. Restart it to begin anew.");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Kind::Api, message)
    }

    /// 429 from a limiter, which says which one it was.
    pub(super) fn rate_limited(reason: &str) -> Self {
        let message = "Request rate limit exceeded. Learn more about rate limits: https://docs.stripe.com/rate-limits.";
        let mut error = Self::new(StatusCode::TOO_MANY_REQUESTS, Kind::InvalidRequest, message).code("rate_limit");
        error.limited_by = Some(reason.to_owned());
        error
    }

    /// 429 because two calls wanted the same object; Stripe sends no reason header with it.
    pub(super) fn lock_timeout() -> Self {
        let message = "This object cannot be accessed right now because another API request or Stripe process is \
                       currently accessing it. If you see this error intermittently, retry the request.";
        Self::new(StatusCode::TOO_MANY_REQUESTS, Kind::InvalidRequest, message).code("lock_timeout")
    }

    pub(super) fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    pub(super) fn param(mut self, param: &str) -> Self {
        self.param = Some(param.to_owned());
        self
    }

    pub(super) fn executed(mut self) -> Self {
        self.stage = Stage::Executed;
        self
    }

    pub(super) fn should_retry(mut self, should: Option<bool>) -> Self {
        self.should_retry = should;
        self
    }

    /// `{"error": {…}}`, absent fields left out.
    pub(super) fn body(&self) -> Value {
        let mut error = json!({ "type": self.kind.name(), "message": self.message });
        if let Some(code) = self.code {
            error["code"] = code.into();
            error["doc_url"] = format!("https://stripe.com/docs/error-codes/{}", code.replace('_', "-")).into();
        }
        if let Some(code) = self.decline_code {
            error["decline_code"] = code.into();
        }
        if let Some(param) = &self.param {
            error["param"] = param.as_str().into();
        }
        json!({ "error": error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_envelope_leaves_out_what_is_absent() {
        let body = ApiError::invalid("Nope").body();
        assert_eq!(body, json!({ "error": { "type": "invalid_request_error", "message": "Nope" } }));
    }

    #[test]
    fn a_code_brings_its_page() {
        let body = ApiError::missing("name").body();
        assert_eq!(body["error"]["code"], "parameter_missing");
        assert_eq!(body["error"]["param"], "name");
        assert_eq!(body["error"]["doc_url"], "https://stripe.com/docs/error-codes/parameter-missing");
    }
}
