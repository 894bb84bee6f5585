//! Every refusal: one enum, one mapping to status, code and problem body (RFC 9457).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, CONTENT_TYPE, RETRY_AFTER, VARY, WWW_AUTHENTICATE,
};
use http::{HeaderValue, Response, StatusCode};
use jiff::Timestamp;
use serde::Serialize;

use super::Reply;

/// Why a request goes no further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No credential came.
    MissingCredential,
    /// Nobody's credential.
    UnknownCredential,
    /// A revoked one.
    RevokedCredential,
    /// An expired one.
    ExpiredCredential,
    /// The key's scopes do not cover the route.
    OutOfScope,
    /// The plan lacks this feature.
    FeatureRequired(Arc<str>),
    /// A tenant header, from a peer that is not trusted, without a key; or one that contradicts the key.
    UntrustedTenantHeader(&'static str),
    /// The cap is reached.
    LimitExceeded(Box<Limit>),
    /// The subscription's status opens nothing.
    SubscriptionInactive {
        /// Tenant's plan.
        plan: Arc<str>,
    },
    /// Too fast.
    RateLimited(Duration),
    /// Too many at once.
    TooManyConcurrent,
    /// Not a request we can forward.
    BadRequest(&'static str),
    /// The request's body broke off or stopped coming.
    UploadBroken,
    /// Request line and headers are longer than `limits.header_bytes`, which is the number here.
    HeadTooLarge(usize),
    /// The path can be read in ways that cost differently.
    AmbiguousPath,
    /// No upstream for this host and path.
    NoUpstream,
    /// The origin cannot be reached or broke.
    UpstreamUnreachable(Arc<str>),
    /// The origin is silent.
    UpstreamTimeout,
    /// The ledger or the records cannot say, and the plan says deny.
    LedgerUnavailable,
    /// The journal is full.
    JournalFull,
}

/// What a 402 tells about the limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limit {
    /// Tenant's plan.
    pub plan: Arc<str>,
    /// Which meter.
    pub meter: Arc<str>,
    /// Units used in this period.
    pub used: u64,
    /// Units at which it stops.
    pub limit: u64,
    /// When the period ends.
    pub resets_at: Timestamp,
    /// Where more can be bought; `null` if self-service is off.
    pub upgrade_url: Option<Arc<str>>,
}

#[derive(Serialize)]
struct Problem<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'a str,
    status: u16,
    detail: String,
    code: &'a str,
    request_id: &'a str,
    #[serde(flatten)]
    limit: Option<&'a Limit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<&'a str>,
}

impl Refusal {
    /// The status a client gets.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::MissingCredential | Self::UnknownCredential | Self::RevokedCredential | Self::ExpiredCredential => {
                StatusCode::UNAUTHORIZED
            }
            Self::OutOfScope | Self::FeatureRequired(_) | Self::UntrustedTenantHeader(_) => StatusCode::FORBIDDEN,
            Self::LimitExceeded(_) | Self::SubscriptionInactive { .. } => StatusCode::PAYMENT_REQUIRED,
            Self::RateLimited(_) | Self::TooManyConcurrent => StatusCode::TOO_MANY_REQUESTS,
            Self::BadRequest(_) | Self::AmbiguousPath => StatusCode::BAD_REQUEST,
            Self::UploadBroken => StatusCode::REQUEST_TIMEOUT,
            Self::HeadTooLarge(_) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::NoUpstream | Self::UpstreamUnreachable(_) => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::LedgerUnavailable | Self::JournalFull => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The code that programs read.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::MissingCredential => "missing_credential",
            Self::UnknownCredential => "unknown_credential",
            Self::RevokedCredential => "revoked_credential",
            Self::ExpiredCredential => "expired_credential",
            Self::OutOfScope => "out_of_scope",
            Self::FeatureRequired(_) => "feature_required",
            Self::UntrustedTenantHeader(_) => "untrusted_tenant_header",
            Self::LimitExceeded(_) => "limit_exceeded",
            Self::SubscriptionInactive { .. } => "subscription_inactive",
            Self::RateLimited(_) => "rate_limited",
            Self::TooManyConcurrent => "too_many_concurrent",
            Self::BadRequest(_) | Self::UploadBroken | Self::HeadTooLarge(_) => "bad_request",
            Self::AmbiguousPath => "ambiguous_path",
            Self::NoUpstream | Self::UpstreamUnreachable(_) => "upstream_unreachable",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::LedgerUnavailable => "ledger_unavailable",
            Self::JournalFull => "overloaded",
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::MissingCredential => "Send an API key, for example as `Authorization: Bearer tg_…`.".into(),
            Self::UnknownCredential => "This API key is not known here.".into(),
            Self::RevokedCredential => "This API key was revoked; use another one.".into(),
            Self::ExpiredCredential => "This API key has expired; use another one.".into(),
            Self::OutOfScope => "This API key's scopes do not cover this route.".into(),
            Self::FeatureRequired(feature) => format!("Your plan does not include the feature `{feature}`."),
            Self::LimitExceeded(limit) => format!(
                "{} of {} {} are used; this request would pass the limit. It resets at {}.",
                limit.used, limit.limit, limit.meter, limit.resets_at
            ),
            Self::SubscriptionInactive { plan } => {
                format!("The subscription to the plan `{plan}` is not in good standing.")
            }
            Self::RateLimited(wait) => format!("Too many requests; try again in {} s.", seconds_up(*wait)),
            Self::TooManyConcurrent => "Too many requests at once; wait for one to end.".into(),
            Self::UntrustedTenantHeader(why) | Self::BadRequest(why) => (*why).into(),
            Self::UploadBroken => "The request's body broke off or stopped coming.".into(),
            Self::HeadTooLarge(limit) => format!("Request line and headers together may have {limit} bytes."),
            Self::AmbiguousPath => "The path has a dot segment (`.` or `..`); send it resolved.".into(),
            Self::NoUpstream => "No upstream is configured for this host and path.".into(),
            Self::UpstreamUnreachable(why) => format!("The API behind this gateway cannot be reached: {why}."),
            Self::UpstreamTimeout => "The API behind this gateway did not answer in time.".into(),
            Self::LedgerUnavailable => "Usage cannot be counted at the moment; try again shortly.".into(),
            Self::JournalFull => "Usage cannot be recorded at the moment; try again shortly.".into(),
        }
    }

    /// The answer. `origin` is the request's `Origin`, so that a browser may show the refusal to its page.
    #[must_use]
    pub fn response(&self, request_id: &HeaderValue, origin: Option<HeaderValue>) -> Response<Reply> {
        let status = self.status();
        let mut response = Response::new(Reply::Full(Some(self.body(status, request_id))));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(super::X_REQUEST_ID, request_id.clone());
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after_s() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(origin) = origin {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Retry-After, X-Request-Id"));
            headers.insert(VARY, HeaderValue::from_static("Origin"));
        }
        response
    }

    fn retry_after_s(&self) -> Option<u64> {
        if let Self::RateLimited(wait) = self {
            return Some(seconds_up(*wait));
        }
        matches!(self, Self::TooManyConcurrent | Self::LedgerUnavailable | Self::JournalFull).then_some(1)
    }

    fn body(&self, status: StatusCode, request_id: &HeaderValue) -> Bytes {
        let problem = Problem {
            kind: format!("urn:tollgate:problem:{}", self.code()),
            title: status.canonical_reason().unwrap_or("Refused"),
            status: status.as_u16(),
            detail: self.detail(),
            code: self.code(),
            request_id: request_id.to_str().unwrap_or_default(),
            limit: if let Self::LimitExceeded(limit) = self { Some(limit) } else { None },
            plan: if let Self::SubscriptionInactive { plan } = self { Some(plan) } else { None },
        };
        serde_json::to_vec(&problem).expect("strings and numbers always serialise").into()
    }
}

fn seconds_up(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}
