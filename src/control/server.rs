//! Connections of the admin port: bounded in number, in the time their heads may take, and in the time they may outlive
//! the order to stop.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at once; further ones wait in the listener's backlog.
const MOST_CONNECTIONS: usize = 512;

/// From a connection's first byte, or its last answer, to the next complete head.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);

/// How long calls in flight may go on after the order to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Pause after a failed accept: the process is out of file descriptors, and spinning would not bring any.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` until `cancel`, then until the calls in flight have ended or [`STOP_DEADLINE`] has passed.
pub(super) async fn run(listener: TcpListener, router: Router, tasks: TaskTracker, cancel: CancellationToken) {
    let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    while let Some((stream, slot)) = cancel.run_until_cancelled(accept(&listener, &slots)).await {
        tasks.spawn(connection(stream, slot, router.clone(), cancel.clone()));
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(STOP_DEADLINE, tasks.wait()).await.is_err() {
        tracing::warn!(left = tasks.len(), "admin calls were still running at the end");
    }
}

async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    let slot = Arc::clone(slots).acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, slot),
            Err(error) => {
                tracing::warn!(%error, "the admin port cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection to its end; the slot is free then.
async fn connection(stream: TcpStream, slot: OwnedSemaphorePermit, router: Router, cancel: CancellationToken) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    let ended = match cancel.run_until_cancelled(serving.as_mut()).await {
        Some(ended) => ended,
        None => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an admin connection ended early");
    }
    drop(slot);
}
