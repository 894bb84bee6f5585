//! What became of one attempt: answered, refused, not sent, or unknown. Pure.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::wire;

/// What became of one request that was tried once.
#[derive(Clone, Debug)]
pub enum Attempt {
    /// 2xx with its whole body.
    Answer(Answer),
    /// Stripe answered, and not with 2xx. Below 500 nothing happened; from 500 on it may have.
    Refused(Box<Refused>),
    /// Nothing left this process: no connection came about, or asking was not allowed now.
    NotSent(String),
    /// It may have happened: sent, and no answer that can be relied on.
    Unknown(String),
}

/// A 2xx answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// JSON.
    pub body: Bytes,
    /// What the headers said.
    pub head: Head,
}

/// An error answer. `Display` is fit for a log: Stripe's messages hold no secret beyond the ids of its objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// HTTP status.
    pub status: u16,
    /// `error.type`, such as `invalid_request_error`; empty if a 5xx had no readable body.
    pub kind: String,
    /// `error.code`, where there is one.
    pub code: Option<String>,
    /// `error.message`, for people.
    pub message: String,
    /// `error.param`: the field at fault.
    pub param: Option<String>,
    /// What the headers said.
    pub head: Head,
}

impl Refused {
    /// The answer to a repeated meter event identifier: the event is there, so this is a success.
    ///
    /// Stripe gives it no code; the wording is all there is to go by. The identifier must be the one that was sent.
    pub fn is_duplicate_of(&self, identifier: &str) -> bool {
        self.status == 400
            && self.message.contains("already exists with identifier")
            && self.message.contains(identifier)
    }

    /// The idempotency key was used before with another body; says nothing about the request itself.
    pub fn is_key_conflict(&self) -> bool {
        self.status == 400 && self.kind == "idempotency_error"
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.status, self.kind)?;
        if let Some(code) = &self.code {
            write!(f, " ({code})")?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(id) = &self.head.request_id {
            write!(f, " [{id}]")?;
        }
        Ok(())
    }
}

/// The response headers that steer what is done next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// `Request-Id`, what Stripe's support asks for.
    pub request_id: Option<String>,
    /// `Stripe-Should-Retry`: overrules what the status suggests.
    pub should_retry: Option<Advice>,
    /// `Retry-After`, in whole seconds.
    pub retry_after: Option<Duration>,
    /// `Idempotent-Replayed: true`: the stored answer to an earlier request with this key.
    pub replayed: bool,
    /// `Stripe-Rate-Limited-Reason`: which limit a 429 hit; absent with `lock_timeout`.
    pub limited: Option<String>,
}

/// Stripe's own word on asking again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// The same request may succeed later.
    Retry,
    /// It will not.
    Final,
}

impl Head {
    /// Reads the headers; what cannot be read counts as absent.
    pub fn read(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim);
        Self {
            request_id: text("request-id").map(str::to_owned),
            should_retry: text("stripe-should-retry").and_then(advice),
            retry_after: text("retry-after").and_then(|v| v.parse().ok()).map(Duration::from_secs),
            replayed: text("idempotent-replayed") == Some("true"),
            limited: text("stripe-rate-limited-reason").map(str::to_owned),
        }
    }
}

fn advice(value: &str) -> Option<Advice> {
    match value {
        "true" => Some(Advice::Retry),
        "false" => Some(Advice::Final),
        _ => None,
    }
}

/// Sorts a received response into an [`Attempt`]. `body` is an `Err` when it broke off.
pub fn classify(status: StatusCode, headers: &HeaderMap, body: Result<Bytes, String>) -> Attempt {
    let head = Head::read(headers);
    match body {
        Ok(body) if status.is_success() => Attempt::Answer(Answer { body, head }),
        Ok(body) => refusal(status, head, &body),
        // The status of a 5xx says all that matters: execution began, and a replay would bring the same.
        Err(why) if status.is_server_error() => Attempt::Refused(Box::new(bare(status, head, why))),
        Err(why) => Attempt::Unknown(format!("answer {status} broke off: {why}")),
    }
}

fn refusal(status: StatusCode, head: Head, body: &[u8]) -> Attempt {
    match serde_json::from_slice::<wire::ErrorEnvelope>(body) {
        Ok(wire::ErrorEnvelope { error }) => Attempt::Refused(Box::new(Refused {
            status: status.as_u16(),
            kind: error.kind,
            code: error.code,
            message: error.message.unwrap_or_default(),
            param: error.param,
            head,
        })),
        // 429 and 5xx may come from the edge before Stripe's API, and mean the same.
        Err(_) if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            Attempt::Refused(Box::new(bare(status, head, "no readable error in the body".to_owned())))
        }
        // Anything else without Stripe's envelope comes from something in between, which cannot refuse for Stripe.
        Err(_) => Attempt::Unknown(format!("answer {status} is not Stripe's: no error envelope in the body")),
    }
}

fn bare(status: StatusCode, head: Head, message: String) -> Refused {
    Refused { status: status.as_u16(), kind: String::new(), code: None, message, param: None, head }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classified(status: u16, headers: &[(&'static str, &str)], body: Result<&str, &str>) -> Attempt {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        let body = body.map(|b| Bytes::copy_from_slice(b.as_bytes())).map_err(str::to_owned);
        classify(StatusCode::from_u16(status).unwrap(), &map, body)
    }

    fn refused(attempt: Attempt) -> Refused {
        let Attempt::Refused(refused) = attempt else { panic!("not refused: {attempt:?}") };
        *refused
    }

    #[test]
    fn only_stripes_envelope_refuses_below_500() {
        let html = classified(403, &[], Ok("<html>corporate proxy</html>"));
        assert!(matches!(html, Attempt::Unknown(_)), "{html:?}");
        let own = refused(classified(403, &[], Ok(r#"{"error":{"type":"invalid_request_error","message":"no"}}"#)));
        assert_eq!((own.status, own.kind.as_str(), own.message.as_str()), (403, "invalid_request_error", "no"));
        let moved = classified(302, &[], Ok(""));
        assert!(matches!(moved, Attempt::Unknown(_)), "{moved:?}");
    }

    #[test]
    fn a_received_5xx_is_a_5xx_whatever_its_body() {
        for body in [Ok(""), Ok("bad gateway"), Err("reset"), Ok(r#"{"error":{"type":"api_error"}}"#)] {
            assert_eq!(refused(classified(502, &[], body)).status, 502);
        }
    }

    #[test]
    fn a_broken_off_answer_below_500_is_unknown() {
        for status in [200, 400, 429] {
            assert!(matches!(classified(status, &[], Err("reset")), Attempt::Unknown(_)), "{status}");
        }
    }

    #[test]
    fn headers_are_kept() {
        let headers = [
            ("request-id", "req_1"),
            ("stripe-should-retry", "false"),
            ("retry-after", "7"),
            ("stripe-rate-limited-reason", "endpoint-rate"),
        ];
        let head = refused(classified(429, &headers, Ok(""))).head;
        assert_eq!(
            head,
            Head {
                request_id: Some("req_1".into()),
                should_retry: Some(Advice::Final),
                retry_after: Some(Duration::from_secs(7)),
                replayed: false,
                limited: Some("endpoint-rate".into()),
            }
        );
        let Attempt::Answer(answer) = classified(200, &[("idempotent-replayed", "true")], Ok("{}")) else { panic!() };
        assert!(answer.head.replayed);
    }

    #[test]
    fn a_duplicate_is_recognised_by_its_own_identifier_only() {
        let body =
            r#"{"error":{"type":"invalid_request_error","message":"An event already exists with identifier abc."}}"#;
        let answer = refused(classified(400, &[], Ok(body)));
        assert!(answer.is_duplicate_of("abc"));
        assert!(!answer.is_duplicate_of("abd"));
        assert!(!refused(classified(500, &[], Ok(body))).is_duplicate_of("abc"));
    }

    #[test]
    fn shown_with_request_id_and_code() {
        let body = r#"{"error":{"type":"card_error","code":"card_declined","message":"Declined."}}"#;
        let shown = refused(classified(402, &[("request-id", "req_9")], Ok(body))).to_string();
        assert_eq!(shown, "402 card_error (card_declined): Declined. [req_9]");
    }
}
