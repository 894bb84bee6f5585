//! An API that counts what it served, per tenant and route, and misbehaves on request.
//!
//! | path | answer |
//! |---|---|
//! | `/status/{code}` | that status |
//! | `/slow/{ms}` | after so long |
//! | `/drip/{n}` | `n` chunks of 5 bytes, 5 ms apart |
//! | `/cut` | a head that promises 100 bytes, 10 of them, then the connection closes |
//! | `/reset` | the connection closes without an answer |
//! | `/echo` | method, target, headers and body of the request, as text |
//! | `/switch` | 101, as if it switched |
//! | `/bye` | an answer, then the connection closes without having said so |
//! | anything else | 200, a small JSON body |

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// What was served to one tenant on one path.
pub type Served = BTreeMap<(String, String), u64>;

pub struct Origin {
    pub address: SocketAddr,
    served: Arc<Mutex<Served>>,
    stop: CancellationToken,
    runtime: Option<tokio::runtime::Runtime>,
}

type Body = BoxBody<Bytes, Infallible>;

impl Origin {
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let served = Arc::new(Mutex::new(Served::new()));
        let stop = CancellationToken::new();
        runtime.spawn(stop.clone().run_until_cancelled_owned(accept(listener, Arc::clone(&served))));
        Self { address, served, stop, runtime: Some(runtime) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn served(&self) -> Served {
        self.served.lock().unwrap().clone()
    }

    /// Requests served on `path` to `tenant`.
    pub fn count(&self, tenant: &str, path: &str) -> u64 {
        self.served().get(&(tenant.to_owned(), path.to_owned())).copied().unwrap_or(0)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, served: Arc<Mutex<Served>>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        stream.set_nodelay(true).unwrap();
        tokio::spawn(connection(stream, Arc::clone(&served)));
    }
}

async fn connection(stream: TcpStream, served: Arc<Mutex<Served>>) {
    let close = CancellationToken::new();
    let closing = close.clone();
    let service = service_fn(move |request| {
        let (served, close) = (Arc::clone(&served), closing.clone());
        async move { answer(request, &served, &close).await }
    });
    // A request counts as soon as its head is here, also when whoever sent it has closed by then.
    let mut builder = hyper::server::conn::http1::Builder::new();
    let connection = builder.half_close(true).serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => {}
        () = close.cancelled() => {
            // `/bye`: the answer is out; the connection goes without a word.
            let _ = tokio::time::timeout(Duration::from_millis(20), connection.as_mut()).await;
        }
    }
}

#[derive(Debug)]
struct Reset;
impl std::fmt::Display for Reset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("reset")
    }
}
impl std::error::Error for Reset {}

async fn answer(
    request: Request<Incoming>,
    served: &Mutex<Served>,
    close: &CancellationToken,
) -> Result<Response<Body>, Reset> {
    let tenant = request.headers().get("x-tenant-id").map_or("", |v| v.to_str().unwrap()).to_owned();
    let path = request.uri().path().to_owned();
    *served.lock().unwrap().entry((tenant, path.clone())).or_default() += 1;
    let words: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match words.as_slice() {
        ["status", code] => {
            let mut response = Response::new(full("{}"));
            *response.status_mut() = StatusCode::from_bytes(code.as_bytes()).unwrap();
            Ok(response)
        }
        ["slow", ms] => {
            tokio::time::sleep(Duration::from_millis(ms.parse().unwrap())).await;
            Ok(Response::new(full("slow\n")))
        }
        ["drip", n] => Ok(Response::new(drip(n.parse().unwrap()))),
        ["cut"] => Ok(Response::builder().header("content-length", "100").body(short()).unwrap()),
        ["reset"] => Err(Reset),
        ["switch"] => {
            let switching = Response::builder().status(101).header("connection", "upgrade").header("upgrade", "echo");
            Ok(switching.body(full("")).unwrap())
        }
        ["bye"] => {
            close.cancel();
            Ok(Response::new(full("bye\n")))
        }
        ["echo"] => Ok(echo(request).await),
        _ => {
            // Bodies are read, as any real API would.
            let _ = request.into_body().collect().await;
            let json = Response::builder().header("content-type", "application/json");
            Ok(json.body(full("{\"ok\":true,\"answer\":42}")).unwrap())
        }
    }
}

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed()
}

fn drip(chunks: u64) -> Body {
    let stream = futures_util::stream::unfold(0, move |n| async move {
        if n == chunks {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        Some((Ok(Frame::data(Bytes::from_static(b"drop\n"))), n + 1))
    });
    StreamBody::new(stream).boxed()
}

/// Ten bytes of a hundred, and the end only after they have left.
fn short() -> Body {
    let stream = futures_util::stream::unfold(true, |first| async move {
        if first {
            return Some((Ok(Frame::data(Bytes::from_static(b"0123456789"))), false));
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
        None
    });
    StreamBody::new(stream).boxed()
}

async fn echo(request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let mut text = format!("{} {}\n", parts.method, parts.uri);
    for (name, value) in &parts.headers {
        text += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
    }
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    text += &format!("\n{}", String::from_utf8_lossy(&body));
    Response::new(full(text))
}
