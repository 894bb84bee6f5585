//! Who may call: a test key, as `Bearer`, or as the user of `Basic` (`curl -u sk_test_…:`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;

use super::errors::{ApiError, Kind};

/// The keys that are accepted.
pub(super) enum Keys {
    /// This one.
    Only(String),
    /// Every `sk_test_…` or `rk_test_…`.
    AnyTest,
}

impl Keys {
    /// Checks an `Authorization` header.
    ///
    /// # Errors
    /// 401, worded as Stripe does; live keys are told to stay away.
    pub(super) fn check(&self, authorization: Option<&str>) -> Result<(), ApiError> {
        let Some(key) = authorization.and_then(key_of) else {
            return Err(refuse(
                "You did not provide an API key. You need to provide your API key in the Authorization header, using \
                 Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY').",
            ));
        };
        if ["sk_live_", "rk_live_"].iter().any(|live| key.starts_with(live)) {
            return Err(refuse("This is a sandbox. It refuses live keys: never send one here."));
        }
        if self.accepts(&key) { Ok(()) } else { Err(refuse(&format!("Invalid API Key provided: {}", masked(&key)))) }
    }

    fn accepts(&self, key: &str) -> bool {
        match self {
            Self::Only(own) => key == own,
            Self::AnyTest => {
                ["sk_test_", "rk_test_"].iter().any(|test| key.len() > test.len() && key.starts_with(test))
            }
        }
    }
}

fn key_of(header: &str) -> Option<String> {
    let (scheme, rest) = header.split_once(' ')?;
    let key = match scheme.to_ascii_lowercase().as_str() {
        "bearer" => rest.trim().to_owned(),
        "basic" => {
            let decoded = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
            decoded.split(':').next()?.to_owned()
        }
        _ => return None,
    };
    (!key.is_empty()).then_some(key)
}

/// Only the kind and the last four characters of a key, as Stripe shows it.
fn masked(key: &str) -> String {
    let kind = ["sk_test_", "rk_test_", "pk_test_"].into_iter().find(|kind| key.starts_with(kind)).unwrap_or_default();
    let tail: String = key[kind.len()..].chars().rev().take(4).collect();
    let hidden = key.len().saturating_sub(kind.len() + tail.len());
    if hidden == 0 {
        return format!("{kind}{}", "*".repeat(tail.len()));
    }
    format!("{kind}{}{}", "*".repeat(hidden.min(24)), tail.chars().rev().collect::<String>())
}

fn refuse(message: &str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, Kind::InvalidRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(keys: &Keys, header: &str) -> Result<(), String> {
        keys.check(Some(header)).map_err(|error| error.message)
    }

    #[test]
    fn bearer_and_basic_carry_the_key() {
        let keys = Keys::Only("sk_test_abc".into());
        assert_eq!(check(&keys, "Bearer sk_test_abc"), Ok(()));
        let basic = STANDARD.encode("sk_test_abc:");
        assert_eq!(check(&keys, &format!("Basic {basic}")), Ok(()));
    }

    #[test]
    fn other_keys_are_refused_and_not_shown() {
        let keys = Keys::Only("sk_test_abc".into());
        assert_eq!(check(&keys, "Bearer sk_test_12345678").unwrap_err(), "Invalid API Key provided: sk_test_****5678");
        assert!(check(&keys, "Bearer ").unwrap_err().starts_with("You did not provide"));
        assert!(keys.check(None).unwrap_err().message.starts_with("You did not provide"));
        assert_eq!(check(&keys, "Bearer abc").unwrap_err(), "Invalid API Key provided: ***");
    }

    #[test]
    fn live_keys_are_refused_even_where_any_key_will_do() {
        assert!(check(&Keys::AnyTest, "Bearer sk_live_abc").unwrap_err().contains("live keys"));
        assert_eq!(check(&Keys::AnyTest, "Bearer sk_test_anything"), Ok(()));
        assert!(check(&Keys::AnyTest, "Bearer sk_test_").is_err());
    }
}
