//! Sockets and connections.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::{Answer, Outcome, Request};
use super::engine::Step;
use super::errors::ApiError;
use super::page::{self, Page};
use super::{Shared, control};

const MAX_CONNECTIONS: usize = 4_096;
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// For a request's head, which is also how long a connection may be idle, and for its body.
const HEAD_DEADLINE: Duration = Duration::from_secs(60);
const BODY_DEADLINE: Duration = Duration::from_secs(30);
/// After a failed accept (out of file descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What an answer says when the call names no version.
const DEFAULT_VERSION: &str = "2026-09-30.endive";

/// Takes connections until it is told to close.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>, closing: CancellationToken, tasks: TaskTracker) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Some(taken) = closing.run_until_cancelled(listener.accept()).await {
        match taken {
            Ok((stream, _)) => {
                // Beyond the bound a connection is closed at once: full is an answer.
                if let Ok(permit) = Arc::clone(&room).try_acquire_owned() {
                    let (serving, shared, closing) = (tasks.clone(), Arc::clone(&shared), closing.clone());
                    tasks.spawn(async move {
                        serve(stream, shared, closing, serving).await;
                        drop(permit);
                    });
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the Stripe sandbox could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The answer is not given: hyper closes the connection.
#[derive(Debug, thiserror::Error)]
#[error("closed on purpose")]
struct ClosedOnPurpose;

async fn serve(stream: TcpStream, shared: Arc<Shared>, closing: CancellationToken, tasks: TaskTracker) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let service = service_fn(move |request| answer(Arc::clone(&shared), tasks.clone(), request));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection of the Stripe sandbox ended early");
    }
}

async fn answer(
    shared: Arc<Shared>,
    tasks: TaskTracker,
    request: http::Request<Incoming>,
) -> Result<Response<Full<Bytes>>, ClosedOnPurpose> {
    let (head, body) = request.into_parts();
    let body = match read_body(body).await {
        Ok(body) => body,
        Err(error) => return Ok(respond(Answer::from(error), None, None, &shared)),
    };
    if let Some(path) = head.uri.path().strip_prefix("/_sandbox/") {
        return Ok(control::answer(&shared, &head.method, path, &body));
    }
    if page::is_page(head.uri.path()) {
        return Ok(visit(&shared, &head.method, head.uri.path(), &body));
    }
    let request = Request {
        target: head.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
        authorization: text(&head.headers, AUTHORIZATION.as_str()),
        idempotency_key: text(&head.headers, "idempotency-key"),
        stripe_version: text(&head.headers, "stripe-version"),
        content_type: text(&head.headers, CONTENT_TYPE.as_str()),
        method: head.method,
        body,
    };
    let (version, key) = (request.stripe_version.clone(), request.idempotency_key.clone());
    let outcome = run(Arc::clone(&shared), tasks, request).await;
    shared.mail.notify_one();
    match outcome {
        Some(Outcome::Answer(answer)) => Ok(respond(answer, version, key, &shared)),
        Some(Outcome::Hangup) | None => Err(ClosedOnPurpose),
    }
}

/// A hosted page.
fn visit(shared: &Shared, method: &Method, path: &str, body: &Bytes) -> Response<Full<Bytes>> {
    let text = String::from_utf8_lossy(body);
    let page = shared.lock().visit(method, path, &text, shared.time.now_ms());
    shared.mail.notify_one();
    match page {
        Some(Page::Html(status, text)) => plain(status, "text/html; charset=utf-8", text),
        Some(Page::Redirect(url)) => {
            let mut response = plain(StatusCode::SEE_OTHER, "text/plain", String::new());
            if let Ok(url) = HeaderValue::try_from(url) {
                response.headers_mut().insert(LOCATION, url);
            }
            response
        }
        None => plain(StatusCode::NOT_FOUND, "text/plain", "no such page".to_owned()),
    }
}

/// `None` if the runtime is going down.
async fn run(shared: Arc<Shared>, tasks: TaskTracker, request: Request) -> Option<Outcome> {
    let step = shared.lock().begin(&request, shared.time.now_ms());
    let step = match step {
        Step::Wait(delay, ticket) => {
            // Its own task: a call that was let in takes effect even if the caller has left by then.
            let finished = tasks.spawn(async move {
                tokio::time::sleep(delay).await;
                let now_ms = shared.time.now_ms();
                shared.lock().finish(&request, ticket, now_ms)
            });
            finished.await.ok()?
        }
        done @ Step::Done(..) => done,
    };
    match step {
        Step::Done(outcome, slow) => {
            if !slow.is_zero() {
                tokio::time::sleep(slow).await;
            }
            Some(outcome)
        }
        Step::Wait(..) => None,
    }
}

async fn read_body(body: Incoming) -> Result<Bytes, ApiError> {
    let read = tokio::time::timeout(BODY_DEADLINE, Limited::new(body, MAX_BODY_BYTES).collect());
    match read.await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(ApiError::invalid(format!("The request body is longer than {MAX_BODY_BYTES} bytes.")))
        }
        Ok(Err(_)) | Err(_) => Err(ApiError::invalid("The request body did not arrive.")),
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// Adds the headers that every answer of Stripe has.
fn respond(answer: Answer, version: Option<String>, key: Option<String>, shared: &Shared) -> Response<Full<Bytes>> {
    let request_id = shared.lock().request_ids.make("req");
    let version = version.unwrap_or_else(|| DEFAULT_VERSION.to_owned());
    let every =
        [("content-type", "application/json".to_owned()), ("request-id", request_id), ("stripe-version", version)];
    let echoed = key.map(|key| ("idempotency-key", key));
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    for (name, value) in every.into_iter().chain(echoed).chain(answer.headers) {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// An answer of the control paths.
pub(super) fn plain(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
