//! The admin port: bound before anything else, so that a node that waits can say for what.

use std::net::{SocketAddr, TcpListener};

use anyhow::Context as _;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::control::{self, Readiness};
use crate::telemetry::Metrics;

/// The bound socket; each listener made of it takes over its backlog.
pub(super) struct AdminPort(pub(super) TcpListener);

/// Health on the admin port, until [`Waiting::end`].
pub(super) struct Waiting {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl AdminPort {
    pub(super) fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let bound = TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        bound.map(Self).with_context(|| format!("cannot listen on {address} (admin)"))
    }

    /// To be called on the runtime that will use it.
    pub(super) fn listener(&self) -> anyhow::Result<tokio::net::TcpListener> {
        let listener = self.0.try_clone().and_then(tokio::net::TcpListener::from_std);
        listener.context("the admin port")
    }

    pub(super) fn while_waiting(&self, readiness: &Readiness, metrics: &Metrics) -> anyhow::Result<Waiting> {
        let stop = CancellationToken::new();
        let serving = control::serve_waiting(self.listener()?, readiness.clone(), metrics.clone(), stop.clone());
        Ok(Waiting { stop, task: tokio::spawn(serving) })
    }
}

impl Waiting {
    pub(super) async fn end(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "health on the admin port broke off");
        }
    }
}
