//! Requests that ask to switch protocols (WebSocket and others): metered when they open, then bytes both ways.

use std::rc::Rc;

use http::header::{CONNECTION, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use super::forward::{Told, prepare, remove_hop_by_hop};
use super::refusal::Refusal;
use super::{Lane, Reply};
use crate::config::settings::Upstream;
use crate::meter::{Exchange, Metered};
use crate::upstream::{Flag, Origin, Pool, SendError, Upload};

/// One request that may switch protocols.
pub struct Upgrade<'a> {
    /// Deadlines.
    pub upstream: &'a Upstream,
    /// Whither.
    pub origin: &'a Origin,
    /// Who pays; `None` where nobody does.
    pub exchange: Option<Exchange>,
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
        let sent = Flag::default();
        let client = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
        prepare(&mut parts, &body, told, self.origin);
        if let Some(protocol) = protocol {
            parts.headers.insert(UPGRADE, protocol);
            parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        let request = Request::from_parts(parts, Upload::of(body, &sent, lane.gateway.body_timeout));
        let response = match self.send(request).await {
            Ok(response) => response,
            Err(error) => return Err(self.failed(&error)),
        };
        if let Some(exchange) = &mut self.exchange {
            exchange.answered(response.status());
        }
        Ok(match (response.status(), client) {
            (StatusCode::SWITCHING_PROTOCOLS, Some(client)) => switched(response, client, self.exchange),
            (_, _) => refused_switch(response, self.exchange, lane, self.upstream),
        })
    }

    async fn send(&mut self, request: Request<Upload>) -> Result<Response<Incoming>, SendError> {
        let mut sender = Pool::upgradable(self.origin, self.upstream.timeouts.connect).await?;
        if let Some(exchange) = &mut self.exchange {
            exchange.dispatched();
        }
        let sending = sender.send_request(request);
        let sent = match self.upstream.timeouts.first_byte {
            Some(limit) => tokio::time::timeout(limit, sending).await.map_err(|_| SendError::Silent)?,
            None => sending.await,
        };
        sent.map_err(SendError::Broken)
    }

    fn failed(self, error: &SendError) -> Refusal {
        let refusal = super::forward::refusal_of(error);
        if let Some(exchange) = self.exchange {
            exchange.origin_failed(refusal.status());
        }
        refusal
    }
}

/// The origin agreed: the opening is charged, and from here on bytes pass as they come.
fn switched(
    mut response: Response<Incoming>,
    client: hyper::upgrade::OnUpgrade,
    exchange: Option<Exchange>,
) -> Response<Reply> {
    let origin = hyper::upgrade::on(&mut response);
    tokio::task::spawn_local(async move {
        if let Err(error) = join(client, origin).await {
            tracing::debug!(%error, "an upgraded exchange ended");
        }
    });
    if let Some(exchange) = exchange {
        exchange.complete();
    }
    let (parts, _no_body) = response.into_parts();
    Response::from_parts(parts, Reply::Full(None))
}

async fn join(client: hyper::upgrade::OnUpgrade, origin: hyper::upgrade::OnUpgrade) -> anyhow::Result<()> {
    let (client, origin) = (client.await?, origin.await?);
    tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(origin)).await?;
    Ok(())
}

/// The origin answered like any other request.
fn refused_switch(
    response: Response<Incoming>,
    exchange: Option<Exchange>,
    lane: &Rc<Lane>,
    upstream: &Upstream,
) -> Response<Reply> {
    let (mut parts, body) = response.into_parts();
    remove_hop_by_hop(&mut parts.headers);
    let metered = Metered::new(body, exchange, None, upstream.timeouts.idle, Rc::clone(&lane.durability));
    Response::from_parts(parts, Reply::Metered(Box::new(metered)))
}
