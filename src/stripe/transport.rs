//! One pooled connection set to Stripe: sends a typed request once, or until it has a definite answer.
//!
//! The typed builders of `async-stripe` give method, path and form; everything else is ours, because their own client
//! opens a connection per call, cannot combine a chosen idempotency key with retries, and drops the response headers
//! that say whether to retry. [`Transport`] also implements their `StripeClient` trait, for callers that want their
//! typed answers; our own rooms call [`Transport::call`] or [`Transport::attempt`] with the built request, since the
//! trait hands back nothing but the body.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use stripe_client_core::{
    CustomizedStripeRequest, RequestBuilder, RequestStrategy, StripeClient, StripeClientErr, StripeMethod,
};
use tokio::time::{Instant, sleep, timeout};

use super::attempt::{self, Answer, Attempt, Refused};
use super::breaker::{self, Breaker, Health, Pass};
use super::rate::{Bucket, Budget, Rates};
use super::retry::{self, Course, IdempotencyKey, Step};
use crate::config::settings::Secret;

/// `Stripe-Version` that the typed requests are generated for.
pub const API_VERSION: &str = "2026-09-30.endive";

/// Stripe's own address.
pub const API_BASE: &str = "https://api.stripe.com";

/// Answers above this are not Stripe's.
const MAX_BODY: usize = 8 << 20;

/// Where Stripe is and how patient we are.
#[derive(Clone, Debug)]
pub struct Config {
    /// `http(s)://authority[/prefix]`, without `/v1`.
    pub base: Uri,
    /// `sk_…` or `rk_…`.
    pub key: Secret,
    /// `Stripe-Version`.
    pub version: String,
    /// Requests a second.
    pub rates: Rates,
    /// When to hold everything back.
    pub breaker: breaker::Config,
    /// TCP connect.
    pub connect_timeout: Duration,
    /// One attempt from connect to the last byte of the answer: at most 60 s, since an attempt must not outlive the
    /// time in which Stripe knows its identifier.
    pub attempt_timeout: Duration,
    /// One call with all its attempts and waits.
    pub call_timeout: Duration,
}

impl Config {
    /// The usual patience, live rates.
    pub fn new(base: Uri, key: Secret) -> Self {
        Self {
            base,
            key,
            version: API_VERSION.to_owned(),
            rates: Rates::LIVE,
            breaker: breaker::Config::default(),
            connect_timeout: Duration::from_secs(5),
            attempt_timeout: Duration::from_secs(30),
            call_timeout: Duration::from_secs(90),
        }
    }
}

/// The transport cannot be built from its settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not `http://…` or `https://…`.
    #[error("Stripe's address {0} is not an http or https URL")]
    Base(Uri),
    /// Cannot stand in a header.
    #[error("{0} holds characters that cannot be sent")]
    Header(&'static str),
}

/// Why a call brought no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// Stripe said no; nothing happened.
    #[error("Stripe refused: {0}")]
    Refused(Box<Refused>),
    /// Stripe could not be asked; nothing happened.
    #[error("Stripe is unavailable: {0}")]
    Unavailable(String),
    /// No definite answer: it may have happened. Repeating the call under the same key is safe for a day.
    #[error("Stripe did not confirm, it may have happened: {0}")]
    Unknown(String),
    /// It happened, but the answer is not what Stripe documents.
    #[error("Stripe's answer cannot be read: {0}")]
    Unreadable(String),
    /// The request itself cannot be written; nothing happened.
    #[error("cannot be asked of Stripe: {0}")]
    Invalid(String),
}

impl StripeClientErr for CallError {
    fn deserialize_err(msg: impl fmt::Display) -> Self {
        Self::Unreadable(msg.to_string())
    }
}

/// Leave to send one request now: given by the breaker and the rate budget, used up by [`Transport::attempt`]. If it
/// is dropped unused and was the breaker's probe, another probe may go at once.
#[derive(Debug)]
pub struct Permit<'a> {
    breaker: &'a Mutex<Breaker>,
    caller: String,
    pass: Pass,
}

impl Permit<'_> {
    fn used(mut self, health: Health, now: Instant) {
        self.pass = Pass::Normal;
        locked(self.breaker).record(&self.caller, health, now.into_std());
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        locked(self.breaker).give_back(self.pass, Instant::now().into_std());
    }
}

fn locked(breaker: &Mutex<Breaker>) -> MutexGuard<'_, Breaker> {
    breaker.lock().unwrap_or_else(PoisonError::into_inner)
}

/// No leave to send now; nothing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Stripe is not asked for another {wait:?}: {why}")]
pub struct Busy {
    /// Come back then.
    pub wait: Duration,
    /// `circuit breaker open` or `rate budget spent`.
    pub why: &'static str,
}

/// A request ready to be sent any number of times with the same bytes.
#[derive(Clone, Debug)]
pub struct Prepared {
    method: Method,
    uri: Uri,
    bucket: Bucket,
    body: Bytes,
    account: Option<HeaderValue>,
}

/// The pooled client with its budget and breaker. Share it by `Arc`.
pub struct Transport {
    config: Config,
    bearer: HeaderValue,
    version: HeaderValue,
    http: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    budget: Budget,
    breaker: Mutex<Breaker>,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("base", &self.config.base).finish_non_exhaustive()
    }
}

impl Transport {
    /// Builds the client; connects when first used.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        if !matches!(config.base.scheme_str(), Some("http" | "https")) || config.base.authority().is_none() {
            return Err(ConfigError::Base(config.base));
        }
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", config.key.expose()))
            .map_err(|_| ConfigError::Header("the secret key"))?;
        bearer.set_sensitive(true);
        Ok(Self {
            bearer,
            version: HeaderValue::from_str(&config.version).map_err(|_| ConfigError::Header("the API version"))?,
            http: pooled(config.connect_timeout),
            budget: Budget::new(config.rates),
            breaker: Mutex::new(Breaker::new(config.breaker)),
            config,
        })
    }

    /// Turns a typed request into bytes.
    ///
    /// # Errors
    /// [`CallError::Invalid`]: an id in it cannot stand in a path.
    pub fn prepare(&self, request: &RequestBuilder) -> Result<Prepared, CallError> {
        Ok(Prepared {
            method: method(request.method),
            uri: uri(&self.config.base, request)?,
            bucket: Bucket::of(&request.path),
            body: request.body.as_deref().map(stable_form).unwrap_or_default(),
            account: None,
        })
    }

    /// Asks breaker and rate budget for leave to send, waiting at most `patience` for a token. `caller` tells whose
    /// failures are whose: a customer, or the operation.
    ///
    /// # Errors
    /// [`Busy`]; nothing happened.
    pub async fn permit(&self, bucket: Bucket, caller: &str, patience: Duration) -> Result<Permit<'_>, Busy> {
        let deadline = Instant::now() + patience;
        loop {
            let now = Instant::now();
            let Err(wait) = self.budget.take(bucket, now.into_std()) else { break };
            if now + wait > deadline {
                return Err(Busy { wait, why: "rate budget spent" });
            }
            sleep(wait).await;
        }
        let pass = locked(&self.breaker).admit(Instant::now().into_std());
        let pass = pass.map_err(|wait| Busy { wait, why: "circuit breaker open" })?;
        Ok(Permit { breaker: &self.breaker, caller: caller.to_owned(), pass })
    }

    /// Sends once. The bytes are the same each time; only the key may differ.
    pub async fn attempt(&self, permit: Permit<'_>, request: &Prepared, key: &IdempotencyKey) -> Attempt {
        let limit = self.config.attempt_timeout.min(Duration::from_secs(60));
        let attempt = match self.message(request, key) {
            Err(why) => return Attempt::NotSent(why),
            Ok(message) => timeout(limit, self.exchange(message))
                .await
                .unwrap_or_else(|_| Attempt::Unknown(format!("no answer within {limit:?}"))),
        };
        self.learn(permit, &attempt);
        attempt
    }

    /// Calls until there is a definite answer, by the rule of [`retry`], within the call's time.
    ///
    /// # Errors
    /// [`CallError`]; a lost answer anywhere on the way makes an unsuccessful end `Unknown`.
    pub async fn call(&self, request: &RequestBuilder, key: IdempotencyKey) -> Result<Answer, CallError> {
        self.call_prepared(&self.prepare(request)?, key).await
    }

    async fn call_prepared(&self, request: &Prepared, key: IdempotencyKey) -> Result<Answer, CallError> {
        let deadline = Instant::now() + self.config.call_timeout;
        let mut course = Course::new(key);
        loop {
            let attempt = self.try_now(request, course.key()).await;
            match course.after(attempt, retry::random()) {
                Step::Done(result) => return result,
                Step::Wait(delay) if Instant::now() + delay < deadline => sleep(delay).await,
                Step::Wait(_) => return Err(course.give_up()),
            }
        }
    }

    async fn try_now(&self, request: &Prepared, key: &IdempotencyKey) -> Attempt {
        match self.permit(request.bucket, request.uri.path(), Duration::from_secs(10)).await {
            Ok(permit) => self.attempt(permit, request, key).await,
            Err(busy) => Attempt::NotSent(busy.to_string()),
        }
    }

    fn message(&self, request: &Prepared, key: &IdempotencyKey) -> Result<Request<Full<Bytes>>, String> {
        let mut message = Request::builder()
            .method(request.method.clone())
            .uri(request.uri.clone())
            .header(AUTHORIZATION, self.bearer.clone())
            .header("stripe-version", self.version.clone())
            .header(USER_AGENT, concat!("tollgate/", env!("CARGO_PKG_VERSION")));
        if let Some(account) = &request.account {
            message = message.header("stripe-account", account.clone());
        }
        if request.method == Method::POST {
            message = message
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .header("idempotency-key", key.header());
        }
        message.body(Full::new(request.body.clone())).map_err(|e| format!("the request cannot be written: {e}"))
    }

    async fn exchange(&self, message: Request<Full<Bytes>>) -> Attempt {
        match self.http.request(message).await {
            Ok(response) => received(response).await,
            Err(error) if error.is_connect() => Attempt::NotSent(chain(&error)),
            Err(error) => Attempt::Unknown(chain(&error)),
        }
    }

    fn learn(&self, permit: Permit<'_>, attempt: &Attempt) {
        let now = Instant::now();
        let health = match attempt {
            Attempt::Refused(refused) if refused.status < 500 => Health::Up,
            Attempt::Answer(_) => Health::Up,
            Attempt::Refused(_) | Attempt::NotSent(_) | Attempt::Unknown(_) => Health::Down,
        };
        permit.used(health, now);
        if let Attempt::Refused(refused) = attempt
            && refused.status == 429
        {
            self.budget.limited(&refused.head, now.into_std());
        }
    }
}

impl StripeClient for Transport {
    type Err = CallError;

    /// A chosen idempotency key is kept (and made fresh by our rule); other strategies give way to our own retries.
    async fn execute(&self, request: CustomizedStripeRequest) -> Result<Bytes, CallError> {
        let (request, custom) = request.into_pieces();
        let mut prepared = self.prepare(&request)?;
        if let Some(account) = &custom.account_id {
            let value = HeaderValue::from_str(account.as_str());
            prepared.account = Some(value.map_err(|e| CallError::Invalid(format!("account id: {e}")))?);
        }
        let key = match custom.request_strategy {
            Some(RequestStrategy::Idempotent(key)) => IdempotencyKey::named(key.as_str(), 0),
            _ => IdempotencyKey::random().map_err(|e| CallError::Invalid(format!("no randomness: {e}")))?,
        };
        Ok(self.call_prepared(&prepared, key).await?.body)
    }
}

fn pooled(connect_timeout: Duration) -> legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>> {
    super::tls_provider();
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(connect_timeout));
    let connector = HttpsConnectorBuilder::new().with_webpki_roots().https_or_http().enable_http1().wrap_connector(tcp);
    legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(30))
        .pool_max_idle_per_host(32)
        .build(connector)
}

async fn received(response: Response<Incoming>) -> Attempt {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await;
    let body = body.map(http_body_util::Collected::to_bytes).map_err(|e| e.to_string());
    attempt::classify(head.status, &head.headers, body)
}

fn method(method: StripeMethod) -> Method {
    match method {
        StripeMethod::Get => Method::GET,
        StripeMethod::Post => Method::POST,
        StripeMethod::Delete => Method::DELETE,
    }
}

fn uri(base: &Uri, request: &RequestBuilder) -> Result<Uri, CallError> {
    // The builders put ids into the path as they are; an id with a dot, a percent sign or a question mark would be
    // another path.
    if !request.path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_-".contains(&b)) || request.path.contains("//") {
        return Err(CallError::Invalid(format!("path {:?}", request.path)));
    }
    let query = request.query.as_deref().filter(|q| !q.is_empty()).map(|q| format!("?{q}")).unwrap_or_default();
    let text = format!("{}/v1{}{query}", base.to_string().trim_end_matches('/'), request.path);
    text.parse().map_err(|e| CallError::Invalid(format!("{text}: {e}")))
}

/// The form with its fields in a fixed order: the builders keep maps in hash order, and the same idempotency key must
/// come with the same body. Array items carry their index, so that order means nothing.
fn stable_form(form: &str) -> Bytes {
    let mut fields: Vec<&str> = form.split('&').filter(|f| !f.is_empty()).collect();
    fields.sort_unstable();
    fields.join("&").into()
}

/// An error with its causes; hyper-util's own text leaves out which it was.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests;
