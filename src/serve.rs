//! A worker: one thread, one runtime, its own listener, pool and journal; one connection after the other through hyper.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::task::Poll;
use std::time::Duration;

use dashmap::DashMap;
use http::Request;
use http::header::CONNECTION;
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use crate::config::settings::Limits;
use crate::drain::Drain;
use crate::gateway::forward::Peer;
use crate::gateway::{self, Lane};
use crate::upstream::SWEEP;

pub mod stream;

use stream::Stream;

/// How long accepting pauses when the system is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections of the process, counted against their limits.
#[derive(Debug, Default)]
pub struct Connections {
    open: AtomicUsize,
    by_address: DashMap<IpAddr, usize>,
}

/// One open connection; its drop closes the count.
struct Counted {
    connections: Arc<Connections>,
    address: Option<IpAddr>,
}

impl Connections {
    /// Connections open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Acquire)
    }

    fn enter(self: &Arc<Self>, address: IpAddr, limits: &Limits) -> Option<Counted> {
        let open = self.open.fetch_add(1, AcqRel);
        let mut counted = Counted { connections: Arc::clone(self), address: None };
        if limits.connections != 0 && open >= limits.connections {
            return None;
        }
        if limits.connections_per_address != 0 {
            let mut of_address = self.by_address.entry(address).or_default();
            if *of_address >= limits.connections_per_address {
                return None;
            }
            *of_address += 1;
            counted.address = Some(address);
        }
        Some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.connections.open.fetch_sub(1, AcqRel);
        if let Some(address) = self.address {
            self.connections.by_address.remove_if_mut(&address, |_, open| {
                *open -= 1;
                *open == 0
            });
        }
    }
}

/// What a worker needs besides its lane.
#[derive(Clone)]
pub struct Worker {
    /// Bounds on what clients may send.
    pub limits: Arc<Limits>,
    /// Shared by all workers.
    pub connections: Arc<Connections>,
    /// When to stop.
    pub drain: Drain,
}

impl Worker {
    /// Serves until the drain ends. Runs on the worker's own current-thread runtime.
    ///
    /// # Errors
    /// When the listener cannot be used.
    pub async fn run(self, listener: std::net::TcpListener, lane: Rc<Lane>) -> io::Result<()> {
        let listener = TcpListener::from_std(listener)?;
        let local = LocalSet::new();
        local.run_until(self.accept(listener, Rc::clone(&lane))).await;
        lane.pool.close();
        // Connections still open end by themselves, or with the cut.
        tokio::select! {
            () = local => {}
            () = self.drain.cut.cancelled() => {}
        }
        lane.stats.borrow_mut().hand_over();
        Ok(())
    }

    async fn accept(&self, listener: TcpListener, lane: Rc<Lane>) {
        let mut sweep = tokio::time::interval(SWEEP);
        let mut second = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                () = self.drain.stop.cancelled() => return,
                _ = sweep.tick() => lane.pool.sweep(),
                _ = second.tick() => lane.stats.borrow_mut().hand_over(),
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => self.spawn(stream, peer, &lane),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }

    fn spawn(&self, stream: TcpStream, peer: SocketAddr, lane: &Rc<Lane>) {
        let Some(counted) = self.connections.enter(peer.ip(), &self.limits) else {
            metrics::counter!("tollgate_connections_refused_total").increment(1);
            return;
        };
        let (worker, lane) = (self.clone(), Rc::clone(lane));
        tokio::task::spawn_local(async move {
            let _counted = counted;
            if let Err(error) = worker.connection(stream, peer, lane).await {
                tracing::debug!(%error, %peer, "a client's connection ended");
            }
        });
    }

    async fn connection(self, stream: TcpStream, peer: SocketAddr, lane: Rc<Lane>) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        let more_to_come = Arc::new(AtomicBool::new(false));
        let stream = Stream::new(stream, Arc::clone(&more_to_come));
        let client = Rc::new((lane, Peer::new(peer.ip()), more_to_come));
        let service = service_fn(move |request: Request<Incoming>| {
            let client = Rc::clone(&client);
            let has_body = !request.body().is_end_stream();
            async move {
                let response = gateway::serve(&client.0, &client.1, request).await;
                client.2.store(has_body && response.headers().contains_key(CONNECTION), Relaxed);
                Ok::<_, Infallible>(response)
            }
        });
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .max_headers(self.limits.headers)
            .max_buf_size(self.limits.header_bytes.max(8 * 1024))
            .half_close(false);
        // Not `pipeline_flush`: with it hyper 1.12 does not flush its answer to a head that it cannot parse.
        let connection = builder.serve_connection(stream, service).with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let mut stop = std::pin::pin!(self.drain.stop.cancelled());
        // Polled once, to be woken by the drain; from then on the flag is looked at, which costs no lock.
        std::future::poll_fn(|cx| Poll::Ready(stop.as_mut().poll(cx).is_ready())).await;
        let mut told = false;
        std::future::poll_fn(|cx| {
            if !told && self.drain.is_stopping() {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
            connection.as_mut().poll(cx)
        })
        .await?;
        Ok(())
    }
}
