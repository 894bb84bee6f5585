//! One request, top to bottom: route, identify, admit, forward; then the answer with what it cost.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Cache};
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, CONNECTION, ORIGIN, UPGRADE};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Response};
use hyper::body::Incoming;

use crate::accounts::{Accounts, State};
use crate::clock::Clock;
use crate::journal::LocalWriter;
use crate::ledger::Node;
use crate::meter::Exchange;
use crate::meter::body::{Durability, Limits};
use crate::pricing::Matched;
use crate::units::NameId;
use crate::upstream::Pool;

pub mod admit;
pub mod announce;
pub mod forward;
pub mod identify;
pub mod leftover;
pub mod refusal;
pub mod reply;
pub mod snapshot;
pub mod stats;
pub mod upgrade;

pub use refusal::Refusal;
pub use reply::Reply;
pub use snapshot::Snapshot;

use admit::Admitted;
use announce::{Announced, Audience};
use forward::{Answered, Forward, Peer, Told};
use leftover::Leftover;
use stats::Stats;

/// The caller, told to the upstream; from clients it is removed.
pub const X_TENANT_ID: HeaderName = HeaderName::from_static("x-tenant-id");
/// The caller's plan, told to the upstream; from clients it is removed.
pub const X_TENANT_PLAN: HeaderName = HeaderName::from_static("x-tenant-plan");
/// The caller's features, told to the upstream; from clients it is removed.
pub const X_TENANT_FEATURES: HeaderName = HeaderName::from_static("x-tenant-features");
/// Names a request in logs, problems and at the upstream.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The client's address, as a chain of proxies saw it.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The scheme that the client used.
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The host that the client asked for.
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What all workers share.
pub struct Gateway {
    /// Configuration, prices and routes; one load holds for a whole request.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Tenants and keys.
    pub accounts: Arc<Accounts>,
    /// Budgets.
    pub node: Arc<Node>,
    /// Time.
    pub clock: Clock,
    /// Longest silence while a request body arrives.
    pub body_timeout: Duration,
    /// Most that request line and headers may come to.
    pub header_bytes: usize,
}

/// What one worker has for itself: nothing in it is shared between cores.
pub struct Lane {
    /// What all workers share.
    pub gateway: Arc<Gateway>,
    /// This worker's journal.
    pub writer: Rc<LocalWriter>,
    /// Waits for the disk where the configuration says so.
    pub durability: Rc<Durability>,
    /// Connections to origins.
    pub pool: Pool,
    /// Counters, with their handles kept.
    pub stats: RefCell<Stats>,
    /// Makes request ids.
    pub ids: reply::RequestIds,
    /// The snapshot as this worker last saw it: a look at it costs no count that cores share.
    pub current: RefCell<Current>,
}

/// A snapshot under a count of its worker's own.
struct Held(Arc<Snapshot>);

/// A worker's view of the shared snapshot.
pub struct Current {
    cache: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    held: Rc<Held>,
}

impl Current {
    /// A view that follows `shared`.
    #[must_use]
    pub fn new(shared: Arc<ArcSwap<Snapshot>>) -> Self {
        let mut cache = Cache::new(shared);
        let held = Rc::new(Held(Arc::clone(cache.load())));
        Self { cache, held }
    }

    fn get(&mut self) -> Rc<Held> {
        let now = self.cache.load();
        if !Arc::ptr_eq(now, &self.held.0) {
            self.held = Rc::new(Held(Arc::clone(now)));
        }
        Rc::clone(&self.held)
    }
}

/// A request's route under the snapshot that holds for it.
#[derive(Debug)]
pub struct Priced<'a> {
    /// Configuration for the whole of this request.
    pub snapshot: &'a Snapshot,
    /// The rule.
    pub matched: Matched<'a>,
    /// The route's name in the journal.
    pub name: NameId,
}

/// One request in the making.
struct Call<'a> {
    lane: &'a Rc<Lane>,
    snapshot: &'a Snapshot,
    peer: &'a Peer,
    id: HeaderValue,
    started: Instant,
}

/// Answers one request. Never fails: what goes wrong is an answer too.
pub async fn serve(lane: &Rc<Lane>, peer: &Peer, request: Request<Incoming>) -> Response<Reply> {
    let started = Instant::now();
    let held = lane.current.borrow_mut().get();
    let snapshot = &*held.0;
    let id = lane.ids.of(request.headers());
    let origin = request.headers().get(ORIGIN).cloned();
    let (mut parts, body) = request.into_parts();
    let leftover = Leftover::of(&parts, &body);
    let call = Call { lane, snapshot, peer, id: id.clone(), started };
    let (route, passage) = call.admit(&mut parts).await;
    let (refusal, body) = match passage {
        Err(refusal) => (refusal, Some(body)),
        Ok(passage) => match call.pass(parts, body, passage).await {
            Err(refusal) => (refusal, None),
            Ok((response, origin_time)) => {
                let status = response.status();
                lane.stats.borrow_mut().answered(snapshot, route, status, started.elapsed(), origin_time);
                return response;
            }
        },
    };
    lane.stats.borrow_mut().refused(snapshot, route, &refusal);
    let mut response = refusal.response(&id, origin);
    if !leftover.settle(body).await {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

type Answer = Result<(Response<Reply>, Duration), Refusal>;

/// Who pays for what, and what the answer says about that.
struct Paid<'a> {
    admitted: Admitted,
    announced: Announced,
    priced: Priced<'a>,
}

/// A request that may pass; `None` where that is free for everybody.
type Passage<'a> = Option<Paid<'a>>;

impl<'a> Call<'a> {
    /// The route's index (for the counters), and whether the request may pass: all that is decided by its head.
    async fn admit(&self, parts: &mut Parts) -> (Option<usize>, Result<Passage<'a>, Refusal>) {
        let limit = self.lane.gateway.header_bytes;
        if head_bytes(parts) > limit {
            return (None, Err(Refusal::HeadTooLarge(limit)));
        }
        let matched = match self.snapshot.prices.pricing.routes.find(&parts.method, parts.uri.path()) {
            Ok(matched) => matched,
            Err(_ambiguous) => return (None, Err(Refusal::AmbiguousPath)),
        };
        let index = matched.index;
        let priced = Priced { snapshot: self.snapshot, name: self.snapshot.route_names[index], matched };
        (Some(index), self.priced(parts, priced).await)
    }

    async fn priced(&self, parts: &mut Parts, priced: Priced<'a>) -> Result<Passage<'a>, Refusal> {
        if parts.method == Method::CONNECT {
            return Err(Refusal::BadRequest("CONNECT is not served here."));
        }
        let identity = &self.snapshot.identity;
        let presented = identify::take_credentials(parts, identity, self.peer.address);
        if priced.matched.route.public || is_preflight(parts) {
            return Ok(None);
        }
        let caller = identify::identify(presented, identity, &self.lane.gateway.accounts).await?;
        let now_ms = self.lane.gateway.clock.now_ms();
        let admitted = admit::admit(self.lane, &caller, &priced, &parts.method, parts.uri.path(), now_ms).await?;
        let announced = Announced::of(&admitted, now_ms);
        Ok(Some(Paid { admitted, announced, priced }))
    }

    async fn pass(&self, parts: Parts, body: Incoming, passage: Passage<'_>) -> Answer {
        let Some(Paid { admitted, announced, priced }) = passage else {
            return self.forward(parts, body, None, None).await;
        };
        let audience = if parts.headers.contains_key(ORIGIN) { Audience::Browser } else { Audience::Program };
        let (mut response, origin_time) =
            self.forward(parts, body, Some(&admitted.state), Some(admitted.exchange)).await?;
        announced.write(&mut response, &priced, &self.id, audience);
        Ok((response, origin_time))
    }

    async fn forward(
        &self,
        mut parts: Parts,
        body: Incoming,
        state: Option<&State>,
        exchange: Option<Exchange>,
    ) -> Answer {
        let host = parts.uri.host().or_else(|| parts.headers.get(http::header::HOST)?.to_str().ok());
        let Some(upstream) = self.snapshot.upstream(host.unwrap_or_default(), parts.uri.path()) else {
            forward::end_failed(exchange, &Refusal::NoUpstream);
            return Err(Refusal::NoUpstream);
        };
        let timeouts = &upstream.settings.timeouts;
        let limits = Limits::from_now(timeouts.idle, timeouts.total);
        let origin = upstream.next_origin();
        let told = Told {
            state,
            request_id: &self.id,
            peer: self.peer,
            believe_peer: self.snapshot.is_trusted(self.peer.address),
        };
        if parts.headers.contains_key(UPGRADE) {
            let upgrade = upgrade::Upgrade { upstream: &upstream.settings, origin, exchange, limits };
            return upgrade.run(parts, body, &told, self.lane).await.map(|r| (r, self.started.elapsed()));
        }
        let method = parts.method.clone();
        forward::prepare(&mut parts, &body, &told, origin);
        let forward = Forward { lane: self.lane, upstream: &upstream.settings, origin, exchange, limits };
        let answered: Answered = forward.send(parts, body).await?;
        let origin_time = answered.origin_time;
        Ok((forward::finish(self.lane, answered, &method).await?, origin_time))
    }
}

/// What a request line and headers came to, within a few bytes. hyper's own bound only stops heads that arrive in
/// several reads.
fn head_bytes(parts: &Parts) -> usize {
    let line = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let field = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
    line + parts.headers.iter().map(field).sum::<usize>()
}

/// A CORS preflight carries no credential (Fetch standard, section 3.3.2) and is free.
fn is_preflight(parts: &Parts) -> bool {
    parts.method == Method::OPTIONS
        && parts.headers.contains_key(ORIGIN)
        && parts.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}
