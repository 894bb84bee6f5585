//! Connections to origins: one pool per worker, no lock between cores; races with origins that close idle
//! connections stay hidden from the client wherever that is safe.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

pub mod body;
pub mod io;

pub use body::{Progress, Upload};
use io::{Socket, Wire};

/// Idle connections kept per origin and worker.
const IDLE_AT_MOST: usize = 512;
/// A connection idle for so many sweeps is not used again: most origins close theirs after 60 s or more.
const IDLE_TICKS: u32 = 5;
/// How often [`Pool::sweep`] is to be called.
pub const SWEEP: Duration = Duration::from_secs(10);

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
    /// The client broke off its request, or fell silent in it: the origin is not to blame.
    #[error("the client's request broke off")]
    Upload,
}

/// An origin's address, ready to connect. Made once per configuration; clones are the same origin.
#[derive(Clone, Debug)]
pub struct Origin(Arc<Address>);

#[derive(Debug)]
struct Address {
    /// `host:port`.
    authority: String,
}

impl Origin {
    /// From a checked `http://host[:port]`.
    #[must_use]
    pub fn of(uri: &Uri) -> Self {
        let host = uri.host().unwrap_or_default();
        let port = uri.port_u16().unwrap_or(80);
        Self(Arc::new(Address { authority: format!("{host}:{port}") }))
    }

    /// `host:port`.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.0.authority
    }
}

/// One connection that is not in use.
struct Idle {
    sender: http1::SendRequest<Upload>,
    socket: Rc<Socket>,
    /// The pool's tick when it came back.
    since: u32,
}

/// The idle connections of one worker.
#[derive(Clone, Default)]
pub struct Pool(Rc<Shelves>);

#[derive(Default)]
struct Shelves {
    /// One per origin ever used: there are few, and they are found by their pointer.
    all: RefCell<Vec<Shelf>>,
    /// Counts sweeps: a clock that costs nothing to read.
    tick: Cell<u32>,
    /// On drain: nothing is kept any more.
    closed: Cell<bool>,
}

struct Shelf {
    origin: Origin,
    idle: Vec<Idle>,
}

impl Shelves {
    /// The index of `origin`'s shelf; a reloaded configuration's origin takes over the shelf of the same address.
    fn index(&self, origin: &Origin) -> usize {
        let mut all = self.all.borrow_mut();
        if let Some(index) = all.iter().position(|shelf| Arc::ptr_eq(&shelf.origin.0, &origin.0)) {
            return index;
        }
        if let Some(index) = all.iter().position(|shelf| shelf.origin.authority() == origin.authority()) {
            all[index].origin = origin.clone();
            return index;
        }
        all.push(Shelf { origin: origin.clone(), idle: Vec::new() });
        all.len() - 1
    }

    fn is_fresh(&self, idle: &Idle) -> bool {
        let is_young = self.tick.get().wrapping_sub(idle.since) < IDLE_TICKS;
        is_young && !idle.sender.is_closed() && !idle.socket.has_hung_up()
    }
}

/// A connection in use. Dropping it closes the connection; [`Lease::give_back`] keeps it.
pub struct Lease {
    sender: http1::SendRequest<Upload>,
    socket: Rc<Socket>,
    place: usize,
    pool: Pool,
    reused: bool,
}

impl Pool {
    /// An idle connection if there is one that still looks alive, else a new one.
    ///
    /// # Errors
    /// [`SendError::Connect`] and [`SendError::ConnectTimeout`].
    pub async fn connection(&self, origin: &Origin, timeout: Option<Duration>) -> Result<Lease, SendError> {
        let place = self.0.index(origin);
        if let Some(idle) = self.take_idle(place) {
            return Ok(self.lease(place, idle.sender, idle.socket, true));
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
        Ok(self.lease(self.0.index(origin), sender, socket, false))
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

    fn lease(&self, place: usize, sender: http1::SendRequest<Upload>, socket: Rc<Socket>, reused: bool) -> Lease {
        Lease { sender, socket, place, pool: self.clone(), reused }
    }

    fn take_idle(&self, place: usize) -> Option<Idle> {
        let mut all = self.0.all.borrow_mut();
        let idle = &mut all.get_mut(place)?.idle;
        // The newest first. One given back a moment ago may not be ready yet: it stays for the next request.
        while let Some(ready) = idle.iter().rposition(|one| one.sender.is_ready() || one.sender.is_closed()) {
            let chosen = idle.swap_remove(ready);
            if self.0.is_fresh(&chosen) {
                return Some(chosen);
            }
        }
        None
    }

    /// Closes connections that have been idle for long; to be called every [`SWEEP`].
    pub fn sweep(&self) {
        self.0.tick.set(self.0.tick.get().wrapping_add(1));
        for shelf in self.0.all.borrow_mut().iter_mut() {
            shelf.idle.retain(|idle| self.0.is_fresh(idle));
        }
    }

    /// Closes idle connections, and those in use as they come back.
    pub fn close(&self) {
        self.0.closed.set(true);
        self.0.all.borrow_mut().clear();
    }

    /// Idle connections held.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.0.all.borrow().iter().map(|shelf| shelf.idle.len()).sum()
    }
}

async fn open(origin: &Origin, timeout: Option<Duration>) -> Result<TcpStream, SendError> {
    let named = || origin.authority().to_owned();
    let connect = TcpStream::connect(origin.authority());
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
        let shelves = Rc::clone(&self.pool.0);
        let since = shelves.tick.get();
        if let Some(shelf) = shelves.all.borrow_mut().get_mut(self.place)
            && shelf.idle.len() < IDLE_AT_MOST
        {
            shelf.idle.push(Idle { sender: self.sender, socket: self.socket, since });
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
