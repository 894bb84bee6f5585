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
    let ended = if let Some(ended) = cancel.run_until_cancelled(serving.as_mut()).await {
        ended
    } else {
        serving.as_mut().graceful_shutdown();
        serving.await
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an admin connection ended early");
    }
    drop(slot);
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    struct Port {
        stream: TcpStream,
        cancel: CancellationToken,
        running: tokio::task::JoinHandle<()>,
    }

    /// A port whose one path takes a second, and a connection to it.
    async fn port() -> Port {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let router = Router::new().route(
            "/",
            get(async || {
                tokio::time::sleep(Duration::from_secs(1)).await;
                "done"
            }),
        );
        let cancel = CancellationToken::new();
        let running = tokio::spawn(run(listener, router, TaskTracker::new(), cancel.clone()));
        Port { stream: TcpStream::connect(addr).await.expect("listening"), cancel, running }
    }

    async fn read_all(stream: &mut TcpStream) -> String {
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("text until the end");
        text
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_in_flight_ends_and_its_connection_with_it() {
        let mut port = port().await;
        port.stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
        tokio::time::sleep(Duration::from_millis(500)).await;
        port.cancel.cancel();
        let answer = read_all(&mut port.stream).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("done"), "{answer}");
        port.running.await.expect("no panic");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_does_not_hold_up_the_end() {
        let mut port = port().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        let began = tokio::time::Instant::now();
        port.cancel.cancel();
        port.running.await.expect("no panic");
        assert!(began.elapsed() < STOP_DEADLINE, "{:?}", began.elapsed());
        assert_eq!(read_all(&mut port.stream).await, "");
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_does_not_come_ends_the_connection() {
        let mut port = port().await;
        port.stream.write_all(b"GET / HT").await.expect("sent");
        let began = tokio::time::Instant::now();
        read_all(&mut port.stream).await;
        assert!(began.elapsed() <= HEAD_DEADLINE + Duration::from_secs(1), "{:?}", began.elapsed());
        port.cancel.cancel();
        port.running.await.expect("no panic");
    }
}
