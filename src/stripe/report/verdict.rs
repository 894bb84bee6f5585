//! What an attempt to send a report means for it. Pure.

use std::time::Duration;

use crate::records;
use crate::stripe::attempt::{Advice, Answer, Attempt, Refused};
use crate::stripe::wire::MeterEvent;

/// Wait after Stripe said that asking again will not help, or that we may not ask: a person has to do something.
const SLOW: Duration = Duration::from_secs(5 * 60);

/// What an attempt means for its report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Stripe has it.
    Delivered,
    /// Stripe will never take it as it is: a dead letter, for a person.
    Rejected(String),
    /// No definite answer: the same again, after at least so long.
    Again(String, Duration),
    /// The same again under a fresh idempotency key, since Stripe would replay what it said to this one.
    AgainFresh(String, Duration),
    /// Stripe does not let us in at all. That says nothing about the report, which stays; a person has to see to the
    /// key. (Rejecting would make dead letters of all customers' reports at once.)
    NoAccess(String),
}

/// Longest that Stripe is left alone on its own word, so that no report grows late by it.
const LONGEST: Duration = Duration::from_secs(3600);

/// Judges an attempt to send the report with this identifier.
pub fn judge(attempt: &Attempt, identifier: &str) -> Verdict {
    match attempt {
        Attempt::Answer(answer) => receipt(answer, identifier),
        Attempt::Refused(refused) => refusal(refused, identifier),
        Attempt::NotSent(why) => Verdict::Again(format!("not sent: {why}"), Duration::ZERO),
        Attempt::Unknown(why) => Verdict::Again(why.clone(), Duration::ZERO),
    }
}

/// Only a receipt for this very event counts: another server's 200 must not make units vanish. If it was Stripe's
/// after all, the next attempt is told that the event exists.
fn receipt(answer: &Answer, identifier: &str) -> Verdict {
    match serde_json::from_slice::<MeterEvent>(&answer.body) {
        Ok(event) if event.identifier == identifier => Verdict::Delivered,
        Ok(event) => Verdict::Again(format!("the receipt is for {:?}", event.identifier), SLOW),
        Err(error) => Verdict::Again(format!("the receipt cannot be read: {error}"), SLOW),
    }
}

fn refusal(refused: &Refused, identifier: &str) -> Verdict {
    let why = refused.to_string();
    let wait = refused.head.retry_after.unwrap_or_default().min(LONGEST).max(match refused.head.should_retry {
        Some(Advice::Final) => SLOW,
        Some(Advice::Retry) | None => Duration::ZERO,
    });
    match refused.status {
        _ if refused.is_duplicate_of(identifier) => Verdict::Delivered,
        _ if refused.is_key_conflict() => Verdict::AgainFresh(why, wait.min(SLOW)),
        500.. => Verdict::AgainFresh(why, wait),
        409 | 429 => Verdict::Again(why, wait),
        401 | 403 => Verdict::NoAccess(why),
        _ if refused.head.should_retry == Some(Advice::Retry) => Verdict::Again(why, wait),
        _ => Verdict::Rejected(why),
    }
}

impl Verdict {
    /// What the records are told.
    pub fn answer(&self) -> records::Answer {
        match self {
            Self::Delivered => records::Answer::Delivered,
            Self::Rejected(why) => records::Answer::Rejected(why.clone()),
            Self::AgainFresh(why, _) => records::Answer::UnknownAfter5xx(why.clone()),
            Self::Again(why, _) | Self::NoAccess(why) => records::Answer::Unknown(why.clone()),
        }
    }

    /// The metric's label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Rejected(_) => "rejected",
            Self::Again(..) | Self::AgainFresh(..) => "unknown",
            Self::NoAccess(_) => "no_access",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stripe::attempt::Head;

    const ZERO: Duration = Duration::ZERO;

    fn refused(status: u16, kind: &str, message: &str, head: Head) -> Attempt {
        let (kind, message) = (kind.to_owned(), message.to_owned());
        Attempt::Refused(Box::new(Refused { status, kind, code: None, message, param: None, head }))
    }

    fn plain(status: u16) -> Attempt {
        refused(status, "invalid_request_error", "no", Head::default())
    }

    fn advised(status: u16, advice: Advice) -> Attempt {
        refused(status, "api_error", "no", Head { should_retry: Some(advice), ..Head::default() })
    }

    fn answered(body: &'static str) -> Attempt {
        Attempt::Answer(Answer { body: body.into(), head: Head::default() })
    }

    #[derive(Debug, PartialEq, Eq)]
    enum Kind {
        Delivered,
        Rejected,
        Again(Duration),
        Fresh(Duration),
        NoAccess,
    }

    fn kind(verdict: &Verdict) -> Kind {
        match *verdict {
            Verdict::Delivered => Kind::Delivered,
            Verdict::Rejected(_) => Kind::Rejected,
            Verdict::Again(_, wait) => Kind::Again(wait),
            Verdict::AgainFresh(_, wait) => Kind::Fresh(wait),
            Verdict::NoAccess(_) => Kind::NoAccess,
        }
    }

    #[test]
    fn verdicts() {
        let duplicate = "An event already exists with identifier id-1.";
        let other = "An event already exists with identifier id-2.";
        let later = Head { retry_after: Some(Duration::from_secs(7)), ..Head::default() };
        let much_later = Head { retry_after: Some(Duration::from_secs(99_999)), ..Head::default() };
        let known = Head { should_retry: Some(Advice::Final), ..Head::default() };
        let table = [
            (answered(r#"{"object":"billing.meter_event","identifier":"id-1"}"#), Kind::Delivered),
            (answered(r#"{"object":"billing.meter_event","identifier":"id-2"}"#), Kind::Again(SLOW)),
            (answered("<html>welcome</html>"), Kind::Again(SLOW)),
            (refused(400, "invalid_request_error", duplicate, known), Kind::Delivered),
            (refused(400, "invalid_request_error", other, Head::default()), Kind::Rejected),
            (refused(400, "idempotency_error", "keys", Head::default()), Kind::Fresh(ZERO)),
            (plain(400), Kind::Rejected),
            (plain(402), Kind::Rejected),
            (plain(404), Kind::Rejected),
            (plain(422), Kind::Rejected),
            (plain(401), Kind::NoAccess),
            (plain(403), Kind::NoAccess),
            (plain(409), Kind::Again(ZERO)),
            (plain(429), Kind::Again(ZERO)),
            (refused(429, "", "", later), Kind::Again(Duration::from_secs(7))),
            (refused(429, "", "", much_later), Kind::Again(LONGEST)),
            (plain(500), Kind::Fresh(ZERO)),
            (plain(503), Kind::Fresh(ZERO)),
            (advised(500, Advice::Final), Kind::Fresh(SLOW)),
            (advised(429, Advice::Final), Kind::Again(SLOW)),
            (advised(400, Advice::Retry), Kind::Again(ZERO)),
            (advised(400, Advice::Final), Kind::Rejected),
            (Attempt::NotSent("refused".into()), Kind::Again(ZERO)),
            (Attempt::Unknown("reset".into()), Kind::Again(ZERO)),
        ];
        for (attempt, want) in table {
            assert_eq!(kind(&judge(&attempt, "id-1")), want, "{attempt:?}");
        }
    }

    #[test]
    fn only_a_received_5xx_or_a_key_conflict_asks_for_a_fresh_key() {
        let fresh = |attempt: &Attempt| matches!(judge(attempt, "id-1").answer(), records::Answer::UnknownAfter5xx(_));
        assert!(fresh(&plain(502)));
        assert!(fresh(&refused(400, "idempotency_error", "keys", Head::default())));
        assert!(!fresh(&Attempt::Unknown("reset".into())));
        assert!(!fresh(&plain(429)));
    }
}
