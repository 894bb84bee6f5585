//! What comes in: bodies, query parameters, and the rules for single values.

use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use bytes::Bytes;
use http::StatusCode;
use http::request::Parts;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use super::problem::Problem;
use crate::pricing::Pricing;
use crate::records::Page;

/// Largest body, bytes.
const LARGEST_BODY: usize = 1 << 20;

/// Longest wait for a whole body.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// Entries of a list when the caller does not say.
const DEFAULT_LIMIT: u32 = 100;

/// Most entries of a list.
const LARGEST_LIMIT: u32 = 1000;

/// A JSON body, whatever `Content-Type` says (`curl -d` sends a form's). An empty body is an empty object.
pub(super) struct Json<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let body = tokio::time::timeout(BODY_DEADLINE, read(request)).await;
        let late = || Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the body did not arrive in 10 s");
        parse(&body.map_err(|_| late())??).map(Self)
    }
}

async fn read(request: Request) -> Result<Bytes, Problem> {
    match Limited::new(request.into_body(), LARGEST_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "the body is larger than 1 MiB"))
        }
        Err(_) => Err(Problem::unreadable("the body broke off")),
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let text = if body.trim_ascii().is_empty() { b"{}" } else { body.trim_ascii_start() };
    if text.first() != Some(&b'{') {
        // serde would take an array as the fields in their order.
        return Err(Problem::unreadable("the body is not one JSON object"));
    }
    let mut json = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| wrong_body(&error))?;
    json.end().map_err(|error| Problem::unreadable(format!("the body is not one JSON object: {error}")))?;
    Ok(value)
}

fn wrong_body(error: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let (path, cause) = (error.path().to_string(), error.inner().to_string());
    if !error.inner().is_data() {
        return Problem::unreadable(format!("the body is not JSON: {cause}"));
    }
    match named(&cause) {
        Some(field) => Problem::unreadable(cause.clone()).at(field),
        None if path == "." => Problem::unreadable(cause),
        None => Problem::unreadable(format!("{path}: {cause}")).at(&path),
    }
}

/// The field in serde's "unknown field `x`, …", "missing field `x`" and "duplicate field `x`": the path ends above it.
fn named(cause: &str) -> Option<&str> {
    let rest =
        ["unknown field `", "missing field `", "duplicate field `"].iter().find_map(|p| cause.strip_prefix(p))?;
    rest.split_once('`').map(|(field, _)| field)
}

/// Query parameters; one that is not known is refused.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query: Result<Query<T>, QueryRejection> = Query::from_request_parts(parts, state).await;
        query.map(|Query(params)| Self(params)).map_err(|rejection| wrong_query(&rejection.body_text()))
    }
}

/// axum's text is "Failed to deserialize query string: limit: invalid digit …", or "… : unknown field `x`, …".
fn wrong_query(text: &str) -> Problem {
    let cause = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(text);
    let field = named(cause).or_else(|| cause.split_once(": ").map(|(field, _)| field)).unwrap_or_default().to_owned();
    let problem = Problem::unreadable(format!("query parameters: {cause}"));
    if field.is_empty() { problem } else { problem.at(&field) }
}

/// `limit` and `after` of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageParams {
    limit: Option<u32>,
    after: Option<String>,
}

impl PageParams {
    /// The page they mean.
    pub(super) fn page(self) -> Result<Page, Problem> {
        page(self.limit, self.after)
    }
}

/// The page of a list that `limit` and `after` mean.
pub(super) fn page(limit: Option<u32>, after: Option<String>) -> Result<Page, Problem> {
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=LARGEST_LIMIT).contains(&limit) {
        return Err(Problem::invalid("limit", format!("{limit} is not in 1..={LARGEST_LIMIT}")));
    }
    Ok(Page { limit, after })
}

/// For fields of a patch: what is there, `null` included, is `Some`.
pub(super) fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(json: D) -> Result<Option<T>, D::Error> {
    T::deserialize(json).map(Some)
}

/// A tenant's id: `[A-Za-z0-9._-]{1,64}`, but neither `.` nor `..`, which no URL can name.
pub(super) fn tenant_id(id: &str) -> Result<(), Problem> {
    let fits = id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if fits && (1..=64).contains(&id.len()) && id != "." && id != ".." {
        return Ok(());
    }
    Err(Problem::invalid("id", format!("{id:?} is not allowed; 1 to 64 of A-Z a-z 0-9 . _ -")))
}

/// A name for people: 1 to 256 characters, none of them a control character.
pub(super) fn label(field: &str, text: &str) -> Result<(), Problem> {
    if (1..=256).contains(&text.chars().count()) && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Problem::invalid(field, "1 to 256 characters are allowed, no control characters"))
}

/// An e-mail address, as far as one can tell without writing to it.
pub(super) fn email(text: &str) -> Result<(), Problem> {
    let clean = !text.chars().any(|c| c.is_control() || c.is_whitespace());
    let sided = text.split_once('@').is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty());
    if clean && sided && text.len() <= 320 {
        return Ok(());
    }
    Err(Problem::invalid("email", format!("{text:?} is not an e-mail address")))
}

/// One of Stripe's ids with its prefix, `cus_…`.
pub(super) fn stripe_id(field: &str, prefix: &str, id: &str) -> Result<(), Problem> {
    let rest = id.strip_prefix(prefix).unwrap_or_default();
    if (1..=250).contains(&rest.len()) && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Ok(());
    }
    Err(Problem::invalid(field, format!("{id:?} is not a Stripe id; {prefix}… is allowed")))
}

/// A plan of the active pricing file.
pub(super) fn plan(pricing: &Pricing, name: &str) -> Result<(), Problem> {
    if pricing.plans.contains_key(name) {
        return Ok(());
    }
    let known: Vec<&str> = pricing.plans.keys().map(AsRef::as_ref).collect();
    Err(Problem::invalid("plan", format!("there is no plan {name:?}; allowed: {}", known.join(", "))))
}

/// A moment: RFC 3339, or a date, which means its first second in UTC.
pub(super) fn time(field: &str, text: &str) -> Result<Timestamp, Problem> {
    let midnight = |date: Date| date.to_zoned(TimeZone::UTC).map(|zoned| zoned.timestamp());
    text.parse::<Timestamp>().or_else(|_| text.parse::<Date>().and_then(midnight)).map_err(|_| {
        Problem::invalid(field, format!("{text:?} is not a time; 2026-11-01T00:00:00Z or 2026-11-01 is allowed"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read by serde")]
    struct Sample {
        id: String,
        #[serde(default)]
        scopes: Vec<String>,
    }

    fn refusal(body: &str) -> (Option<String>, String) {
        let problem = parse::<Sample>(body.as_bytes()).expect_err("refused");
        assert_eq!(problem.status.as_u16(), 400);
        (problem.field, problem.detail)
    }

    #[test]
    fn every_mistake_in_a_body_names_its_field() {
        let table = [
            (r#"{"id":"a","colour":1}"#, Some("colour"), "unknown field `colour`, expected `id` or `scopes`"),
            ("{}", Some("id"), "missing field `id`"),
            ("", Some("id"), "missing field `id`"),
            (r#"{"id":"a","id":"b"}"#, Some("id"), "duplicate field `id`"),
            (r#"{"id":7}"#, Some("id"), "id: invalid type: integer `7`, expected a string"),
            (r#"{"id":"a","scopes":["/",8]}"#, Some("scopes[1]"), "scopes[1]: invalid type: integer `8`"),
            (r#"{"id":"#, None, "the body is not JSON"),
            (r#"{"id":"a"} {"#, None, "the body is not one JSON object"),
            (r#" ["a", ["/"]]"#, None, "the body is not one JSON object"),
            ("null", None, "the body is not one JSON object"),
        ];
        for (body, field, detail) in table {
            let (got_field, got_detail) = refusal(body);
            assert_eq!(got_field.as_deref(), field, "{body}: {got_detail}");
            assert!(got_detail.starts_with(detail), "{body}: {got_detail}");
        }
    }

    #[test]
    fn ids_are_what_a_url_can_name() {
        for good in ["acme", "A.b_c-9", "...", &"x".repeat(64)] {
            assert!(tenant_id(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a b", "a/b", "ä", "a\n", &"x".repeat(65)] {
            let problem = tenant_id(bad).expect_err(bad);
            assert_eq!((problem.status.as_u16(), problem.field.as_deref()), (422, Some("id")));
        }
    }

    #[test]
    fn times_are_moments_or_dates() {
        let noon = time("from", "2026-11-01T12:00:00+02:00").expect("a moment");
        assert_eq!(noon.to_string(), "2026-11-01T10:00:00Z");
        assert_eq!(time("from", "2026-11-01").expect("a date").to_string(), "2026-11-01T00:00:00Z");
        assert_eq!(time("from", "yesterday").expect_err("refused").field.as_deref(), Some("from"));
    }

    #[test]
    fn addresses_and_stripe_ids_are_checked_for_shape() {
        assert!(email("ops@acme.test").is_ok());
        for bad in ["", "ops", "@acme", "ops@", "o ps@acme", "ops@acme\r\nBcc: x@y"] {
            assert!(email(bad).is_err(), "{bad}");
        }
        assert!(stripe_id("stripe_customer_id", "cus_", "cus_Ab1").is_ok());
        for bad in ["", "cus_", "sub_1", "cus_a b", "cus_ä"] {
            assert!(stripe_id("stripe_customer_id", "cus_", bad).is_err(), "{bad}");
        }
        assert!(label("name", "Ácme & Söhne").is_ok());
        for bad in ["", "a\u{1b}[31m", &"x".repeat(257)] {
            assert!(label("name", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_page_has_between_one_and_a_thousand_entries() {
        assert_eq!(page(None, None).expect("fine").limit, 100);
        for bad in [0, 1001] {
            assert_eq!(page(Some(bad), None).expect_err("refused").field.as_deref(), Some("limit"));
        }
    }
}
