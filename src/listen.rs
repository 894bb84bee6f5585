//! Sockets: one listener per worker on the same port (`SO_REUSEPORT`), so that the kernel spreads connections and no
//! core hands one to another.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait for an accept.
const BACKLOG: i32 = 4_096;

/// One listener per worker, all on `address`; port 0 takes one free port for all.
///
/// # Errors
/// Those of the system, with the address in the message.
pub fn bind(address: SocketAddr, workers: usize) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    let first = listener(address)?;
    let bound = first.local_addr()?;
    let rest = (1..workers).map(|_| listener(bound)).collect::<io::Result<Vec<_>>>()?;
    Ok((bound, std::iter::once(first).chain(rest).collect()))
}

fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    open(address).map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
