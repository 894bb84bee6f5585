//! Refusals of the admin API: `application/problem+json` (RFC 9457) that names the field at fault.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value};

use crate::records::RecordsError;

/// A refusal. As a response it is only a status with itself attached: [`render`] writes the body, once the id of the
/// request is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    /// Stable, for scripts.
    pub(super) code: &'static str,
    /// What is wrong with this request and what is allowed.
    pub(super) detail: String,
    /// The field, parameter or header at fault.
    pub(super) field: Option<String>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), field: None }
    }

    /// 400: the request cannot be read.
    pub(super) fn unreadable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", detail)
    }

    /// 422: the request can be read, but `field` has a value that is not allowed.
    pub(super) fn invalid(field: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value", format!("{field}: {}", detail.into())).at(field)
    }

    /// 409: it exists with other content.
    pub(super) fn differs(what: &str, field: &'static str) -> Self {
        let detail = format!("{what} exists with another {field}");
        Self::new(StatusCode::CONFLICT, "exists_with_other_content", detail).at(field)
    }

    /// 404: there is no such tenant.
    pub(super) fn no_tenant(id: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown_tenant", format!("there is no tenant {id:?}"))
    }

    /// 404: the tenant has no such key.
    pub(super) fn no_key(tenant: &str, id: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown_key", format!("tenant {tenant:?} has no key {id:?}"))
    }

    /// 500: a defect; what it is stands in the log.
    pub(super) fn internal() -> Self {
        let detail = "an unexpected error; the log says more under this request_id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", detail)
    }

    /// The same, naming the field at fault.
    pub(super) fn at(mut self, field: &str) -> Self {
        self.field = Some(field.to_owned());
        self
    }

    fn body(&self, request_id: &str) -> Value {
        let mut body = Map::new();
        body.insert("type".to_owned(), format!("urn:tollgate:problem:{}", self.code).into());
        body.insert("title".to_owned(), self.code.replace('_', " ").into());
        body.insert("status".to_owned(), self.status.as_u16().into());
        body.insert("detail".to_owned(), self.detail.clone().into());
        body.insert("code".to_owned(), self.code.into());
        body.insert("request_id".to_owned(), request_id.into());
        if let Some(field) = &self.field {
            body.insert("field".to_owned(), field.clone().into());
        }
        body.into()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Writes the body of a response that is a [`Problem`]; any other stays as it is.
pub(super) fn render(mut response: Response, request_id: &str) -> Response {
    let Some(problem) = response.extensions_mut().remove::<Problem>() else { return response };
    let body = problem.body(request_id).to_string();
    response.headers_mut().remove(header::CONTENT_LENGTH);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    let (head, _) = response.into_parts();
    Response::from_parts(head, body.into())
}

impl From<RecordsError> for Problem {
    fn from(error: RecordsError) -> Self {
        match error {
            RecordsError::Invalid(detail) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_value", detail),
            RecordsError::Unavailable(_) => {
                tracing::warn!(%error, "admin call refused");
                let detail = "the records cannot be reached; nothing was changed";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "records_unavailable", detail)
            }
            RecordsError::Unknown(_) => {
                tracing::warn!(%error, "admin call with unknown outcome");
                let detail = "the records did not confirm; the change may have been made, repeat the call to be sure";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "outcome_unknown", detail)
            }
            RecordsError::Corrupt(_) => {
                tracing::error!(%error, "admin call failed");
                Self::internal()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_every_member_that_scripts_rely_on() {
        let body = Problem::invalid("plan", "there is no plan \"gold\"; allowed: free").body("r1");
        let expected = serde_json::json!({
            "type": "urn:tollgate:problem:invalid_value", "title": "invalid value", "status": 422,
            "detail": "plan: there is no plan \"gold\"; allowed: free", "code": "invalid_value",
            "request_id": "r1", "field": "plan"
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn trouble_with_the_records_says_whether_something_may_have_happened() {
        let cause = || std::sync::Arc::new(std::io::Error::other("disk on fire at /secret/path"));
        let nothing = Problem::from(RecordsError::Unavailable(cause()));
        assert_eq!((nothing.status.as_u16(), nothing.code), (503, "records_unavailable"));
        let maybe = Problem::from(RecordsError::Unknown(cause()));
        assert_eq!((maybe.status.as_u16(), maybe.code), (503, "outcome_unknown"));
        assert!(!nothing.detail.contains("secret"), "the cause belongs in the log");
    }
}
