//! A proxy that only proxies: hyper on both sides, our pools, hop-by-hop headers removed, one thread.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tollgate::gateway::forward::remove_hop_by_hop;
use tollgate::upstream::{Lease, Origin, Pool, Progress, Sent, Upload};

/// Prints its address and serves until killed.
pub fn run(origin: SocketAddr) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    runtime.block_on(local.run_until(async move {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        println!("{}", listener.local_addr().expect("it is bound"));
        let origin = Rc::new(Origin::of(&format!("http://{origin}").parse().expect("an address is an authority")));
        let pool = Pool::default();
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            stream.set_nodelay(true).expect("a TCP socket");
            let (origin, pool) = (Rc::clone(&origin), pool.clone());
            let service = service_fn(move |request| forward(request, Rc::clone(&origin), pool.clone()));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(10))
                .serve_connection(TokioIo::new(stream), service);
            tokio::task::spawn_local(async move { drop(connection.await) });
        }
    }));
}

async fn forward(mut request: Request<Incoming>, origin: Rc<Origin>, pool: Pool) -> Result<Response<Back>, Infallible> {
    remove_hop_by_hop(request.headers_mut());
    let mut request = request.map(|body| Upload::of(body, &Progress::default(), Duration::from_secs(60)));
    loop {
        let mut lease = pool.connection(&origin, None).await.expect("the origin runs");
        match lease.send(request).await {
            Sent::Answered(response) => {
                let (mut parts, body) = response.into_parts();
                remove_hop_by_hop(&mut parts.headers);
                return Ok(Response::from_parts(parts, Back { body, lease: Some(lease) }));
            }
            Sent::NotSent(unsent) => request = *unsent,
            Sent::BrokeBefore(error) => panic!("{error}"),
        }
    }
}

struct Back {
    body: Incoming,
    lease: Option<Lease>,
}

impl Body for Back {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let ended = matches!(polled, Poll::Ready(None)) || (polled.is_ready() && self.body.is_end_stream());
        if ended && let Some(lease) = self.lease.take() {
            lease.give_back();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream() && self.lease.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
