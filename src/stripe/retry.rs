//! Whether, when and under which idempotency key to ask again. Pure; randomness and time are arguments.
//!
//! The rule (Stripe, "Low-level error handling"): connection errors, 409, 429 and 5xx may be asked again, unless
//! `Stripe-Should-Retry` says otherwise. An answer given once execution began, 500 included, is replayed to the same
//! key for a day, so a received 5xx wants a fresh key; a lost answer wants the same one.

use std::time::Duration;

use super::attempt::{Advice, Answer, Attempt, Refused};
use super::transport::CallError;

/// First step of the back-off.
const BASE: Duration = Duration::from_millis(500);
/// Longest step of the back-off inside one call.
const CALL_CAP: Duration = Duration::from_secs(8);
/// Attempts in one call.
const CALL_TRIES: u32 = 6;

/// An idempotency key: a name that stays, and how often it had to be made fresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    name: String,
    fresh: u32,
}

impl IdempotencyKey {
    /// A key with a meaning: the same call after a restart has the same key. Kept to 200 characters of Stripe's 255.
    pub fn named(name: &str, fresh: u32) -> Self {
        Self { name: name.chars().take(200).collect(), fresh }
    }

    /// A key that no other call has.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self { name: format!("tg-{}", hex::encode(bytes)), fresh: 0 })
    }

    /// What goes into the header: the name, with a suffix once it was made fresh.
    pub fn header(&self) -> String {
        if self.fresh == 0 { self.name.clone() } else { format!("{}-{}", self.name, self.fresh) }
    }

    /// The next key of the same name.
    #[must_use]
    pub fn freshened(self) -> Self {
        Self { fresh: self.fresh.saturating_add(1), ..self }
    }
}

/// What to do after an attempt, as far as the answer alone can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// An answer to keep: success, or a refusal that will not change.
    Final,
    /// Ask again with the same key.
    Again,
    /// Ask again with a fresh key.
    AgainFresh,
}

/// Judges an attempt.
pub fn verdict(attempt: &Attempt) -> Verdict {
    match attempt {
        Attempt::Answer(_) => Verdict::Final,
        Attempt::NotSent(_) | Attempt::Unknown(_) => Verdict::Again,
        Attempt::Refused(refused) => refused_verdict(refused),
    }
}

fn refused_verdict(refused: &Refused) -> Verdict {
    let again = if refused.status >= 500 { Verdict::AgainFresh } else { Verdict::Again };
    let advice = refused.head.should_retry.unwrap_or(match refused.status {
        409 | 429 | 500.. => Advice::Retry,
        _ => Advice::Final,
    });
    match advice {
        Advice::Retry => again,
        Advice::Final => Verdict::Final,
    }
}

/// The attempts of one call: which key is next, and what is known if it ends without an answer.
#[derive(Debug)]
pub struct Course {
    key: IdempotencyKey,
    tries: u32,
    last: String,
    /// An attempt whose effect is not known: it decides what an end without an answer means.
    unsettled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    None,
    Possible,
}

/// What follows an attempt within a call.
#[derive(Debug)]
pub enum Step {
    /// The call is over.
    Done(Result<Answer, CallError>),
    /// Ask again after this.
    Wait(Duration),
}

impl Course {
    /// Before the first attempt.
    pub fn new(key: IdempotencyKey) -> Self {
        Self { key, tries: 0, last: String::new(), unsettled: false }
    }

    /// The key of the next attempt.
    pub fn key(&self) -> &IdempotencyKey {
        &self.key
    }

    /// Takes in an attempt.
    pub fn after(&mut self, attempt: Attempt, random: u32) -> Step {
        let verdict = verdict(&attempt);
        if verdict == Verdict::AgainFresh {
            self.key = self.key.clone().freshened();
        }
        let wait = asked_to_wait(&attempt).max(full_jitter(self.tries, CALL_CAP, random));
        self.tries += 1;
        match attempt {
            Attempt::Answer(answer) => return Step::Done(Ok(answer)),
            Attempt::Refused(refused) if verdict == Verdict::Final && refused.status < 500 => {
                return Step::Done(Err(CallError::Refused(refused)));
            }
            Attempt::Refused(refused) if refused.status >= 500 => self.note(refused.to_string(), Effect::Possible),
            Attempt::Refused(refused) => self.note(refused.to_string(), Effect::None),
            Attempt::NotSent(why) => self.note(why, Effect::None),
            Attempt::Unknown(why) => self.note(why, Effect::Possible),
        }
        if verdict == Verdict::Final || self.tries >= CALL_TRIES {
            return Step::Done(Err(self.give_up()));
        }
        Step::Wait(wait)
    }

    /// The end without an answer.
    pub fn give_up(&self) -> CallError {
        if self.unsettled { CallError::Unknown(self.last.clone()) } else { CallError::Unavailable(self.last.clone()) }
    }

    fn note(&mut self, why: String, effect: Effect) {
        self.last = why;
        if effect == Effect::Possible {
            self.unsettled = true;
        }
    }
}

/// How long Stripe asked to be left alone.
pub fn asked_to_wait(attempt: &Attempt) -> Duration {
    match attempt {
        Attempt::Refused(refused) => refused.head.retry_after.unwrap_or_default(),
        Attempt::Answer(_) | Attempt::NotSent(_) | Attempt::Unknown(_) => Duration::ZERO,
    }
}

/// Exponential back-off with full jitter: somewhere in `[0, min(cap, 500 ms * 2^tries))`, by `random`.
///
/// Full jitter, so that many senders that failed together do not come back together.
pub fn full_jitter(tries: u32, cap: Duration, random: u32) -> Duration {
    let ceiling = BASE.saturating_mul(1_u32.checked_shl(tries).unwrap_or(u32::MAX)).min(cap);
    let share = ceiling.as_nanos().saturating_mul(u128::from(random)) >> 32;
    Duration::from_nanos(u64::try_from(share).unwrap_or(u64::MAX))
}

/// Randomness for [`full_jitter`]; half way if the system has none, since a delay is no secret.
pub fn random() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stripe::attempt::{Answer, Head};

    fn refused(status: u16, should_retry: Option<Advice>) -> Attempt {
        Attempt::Refused(Box::new(Refused {
            status,
            kind: "api_error".into(),
            code: None,
            message: String::new(),
            param: None,
            head: Head { should_retry, ..Head::default() },
        }))
    }

    #[test]
    fn verdicts() {
        use Verdict::{Again, AgainFresh, Final};
        let answer = Attempt::Answer(Answer { body: "{}".into(), head: Head::default() });
        let table = [
            (answer, Final),
            (Attempt::NotSent("refused".into()), Again),
            (Attempt::Unknown("reset".into()), Again),
            (refused(400, None), Final),
            (refused(401, None), Final),
            (refused(402, None), Final),
            (refused(403, None), Final),
            (refused(404, None), Final),
            (refused(409, None), Again),
            (refused(429, None), Again),
            (refused(500, None), AgainFresh),
            (refused(502, None), AgainFresh),
            (refused(400, Some(Advice::Retry)), Again),
            (refused(500, Some(Advice::Retry)), AgainFresh),
            (refused(409, Some(Advice::Final)), Final),
            (refused(503, Some(Advice::Final)), Final),
        ];
        for (attempt, want) in table {
            assert_eq!(verdict(&attempt), want, "{attempt:?}");
        }
    }

    fn ended(course: &mut Course, attempts: Vec<Attempt>) -> Result<Answer, CallError> {
        for attempt in attempts {
            if let Step::Done(result) = course.after(attempt, 0) {
                return result;
            }
        }
        Err(course.give_up())
    }

    #[test]
    fn a_call_ends_as_unknown_if_any_attempt_may_have_had_an_effect() {
        let not_sent = || Attempt::NotSent("refused".into());
        let unknown = || Attempt::Unknown("reset".into());
        let course = || Course::new(IdempotencyKey::named("k", 0));
        let all_not_sent = (0..9).map(|_| not_sent()).collect();
        assert!(matches!(ended(&mut course(), all_not_sent), Err(CallError::Unavailable(_))));
        assert!(matches!(ended(&mut course(), vec![unknown(), not_sent()]), Err(CallError::Unknown(_))));
        assert!(matches!(ended(&mut course(), vec![refused(500, None), not_sent()]), Err(CallError::Unknown(_))));
        let last_word = refused(500, Some(Advice::Final));
        assert!(matches!(ended(&mut course(), vec![last_word]), Err(CallError::Unknown(_))));
        assert!(matches!(ended(&mut course(), vec![unknown(), refused(404, None)]), Err(CallError::Refused(_))));
    }

    #[test]
    fn a_call_changes_its_key_after_a_received_5xx_only() {
        let mut course = Course::new(IdempotencyKey::named("k", 0));
        let mut keys = Vec::new();
        for attempt in [Attempt::Unknown("reset".into()), refused(500, None), refused(429, None), refused(502, None)] {
            assert!(matches!(course.after(attempt, 0), Step::Wait(_)));
            keys.push(course.key().header());
        }
        assert_eq!(keys, ["k", "k-1", "k-1", "k-2"]);
    }

    #[test]
    fn a_call_ends() {
        let mut course = Course::new(IdempotencyKey::named("k", 0));
        let waits = (0..99).take_while(|_| matches!(course.after(refused(503, None), 0), Step::Wait(_))).count();
        assert_eq!(waits, 5);
    }

    #[test]
    fn back_off_doubles_to_the_cap_and_uses_the_whole_range() {
        let cap = Duration::from_secs(60);
        assert_eq!(full_jitter(0, cap, 0), Duration::ZERO);
        assert_eq!(full_jitter(0, cap, 1 << 31), Duration::from_millis(250));
        assert_eq!(full_jitter(3, cap, 1 << 31), Duration::from_secs(2));
        assert_eq!(full_jitter(31, cap, 1 << 31), Duration::from_secs(30));
        assert_eq!(full_jitter(u32::MAX, cap, 1 << 31), Duration::from_secs(30));
        assert!(full_jitter(40, cap, u32::MAX) < cap);
    }

    #[test]
    fn keys_stay_until_made_fresh() {
        let key = IdempotencyKey::named("report-7", 0);
        assert_eq!(key.header(), "report-7");
        assert_eq!(key.freshened().freshened().header(), "report-7-2");
        assert_eq!(IdempotencyKey::named("report-7", 2).header(), "report-7-2");
        assert_ne!(IdempotencyKey::random().unwrap(), IdempotencyKey::random().unwrap());
        assert!(IdempotencyKey::named(&"x".repeat(999), 9).header().len() <= 255);
    }
}
