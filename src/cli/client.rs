//! Calls to the admin API of a running gateway.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::Failure;
use crate::config::settings::Secret;

/// Longest wait for an answer; the admin API itself gives up after 30 s.
const DEADLINE: Duration = Duration::from_secs(40);

/// Largest answer read, bytes: a year of hourly rows on several meters has a tenth of it.
const LARGEST_ANSWER: usize = 64 << 20;

/// Which gateway to talk to.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Admin {
    /// Address of the admin API; the token comes from the variable `TOLLGATE_ADMIN_TOKEN`.
    #[arg(
        long = "admin",
        env = "TOLLGATE_ADMIN_URL",
        default_value = "http://127.0.0.1:9090",
        value_name = "URL",
        global = true
    )]
    pub(super) url: Uri,
}

/// A client of one gateway's admin API.
pub(super) struct Client {
    base: String,
    token: Secret,
    http: HttpClient<HttpsConnector<HttpConnector>, Full<Bytes>>,
    runtime: Runtime,
}

impl Client {
    /// A client for `admin`, with the token from the environment. Connects with the first call.
    ///
    /// # Errors
    /// [`Failure::Usage`] without a usable URL or token.
    pub(super) fn new(admin: &Admin) -> Result<Self, Failure> {
        let token = std::env::var("TOLLGATE_ADMIN_TOKEN").ok().filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| {
            Failure::Usage("TOLLGATE_ADMIN_TOKEN is not set: it holds the token for the admin API".to_owned())
        })?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Self {
            base: base(&admin.url)?,
            token: Secret::new(token),
            http: HttpClient::builder(TokioExecutor::new()).build(connector()),
            runtime: runtime.map_err(|error| Failure::Refused(format!("cannot start: {error}")))?,
        })
    }

    /// `GET path?query` as JSON; parameters without a value are left out.
    ///
    /// # Errors
    /// [`Failure::Refused`] with the problem's detail, or when no answer came.
    pub(super) fn get(&self, path: &str, query: &[(&str, Option<String>)]) -> Result<Value, Failure> {
        parse(&self.text(Method::GET, &with_query(path, query), "application/json", None)?)
    }

    /// `GET path?query` as CSV.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(super) fn get_csv(&self, path: &str, query: &[(&str, Option<String>)]) -> Result<String, Failure> {
        let text = self.text(Method::GET, &with_query(path, query), "text/csv", None)?;
        String::from_utf8(text.into()).map_err(|_| Failure::Refused("the answer is not text".to_owned()))
    }

    /// `method path` with a JSON body, if any; `null` when the answer has none.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(super) fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        parse(&self.text(method, path, "application/json", body)?)
    }

    fn text(&self, method: Method, path: &str, accept: &str, body: Option<&Value>) -> Result<Bytes, Failure> {
        let request = self.request(method, path, accept, body)?;
        self.runtime.block_on(async {
            let answer = tokio::time::timeout(DEADLINE, self.exchange(request)).await;
            answer.map_err(|_| Failure::Refused(format!("{} did not answer in {DEADLINE:?}", self.base)))?
        })
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        body: Option<&Value>,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let body = body.map_or_else(Bytes::new, |json| Bytes::from(json.to_string()));
        Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token.expose()))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, accept)
            .body(Full::new(body))
            .map_err(|error| Failure::Usage(format!("cannot be sent: {error}")))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Bytes, Failure> {
        let response = self.http.request(request).await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await;
        let body = body.map_err(|error| Failure::Refused(format!("the answer broke off: {error}")))?.to_bytes();
        if status.is_success() { Ok(body) } else { Err(refused(status, &body)) }
    }

    fn unreachable(&self, error: &hyper_util::client::legacy::Error) -> Failure {
        let mut why = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            why = cause.to_string();
            source = cause.source();
        }
        Failure::Refused(format!(
            "cannot reach the admin API at {}: {why}; is the gateway running? (--admin URL)",
            self.base
        ))
    }
}

fn connector() -> HttpsConnector<HttpConnector> {
    HttpsConnectorBuilder::new().with_webpki_roots().https_or_http().enable_http1().build()
}

/// `scheme://host:port/prefix` without a slash at its end.
fn base(url: &Uri) -> Result<String, Failure> {
    match url.scheme_str() {
        Some("http" | "https") if url.query().is_none() => Ok(url.to_string().trim_end_matches('/').to_owned()),
        _ => Err(Failure::Usage(format!(
            "--admin {url}: not an address; allowed: http://host:port or https://host:port"
        ))),
    }
}

fn parse(body: &[u8]) -> Result<Value, Failure> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(body)
        .map_err(|error| Failure::Refused(format!("the answer is not JSON ({error}): is this the admin port?")))
}

/// What the problem says; for an answer that is no problem document, its status.
fn refused(status: StatusCode, body: &[u8]) -> Failure {
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    let member = |name: &str| problem.get(name).and_then(Value::as_str);
    Failure::Refused(match (member("detail"), member("code")) {
        (Some(detail), Some(code)) => format!("{detail} ({} {code})", status.as_u16()),
        _ => format!("the call was answered with {status}: is this the admin port?"),
    })
}

/// `text` as one path segment: everything but unreserved characters escaped.
pub(super) fn segment(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(escape).collect()
}

fn with_query(path: &str, query: &[(&str, Option<String>)]) -> String {
    let given = query.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
    let pairs: Vec<String> = given.map(|(name, value)| format!("{name}={}", segment(value))).collect();
    if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_cannot_leave_its_place() {
        assert_eq!(segment("acme-1.x_y~z"), "acme-1.x_y~z");
        assert_eq!(segment("../a?b#ü"), "..%2Fa%3Fb%23%C3%BC");
    }

    #[test]
    fn parameters_without_a_value_are_left_out() {
        assert_eq!(with_query("/x", &[("a", None)]), "/x");
        assert_eq!(
            with_query("/x", &[("a", Some("1+1".into())), ("b", None), ("c", Some("2".into()))]),
            "/x?a=1%2B1&c=2"
        );
    }

    #[test]
    fn an_address_needs_a_scheme_and_loses_its_last_slash() {
        assert_eq!(base(&"http://h:1/".parse().expect("uri")).expect("fine"), "http://h:1");
        assert_eq!(base(&"https://h/tollgate/".parse().expect("uri")).expect("fine"), "https://h/tollgate");
        for wrong in ["h:1", "ftp://h", "/path", "http://h/?q"] {
            assert!(matches!(base(&wrong.parse().expect("uri")), Err(Failure::Usage(_))), "{wrong}");
        }
    }

    #[test]
    fn a_refusal_says_what_the_problem_says() {
        let body = br#"{"detail":"there is no tenant `x`","code":"unknown_tenant"}"#;
        assert_eq!(refused(StatusCode::NOT_FOUND, body).to_string(), "there is no tenant `x` (404 unknown_tenant)");
        let foreign = refused(StatusCode::BAD_GATEWAY, b"<html>").to_string();
        assert_eq!(foreign, "the call was answered with 502 Bad Gateway: is this the admin port?");
    }
}
