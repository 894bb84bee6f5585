//! Connections to origins: one pool per worker, no lock between cores; races with origins that close idle
//! connections stay hidden from the client wherever that is safe.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

pub mod body;
pub mod io;

pub use body::Upload;
use io::{Socket, Wire};

/// Idle connections kept per origin and worker.
const IDLE_AT_MOST: usize = 512;
/// A connection idle for longer is not used again: most origins close theirs after 60 s or more.
const IDLE_FOR: Duration = Duration::from_secs(50);

/// What goes to an origin.
pub type Outgoing = Request<Upload>;

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No connection: nothing was sent.
    #[error("cannot connect to {origin}: {source}")]
    Connect {
        /// `host:port`.
        origin: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// No connection in time: nothing was sent.
    #[error("no connection to {origin} in time")]
    ConnectTimeout {
        /// `host:port`.
        origin: String,
    },
    /// The connection broke, or the answer was not HTTP.
    #[error("the origin's connection broke: {0}")]
    Broken(#[source] hyper::Error),
    /// The origin has the request and is silent.
    #[error("the origin did not answer in time")]
    Silent,
}

/// An origin's address, ready to connect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// `host:port`.
    pub authority: Rc<str>,
}

impl Origin {
    /// From a checked `http://host[:port]`.
    #[must_use]
    pub fn of(uri: &Uri) -> Self {
        let host = uri.host().unwrap_or_default();
        let port = uri.port_u16().unwrap_or(80);
        Self { authority: format!("{host}:{port}").into() }
    }
}

/// One connection that is not in use.
struct Idle {
    sender: http1::SendRequest<Upload>,
    socket: Rc<Socket>,
    since: Instant,
}

/// The idle connections of one worker.
#[derive(Clone, Default)]
pub struct Pool(Rc<Shelf>);

#[derive(Default)]
struct Shelf {
    idle: RefCell<HashMap<Origin, Vec<Idle>>>,
    /// On drain: nothing is kept any more.
    closed: Cell<bool>,
}

/// A connection in use. Dropping it closes the connection; [`Lease::give_back`] keeps it.
pub struct Lease {
    sender: http1::SendRequest<Upload>,
    socket: Rc<Socket>,
    origin: Origin,
    pool: Pool,
    reused: bool,
}

impl Pool {
    /// An idle connection if there is one that still looks alive, else a new one.
    ///
    /// # Errors
    /// [`SendError::Connect`] and [`SendError::ConnectTimeout`].
    pub async fn connection(&self, origin: &Origin, timeout: Option<Duration>) -> Result<Lease, SendError> {
        if let Some(idle) = self.take_idle(origin) {
            return Ok(self.lease(origin, idle.sender, idle.socket, true));
        }
        self.connect(origin, timeout).await
    }

    /// A new connection.
    ///
    /// # Errors
    /// [`SendError::Connect`] and [`SendError::ConnectTimeout`].
    pub async fn connect(&self, origin: &Origin, timeout: Option<Duration>) -> Result<Lease, SendError> {
        let stream = open(origin, timeout).await?;
        let socket = Rc::new(Socket::new(stream));
        let handshake = http1::Builder::new().handshake(Wire(Rc::clone(&socket))).await;
        let (sender, connection) = handshake.map_err(SendError::Broken)?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to an origin ended");
            }
        });
        Ok(self.lease(origin, sender, socket, false))
    }

    /// A connection of its own for a request that may switch protocols; it never enters the pool.
    ///
    /// # Errors
    /// [`SendError::Connect`] and [`SendError::ConnectTimeout`].
    pub async fn upgradable(
        origin: &Origin,
        timeout: Option<Duration>,
    ) -> Result<http1::SendRequest<Upload>, SendError> {
        let stream = open(origin, timeout).await?;
        let (sender, connection) =
            http1::Builder::new().handshake(TokioIo::new(stream)).await.map_err(SendError::Broken)?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "an upgraded connection to an origin ended");
            }
        });
        Ok(sender)
    }

    fn lease(&self, origin: &Origin, sender: http1::SendRequest<Upload>, socket: Rc<Socket>, reused: bool) -> Lease {
        Lease { sender, socket, origin: origin.clone(), pool: self.clone(), reused }
    }

    fn take_idle(&self, origin: &Origin) -> Option<Idle> {
        let mut pool = self.0.idle.borrow_mut();
        let idle = pool.get_mut(origin)?;
        idle.retain(|one| !one.sender.is_closed() && !one.socket.has_hung_up());
        // The newest first. One given back a moment ago may not be ready yet: it stays for the next request.
        let ready = idle.iter().rposition(|one| one.sender.is_ready())?;
        let chosen = idle.swap_remove(ready);
        (chosen.since.elapsed() < IDLE_FOR).then_some(chosen)
    }

    /// Closes connections that have been idle for long.
    pub fn sweep(&self) {
        self.0.idle.borrow_mut().retain(|_, idle| {
            idle.retain(|one| one.since.elapsed() < IDLE_FOR && !one.sender.is_closed());
            !idle.is_empty()
        });
    }

    /// Closes idle connections, and those in use as they come back.
    pub fn close(&self) {
        self.0.closed.set(true);
        self.0.idle.borrow_mut().clear();
    }

    /// Idle connections held.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.0.idle.borrow().values().map(Vec::len).sum()
    }
}

async fn open(origin: &Origin, timeout: Option<Duration>) -> Result<TcpStream, SendError> {
    let named = || origin.authority.to_string();
    let connect = TcpStream::connect(&*origin.authority);
    let stream = match timeout {
        Some(limit) => {
            tokio::time::timeout(limit, connect).await.map_err(|_| SendError::ConnectTimeout { origin: named() })?
        }
        None => connect.await,
    };
    let stream = stream.map_err(|source| SendError::Connect { origin: named(), source })?;
    stream.set_nodelay(true).map_err(|source| SendError::Connect { origin: named(), source })?;
    Ok(stream)
}

/// What became of one attempt.
pub enum Sent {
    /// A response head came.
    Answered(Box<Response<Incoming>>),
    /// The connection was dead before the request went out, which is returned untouched.
    NotSent(Box<Outgoing>),
    /// The connection broke after at least part of the request was written, before any byte of a response.
    BrokeBefore(hyper::Error),
}

impl Lease {
    /// Whether the connection has served before: only then can it have been closed behind our back.
    #[must_use]
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// Looks at the socket itself: false if the origin has closed it (or sent something unasked). One system call.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.socket.is_quiet()
    }

    /// Begins a request: watches whether bytes go out on this connection from now on.
    #[must_use]
    pub fn watch(&self) -> Written {
        self.socket.begin();
        Written { socket: Rc::clone(&self.socket), before: self.socket.written() }
    }

    /// Sends one request and waits for the response head.
    pub async fn send(&mut self, request: Outgoing) -> Sent {
        match self.sender.try_send_request(request).await {
            Ok(response) => Sent::Answered(Box::new(response)),
            Err(mut failed) => match failed.take_message() {
                Some(request) => Sent::NotSent(Box::new(request)),
                None => Sent::BrokeBefore(failed.into_error()),
            },
        }
    }

    /// The response has been read to its end: the connection may serve again.
    pub fn give_back(self) {
        if self.sender.is_closed() || self.pool.0.closed.get() {
            return;
        }
        let mut pool = self.pool.0.idle.borrow_mut();
        let idle = pool.entry(self.origin).or_default();
        if idle.len() < IDLE_AT_MOST {
            idle.push(Idle { sender: self.sender, socket: self.socket, since: Instant::now() });
        }
    }
}

/// Tells whether a request's bytes have left.
pub struct Written {
    socket: Rc<Socket>,
    before: u64,
}

impl Written {
    /// Whether anything was written since the watch began: the head goes out in one write, so then the origin has it.
    #[must_use]
    pub fn any(&self) -> bool {
        self.socket.written() > self.before
    }
}

/// A flag shared within one worker.
pub type Flag = Rc<Cell<bool>>;
