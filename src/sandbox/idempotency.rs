//! Idempotency keys: for 24 hours the same key gets the same answer.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use http::{Method, StatusCode};

use super::answer::Answer;
use super::errors::{ApiError, Kind, Stage};
use super::form::Form;

/// Keys held; beyond that the oldest are forgotten before their 24 hours are over.
const MAX_KEYS: usize = 250_000;
const MAX_KEY_CHARS: usize = 255;
const WINDOW_MS: i64 = 24 * 3_600 * 1_000;

/// What a key was first used for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint {
    endpoint: String,
    params: u64,
}

impl Fingerprint {
    pub(super) fn of(method: &Method, path: &str, form: &Form) -> Self {
        let mut hasher = DefaultHasher::new();
        form.hash(&mut hasher);
        Self { endpoint: format!("{method} {path}"), params: hasher.finish() }
    }
}

/// The keys in use.
#[derive(Debug, Default)]
pub(super) struct Keys {
    entries: HashMap<String, Entry>,
    /// Keys with an answer, in the order of their answers (milliseconds).
    order: VecDeque<(i64, String)>,
}

#[derive(Debug)]
struct Entry {
    first: Fingerprint,
    answer: Option<Answer>,
}

/// What a key says about a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// Nobody used it: the call goes on, and must end with [`Keys::settle`].
    Fresh,
    /// It was answered before.
    Replay(Answer),
}

impl Keys {
    /// Asks for a key.
    ///
    /// # Errors
    /// 400 for a key that is too long or was used for something else, 409 while the first call is still going on.
    pub(super) fn claim(&mut self, key: &str, first: Fingerprint, now_ms: i64) -> Result<Claim, ApiError> {
        self.forget_old(now_ms);
        if key.chars().count() > MAX_KEY_CHARS {
            let message = format!("Idempotency keys can be at most {MAX_KEY_CHARS} characters long.");
            return Err(ApiError::invalid(message));
        }
        let Some(entry) = self.entries.get(key) else {
            self.entries.insert(key.to_owned(), Entry { first, answer: None });
            return Ok(Claim::Fresh);
        };
        check_same(&entry.first, &first, key)?;
        match &entry.answer {
            Some(answer) => Ok(Claim::Replay(answer.clone().with("idempotent-replayed", "true"))),
            None => Err(in_use(key)),
        }
    }

    /// Ends a fresh claim: an answer given once execution began is kept, any other sets the key free.
    pub(super) fn settle(&mut self, key: &str, answer: &Answer, now_ms: i64) {
        match (answer.stage, self.entries.get_mut(key)) {
            (Stage::Executed, Some(entry)) => {
                entry.answer = Some(answer.clone());
                self.order.push_back((now_ms, key.to_owned()));
            }
            (Stage::Refused, _) | (Stage::Executed, None) => {
                self.entries.remove(key);
            }
        }
    }

    fn forget_old(&mut self, now_ms: i64) {
        while let Some((at_ms, _)) = self.order.front()
            && (now_ms.saturating_sub(*at_ms) >= WINDOW_MS || self.order.len() >= MAX_KEYS)
        {
            if let Some((_, key)) = self.order.pop_front() {
                self.entries.remove(&key);
            }
        }
    }
}

fn check_same(first: &Fingerprint, now: &Fingerprint, key: &str) -> Result<(), ApiError> {
    let what = if first.endpoint != now.endpoint {
        format!("for the same endpoint they were first used for ('{}')", first.endpoint)
    } else if first.params != now.params {
        "with the same parameters they were first used with".to_owned()
    } else {
        return Ok(());
    };
    let message = format!(
        "Keys for idempotent requests can only be used {what}. Try using a key other than '{key}' if you meant to \
         execute a different request."
    );
    Err(ApiError::new(StatusCode::BAD_REQUEST, Kind::Idempotency, message))
}

fn in_use(key: &str) -> ApiError {
    let message = format!(
        "There is currently another in-progress request using this Idempotent Key (that probably means you submitted \
         twice, and the other request is still going through): {key}. Please try again later."
    );
    ApiError::new(StatusCode::CONFLICT, Kind::Idempotency, message).code("idempotency_key_in_use")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::form;
    use serde_json::json;

    fn print(path: &str, body: &str) -> Fingerprint {
        Fingerprint::of(&Method::POST, path, &form::parse(body).unwrap())
    }

    fn done() -> Answer {
        Answer::from(Ok(json!({ "id": "cus_1" })))
    }

    #[test]
    fn the_first_answer_is_given_again_for_a_day_whatever_the_order_of_the_parameters() {
        let mut keys = Keys::default();
        assert_eq!(keys.claim("k", print("/v1/customers", "a=1&b=2"), 0), Ok(Claim::Fresh));
        keys.settle("k", &done(), 0);
        let Ok(Claim::Replay(answer)) = keys.claim("k", print("/v1/customers", "b=2&a=1"), WINDOW_MS - 1) else {
            panic!("no replay");
        };
        assert_eq!(answer.body, done().body);
        assert_eq!(answer.headers, [("idempotent-replayed", "true".to_owned())]);
        assert_eq!(keys.claim("k", print("/v1/customers", "a=1&b=2"), WINDOW_MS), Ok(Claim::Fresh));
    }

    #[test]
    fn a_key_belongs_to_one_request() {
        let mut keys = Keys::default();
        keys.claim("k", print("/v1/customers", "a=1"), 0).unwrap();
        assert_eq!(keys.claim("k", print("/v1/customers", "a=1"), 0).unwrap_err().status, 409);
        keys.settle("k", &done(), 0);
        for other in [print("/v1/customers", "a=2"), print("/v1/products", "a=1")] {
            let error = keys.claim("k", other, 0).unwrap_err();
            assert_eq!((error.status.as_u16(), error.kind), (400, Kind::Idempotency));
        }
        assert!(keys.claim(&"k".repeat(256), print("/v1/customers", ""), 0).is_err());
    }

    #[test]
    fn a_refusal_before_execution_sets_the_key_free_and_a_failure_during_it_does_not() {
        let mut keys = Keys::default();
        keys.claim("k", print("/v1/customers", "a=1"), 0).unwrap();
        keys.settle("k", &Answer::from(ApiError::missing("b")), 0);
        assert_eq!(keys.claim("k", print("/v1/customers", "a=2"), 0), Ok(Claim::Fresh));
        let failure = ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, Kind::Api, "oops").executed();
        keys.settle("k", &Answer::from(failure), 0);
        let Ok(Claim::Replay(answer)) = keys.claim("k", print("/v1/customers", "a=2"), 1) else { panic!("no replay") };
        assert_eq!(answer.status, 500);
    }
}
