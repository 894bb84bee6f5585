//! The demo's clients: plain HTTP over one keep-alive connection pool.

use anyhow::Context as _;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// Sends requests with a bearer token.
#[derive(Clone)]
pub(super) struct Caller {
    client: Client<HttpConnector, Full<Bytes>>,
    base: String,
    token: String,
}

/// What came back.
pub(super) struct Response {
    /// Of the answer.
    pub(super) status: StatusCode,
    /// What the answer says it cost.
    pub(super) cost_units: u64,
    /// The whole body.
    pub(super) body: Bytes,
}

impl Caller {
    /// A caller of `base` (`http://host:port`).
    #[must_use]
    pub(super) fn new(base: String, token: &str) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { client, base, token: token.to_owned() }
    }

    /// The same place, another caller.
    #[must_use]
    pub(super) fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    /// One request; its body is read to the end.
    ///
    /// # Errors
    /// When there is no answer.
    pub(super) async fn send(&self, method: Method, path: &str, json: Option<&Value>) -> anyhow::Result<Response> {
        let body = json.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(AUTHORIZATION, format!("Bearer {}", self.token))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body))?;
        let response = self.client.request(request).await.with_context(|| format!("no answer to {path}"))?;
        let status = response.status();
        let cost = response.headers().get("x-tollgate-cost").and_then(|cost| cost.to_str().ok()?.parse().ok());
        let body = response.into_body().collect().await?.to_bytes();
        Ok(Response { status, cost_units: cost.unwrap_or(0), body })
    }

    /// One request whose answer must be a success with a JSON body.
    ///
    /// # Errors
    /// When there is no answer, or another one; its text is in the message.
    pub(super) async fn json(&self, method: Method, path: &str, json: Option<&Value>) -> anyhow::Result<Value> {
        let response = self.send(method, path, json).await?;
        if !response.status.is_success() {
            let text = String::from_utf8_lossy(&response.body);
            anyhow::bail!("{path} answered {}: {text}", response.status);
        }
        serde_json::from_slice(&response.body).with_context(|| format!("{path} did not answer JSON"))
    }
}
