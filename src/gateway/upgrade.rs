//! Requests that ask to switch protocols (WebSocket and others): metered when they open, then bytes both ways.

use std::rc::Rc;
use std::time::Duration;

use http::header::{CONNECTION, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::forward::{Answered, Told, end_failed, finish, prepare};
use super::refusal::Refusal;
use super::{Lane, Reply};
use crate::config::settings::Upstream;
use crate::meter::Exchange;
use crate::meter::body::{Limits, NotDurable};
use crate::upstream::{Origin, Pool, Progress, SendError, Upload};

/// One request that may switch protocols.
pub struct Upgrade<'a> {
    /// Deadlines.
    pub upstream: &'a Upstream,
    /// Whither.
    pub origin: &'a Origin,
    /// Who pays; `None` where nobody does.
    pub exchange: Option<Exchange>,
    /// How long an answer that does not switch may take.
    pub limits: Limits,
}

impl Upgrade<'_> {
    /// Sends the request over a connection of its own; after a 101 both sides are joined, only then.
    ///
    /// # Errors
    /// The refusal to send; the exchange has ended and cost nothing.
    pub async fn run(
        mut self,
        mut parts: Parts,
        body: Incoming,
        told: &Told<'_>,
        lane: &Rc<Lane>,
    ) -> Result<Response<Reply>, Refusal> {
        let protocol = parts.headers.get(UPGRADE).cloned();
        let progress = Progress::default();
        let method = parts.method.clone();
        let client = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
        prepare(&mut parts, &body, told, self.origin);
        if let Some(protocol) = protocol {
            parts.headers.insert(UPGRADE, protocol);
            parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        let request = Request::from_parts(parts, Upload::of(body, &progress, lane.gateway.body_timeout));
        let response = match self.send(request).await {
            Ok(response) => response,
            Err(_) if progress.broken.get() => return Err(self.failed(&SendError::Upload)),
            Err(error) => return Err(self.failed(&error)),
        };
        if let Some(exchange) = &mut self.exchange {
            exchange.answered(response.status());
        }
        if let (StatusCode::SWITCHING_PROTOCOLS, Some(client)) = (response.status(), client) {
            return switched(response, client, self.exchange, lane).await;
        }
        // The origin answered like any other request, over a connection of its own.
        let (exchange, limits) = (self.exchange, self.limits);
        let origin_time = Duration::ZERO;
        let answered = Answered { response, exchange, lease: None, origin_time, limits, request_whole: true };
        finish(lane, answered, &method).await
    }

    async fn send(&mut self, request: Request<Upload>) -> Result<Response<Incoming>, SendError> {
        let mut sender = Pool::upgradable(self.origin, self.upstream.timeouts.connect).await?;
        if let Some(exchange) = &mut self.exchange {
            exchange.dispatched();
        }
        let sending = sender.send_request(request);
        let first_byte = self.upstream.timeouts.first_byte.map(|limit| Instant::now() + limit);
        let sent = match first_byte.into_iter().chain(self.limits.until).min() {
            Some(until) => tokio::time::timeout_at(until, sending).await.map_err(|_| SendError::Silent)?,
            None => sending.await,
        };
        sent.map_err(SendError::Broken)
    }

    fn failed(self, error: &SendError) -> Refusal {
        let refusal = super::forward::refusal_of(error);
        end_failed(self.exchange, &refusal);
        refusal
    }
}

/// The origin agreed: the opening is charged before its head goes out, and from here on bytes pass as they come.
async fn switched(
    mut response: Response<Incoming>,
    client: hyper::upgrade::OnUpgrade,
    exchange: Option<Exchange>,
    lane: &Lane,
) -> Result<Response<Reply>, Refusal> {
    let origin = hyper::upgrade::on(&mut response);
    let syncing = exchange.and_then(|exchange| lane.durability.wait(exchange.complete()));
    if let Some(syncing) = syncing {
        syncing.await.map_err(|NotDurable| Refusal::JournalFull)?;
    }
    tokio::task::spawn_local(async move {
        if let Err(error) = join(client, origin).await {
            tracing::debug!(%error, "an upgraded exchange ended");
        }
    });
    let (parts, _no_body) = response.into_parts();
    Ok(Response::from_parts(parts, Reply::Full(None)))
}

async fn join(client: hyper::upgrade::OnUpgrade, origin: hyper::upgrade::OnUpgrade) -> anyhow::Result<()> {
    let (client, origin) = (client.await?, origin.await?);
    tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(origin)).await?;
    Ok(())
}
