//! The request on its way to the origin and the response on its way back: headers, deadlines, retries.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use tokio::time::{timeout, timeout_at};

use super::refusal::Refusal;
use super::{Lane, Reply, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO, X_REQUEST_ID};
use super::{X_TENANT_FEATURES, X_TENANT_ID, X_TENANT_PLAN};
use crate::accounts::State;
use crate::config::settings::Upstream;
use crate::meter::body::{Limits, NotDurable};
use crate::meter::{Exchange, Metered};
use crate::upstream::{Flag, Lease, Origin, Outgoing, Progress, SendError, Sent, Upload, Written};

static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
static PROXY_AUTHENTICATE: HeaderName = HeaderName::from_static("proxy-authenticate");
static PROXY_AUTHORIZATION: HeaderName = HeaderName::from_static("proxy-authorization");

/// Headers of one hop only (RFC 9110, section 7.6.1). `TE: trailers` and `Trailer` are handled apart.
fn hop_by_hop() -> [&'static HeaderName; 7] {
    [
        &CONNECTION,
        &KEEP_ALIVE,
        &PROXY_CONNECTION,
        &PROXY_AUTHENTICATE,
        &PROXY_AUTHORIZATION,
        &TRANSFER_ENCODING,
        &UPGRADE,
    ]
}

/// How often a dead connection is replaced before the origin counts as broken.
const STALE_AT_MOST: usize = 3;

/// Removes what concerns one hop only, and what `Connection` nominates.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // Looking at the few names that are there is cheaper than asking for each that might be.
    if !headers.keys().any(|name| hop_by_hop().contains(&name)) {
        return;
    }
    let nominated: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in hop_by_hop().into_iter().chain(&nominated) {
        headers.remove(name);
    }
}

/// A client's connection, and how the origin hears of it.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it calls from.
    pub address: IpAddr,
    /// The same, as `X-Forwarded-For`.
    forwarded_for: HeaderValue,
}

impl Peer {
    /// A client at `address`.
    #[must_use]
    pub fn new(address: IpAddr) -> Self {
        let address = address.to_canonical();
        let text = HeaderValue::from_str(&address.to_string());
        Self { address, forwarded_for: text.expect("an address is visible ASCII") }
    }

    /// The chain of proxies before, with this peer added.
    fn after(&self, before: Option<&HeaderValue>) -> Option<HeaderValue> {
        let chain = before?.to_str().ok()?;
        HeaderValue::from_str(&format!("{chain}, {}", self.address)).ok()
    }
}

/// What the origin is told about the caller.
pub struct Told<'a> {
    /// The tenant, unless the route is open to all.
    pub state: Option<&'a State>,
    /// The request's id.
    pub request_id: &'a HeaderValue,
    /// The client.
    pub peer: &'a Peer,
    /// Whether the peer's own forwarding headers are believed.
    pub believe_peer: bool,
}

/// Makes the request's head fit for the next hop.
pub fn prepare(parts: &mut Parts, body: &Incoming, told: &Told<'_>, origin: &Origin) {
    remove_hop_by_hop(&mut parts.headers);
    if parts.headers.keys().any(|name| name == TE || name == EXPECT) {
        negotiate(&mut parts.headers);
    }
    frame_body(&mut parts.headers, body);
    forwarding_headers(&mut parts.headers, told);
    tenant_headers(&mut parts.headers, told);
    if !parts.headers.contains_key(HOST)
        && let Ok(host) = HeaderValue::from_str(origin.authority())
    {
        parts.headers.insert(HOST, host);
    }
    parts.version = Version::HTTP_11;
    if let Some(target) = parts.uri.path_and_query() {
        parts.uri = Uri::from(target.clone());
    }
}

/// `TE` is between neighbours but for `trailers`, which we pass on. As to `Expect`: our side of the connection has said
/// 100 by the time the body is read; asking again would only cost time.
fn negotiate(headers: &mut HeaderMap) {
    headers.remove(EXPECT);
    let te = headers.remove(TE);
    if te.is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers")) {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// A body of unknown length is chunked, on GET as well: without the header hyper would drop it there.
fn frame_body(headers: &mut HeaderMap, body: &Incoming) {
    use http_body::Body as _;
    if body.is_end_stream() || headers.contains_key(CONTENT_LENGTH) {
        return;
    }
    headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
}

fn forwarding_headers(headers: &mut HeaderMap, told: &Told<'_>) {
    let chain = if told.believe_peer { told.peer.after(headers.get(&X_FORWARDED_FOR)) } else { None };
    headers.insert(X_FORWARDED_FOR, chain.unwrap_or_else(|| told.peer.forwarded_for.clone()));
    if !(told.believe_peer && headers.contains_key(&X_FORWARDED_PROTO)) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if !(told.believe_peer && headers.contains_key(&X_FORWARDED_HOST)) {
        match headers.get(HOST).cloned() {
            Some(host) => headers.insert(X_FORWARDED_HOST, host),
            None => headers.remove(&X_FORWARDED_HOST),
        };
    }
    headers.insert(X_REQUEST_ID, told.request_id.clone());
}

fn tenant_headers(headers: &mut HeaderMap, told: &Told<'_>) {
    if let Some(state) = told.state {
        headers.insert(X_TENANT_ID, state.id_header.clone());
        headers.insert(X_TENANT_PLAN, state.plan_header.clone());
        if let Some(features) = &state.features_header {
            headers.insert(X_TENANT_FEATURES, features.clone());
        }
    }
}

/// One request to one upstream.
pub struct Forward<'a> {
    /// This worker.
    pub lane: &'a Rc<Lane>,
    /// Deadlines.
    pub upstream: &'a Upstream,
    /// Whither.
    pub origin: &'a Origin,
    /// Who pays; `None` where nobody does.
    pub exchange: Option<Exchange>,
    /// How long the whole exchange may take.
    pub limits: Limits,
}

/// A response, and how long the origin took for it.
pub struct Answered {
    /// Not yet through [`finish`].
    pub response: Response<Incoming>,
    /// Who pays.
    pub exchange: Option<Exchange>,
    /// The connection it comes over, where it may serve again.
    pub lease: Option<Lease>,
    /// From the request's departure to the response's head.
    pub origin_time: Duration,
    /// How long its body may take.
    pub limits: Limits,
    /// Whether the request had been sent to its end by then.
    pub request_whole: bool,
}

impl Forward<'_> {
    /// Sends the request and waits for the head of the response.
    ///
    /// # Errors
    /// The refusal to send; the exchange has ended and cost nothing.
    pub async fn send(mut self, parts: Parts, body: Incoming) -> Result<Answered, Refusal> {
        let progress = Progress::default();
        let until = self.limits.until;
        let heads = self.exchange_heads(parts, body, &progress);
        let answered = match until {
            Some(until) => timeout_at(until, heads).await.unwrap_or(Err(SendError::Silent)),
            None => heads.await,
        };
        match answered {
            Ok((response, lease, origin_time)) => {
                if let Some(exchange) = &mut self.exchange {
                    exchange.answered(response.status());
                }
                let (exchange, request_whole) = (self.exchange, progress.whole.get());
                Ok(Answered { response, exchange, lease: Some(lease), origin_time, limits: self.limits, request_whole })
            }
            Err(error) => {
                let refusal = refusal_of(&error);
                tracing::debug!(%error, upstream = self.upstream.name, "no response from the origin");
                end_failed(self.exchange, &refusal);
                Err(refusal)
            }
        }
    }

    async fn exchange_heads(
        &mut self,
        parts: Parts,
        body: Incoming,
        progress: &Progress,
    ) -> Result<(Response<Incoming>, Lease, Duration), SendError> {
        let body = Upload::of(body, progress, self.lane.gateway.body_timeout);
        // Without a body, a safe method may go out twice: RFC 9110, section 9.2.2.
        let may_replay = matches!(body, Upload::Empty) && parts.method.is_idempotent();
        let replay = if may_replay { Replay::of(&parts) } else { None };
        let mut request = Request::from_parts(parts, body);
        let mut broke = None;
        for attempt in 0..=STALE_AT_MOST {
            let mut lease = self.lease(attempt, &request).await?;
            let departed = Instant::now();
            match self.attempt(&mut lease, request, &progress.whole).await? {
                Sent::Answered(response) => return Ok((*response, lease, departed.elapsed())),
                Sent::NotSent(unsent) => request = *unsent,
                Sent::BrokeBefore(_) if progress.broken.get() => return Err(SendError::Upload),
                Sent::BrokeBefore(error) => match &replay {
                    Some(replay) if lease.is_reused() => {
                        request = replay.request();
                        broke = Some(error);
                    }
                    Some(_) | None => return Err(SendError::Broken(error)),
                },
            }
            if let Some(exchange) = &mut self.exchange {
                exchange.undispatched();
            }
        }
        Err(broke.map_or(SendError::Silent, SendError::Broken))
    }

    /// The last attempts go over fresh connections. What cannot be sent twice only goes over one that is surely open.
    async fn lease(&self, attempt: usize, request: &Outgoing) -> Result<Lease, SendError> {
        let (pool, limit) = (&self.lane.pool, self.upstream.timeouts.connect);
        if attempt + 1 >= STALE_AT_MOST {
            return pool.connect(self.origin, limit).await;
        }
        let replayable = request.method().is_idempotent() && matches!(request.body(), Upload::Empty);
        loop {
            let lease = pool.connection(self.origin, limit).await?;
            if replayable || !lease.is_reused() || lease.is_open() {
                return Ok(lease);
            }
        }
    }

    async fn attempt(&mut self, lease: &mut Lease, request: Outgoing, sent_whole: &Flag) -> Result<Sent, SendError> {
        let departure = Departure { written: lease.watch(), exchange: self.exchange.as_mut() };
        let sending = lease.send(request);
        let sent = match self.upstream.timeouts.first_byte {
            Some(limit) => first_byte(sending, limit, sent_whole).await,
            None => Ok(sending.await),
        };
        drop(departure);
        sent
    }
}

/// Waits for a response head: `limit` counts from the moment the request was sent whole, so that a slow upload is not
/// taken for a silent origin.
async fn first_byte(
    sending: impl Future<Output = Sent>,
    limit: Duration,
    sent_whole: &Flag,
) -> Result<Sent, SendError> {
    let mut sending = std::pin::pin!(sending);
    loop {
        let was_whole = sent_whole.get();
        match timeout(limit, &mut sending).await {
            Ok(sent) => return Ok(sent),
            // The upload ended during this wait: a whole wait more is at most twice the limit.
            Err(_) if !was_whole => {}
            Err(_) => return Err(SendError::Silent),
        }
    }
}

/// Tells the exchange, also when the client leaves in the middle of the wait, whether the origin has the head.
struct Departure<'a> {
    written: Written,
    exchange: Option<&'a mut Exchange>,
}

impl Drop for Departure<'_> {
    fn drop(&mut self) {
        if let Some(exchange) = self.exchange.as_deref_mut()
            && self.written.any()
        {
            exchange.dispatched();
        }
    }
}

/// What is needed to send a bodiless request again: its head, copied into one buffer, since it is hardly ever needed.
struct Replay {
    method: Method,
    uri: Uri,
    /// Per header: length of the name (2 bytes), length of the value (4 bytes), name, value.
    headers: Vec<u8>,
}

/// Most heads of requests fit without growing.
const REPLAY_BYTES: usize = 512;

impl Replay {
    /// `None` for a header longer than the limits allow.
    fn of(parts: &Parts) -> Option<Self> {
        let mut headers = Vec::with_capacity(REPLAY_BYTES);
        for (name, value) in &parts.headers {
            let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
            headers.extend_from_slice(&u16::try_from(name.len()).ok()?.to_le_bytes());
            headers.extend_from_slice(&u32::try_from(value.len()).ok()?.to_le_bytes());
            headers.extend_from_slice(name);
            headers.extend_from_slice(value);
        }
        Some(Self { method: parts.method.clone(), uri: parts.uri.clone(), headers })
    }

    fn request(&self) -> Outgoing {
        let mut request = Request::new(Upload::Empty);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        let mut rest = self.headers.as_slice();
        while let Some((name, value, after)) = next_header(rest) {
            request.headers_mut().append(name, value);
            rest = after;
        }
        request
    }
}

fn next_header(bytes: &[u8]) -> Option<(HeaderName, HeaderValue, &[u8])> {
    let (name_length, rest) = bytes.split_first_chunk()?;
    let (value_length, rest) = rest.split_first_chunk()?;
    let (name, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*name_length)))?;
    let (value, rest) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*value_length)).ok()?)?;
    Some((HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?, rest))
}

/// Ends the exchange of an attempt without a response: it is free, except where the client itself broke off what the
/// origin had begun to read (the exchange's drop).
pub fn end_failed(exchange: Option<Exchange>, refusal: &Refusal) {
    if let Some(exchange) = exchange
        && *refusal != Refusal::UploadBroken
    {
        exchange.origin_failed(refusal.status());
    }
}

/// What a client is told of a failed attempt.
pub fn refusal_of(error: &SendError) -> Refusal {
    match error {
        SendError::Connect { origin, source } => {
            Refusal::UpstreamUnreachable(format!("no connection to {origin} ({})", source.kind()).into())
        }
        SendError::ConnectTimeout { .. } | SendError::Silent => Refusal::UpstreamTimeout,
        SendError::Upload => Refusal::UploadBroken,
        SendError::Broken(_) => Refusal::UpstreamUnreachable("its connection broke".into()),
    }
}

/// Makes the response's head fit for the client and wraps its body, so that the exchange ends with its last byte.
///
/// # Errors
/// With `journal.sync: strict`, when the record of a response without a body could not be made durable.
pub async fn finish(lane: &Rc<Lane>, answered: Answered, method: &Method) -> Result<Response<Reply>, Refusal> {
    let (mut parts, body) = answered.response.into_parts();
    let trailers = parts.headers.remove(TRAILER);
    remove_hop_by_hop(&mut parts.headers);
    if let Some(trailers) = trailers {
        parts.headers.insert(TRAILER, trailers);
    }
    if !answered.request_whole {
        // The origin may never read the rest, and then nobody does: what follows it would not be a request.
        parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    parts.version = Version::HTTP_11;
    let durability = Rc::clone(&lane.durability);
    let metered = Metered::new(body, answered.exchange, answered.lease, answered.limits, durability);
    if metered.is_empty() || is_bodiless(method, parts.status) {
        metered.finish_empty().await.map_err(|NotDurable| Refusal::JournalFull)?;
        return Ok(Response::from_parts(parts, Reply::Full(None)));
    }
    Ok(Response::from_parts(parts, Reply::Metered(Box::new(metered))))
}

/// Responses that never have a body (RFC 9112, section 6.3).
fn is_bodiless(method: &Method, status: StatusCode) -> bool {
    method == Method::HEAD || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replayed_request_is_the_same_request() {
        let mut request = Request::new(());
        *request.method_mut() = Method::DELETE;
        *request.uri_mut() = Uri::from_static("/a/%2F?b=c&d");
        for (name, value) in
            [("host", "a.test"), ("x-twice", "1"), ("x-twice", "2"), ("x-empty", ""), ("x-odd", "\u{e9}")]
        {
            request.headers_mut().append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let (parts, ()) = request.into_parts();
        let again = Replay::of(&parts).unwrap().request();
        assert_eq!((again.method(), again.uri()), (&parts.method, &parts.uri));
        assert_eq!(again.headers(), &parts.headers);
    }

    #[test]
    fn hop_by_hop_headers_go_and_the_rest_stays() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, X-Mine"),
            ("connection", "close"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "Basic x"),
            ("x-other", "2"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        remove_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-other"]);
    }
}
