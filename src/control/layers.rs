//! What surrounds every call: its id, its deadline, its end even if the client leaves, and problems as documents.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use tokio_util::task::TaskTracker;

use super::problem::{self, Problem};
use super::secret;

/// Longest wait for an answer.
const DEADLINE: Duration = Duration::from_secs(30);

const REQUEST_ID: &str = "x-request-id";

/// Outermost: gives the call an id, logs it, keeps the answer out of caches, and writes problems as documents.
pub(super) async fn name_and_render(request: Request, next: Next) -> Response {
    let Ok(id) = secret::request_id() else {
        return problem::render(Problem::internal().into_response(), "none");
    };
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = problem::render(next.run(request).await, &id);
    tracing::debug!(request_id = %id, %method, path, status = response.status().as_u16(), "admin call");
    let value = HeaderValue::from_str(&id).expect("an id is letters and digits");
    response.headers_mut().insert(REQUEST_ID, value);
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Runs what may change something as a task of its own: once begun it ends, audit entry and notice to the data plane
/// included, even if the client has left or the deadline has passed.
pub(super) async fn finish_what_began(State(tasks): State<TaskTracker>, request: Request, next: Next) -> Response {
    let running = async {
        if request.method().is_safe() {
            return next.run(request).await;
        }
        tasks.spawn(next.run(request)).await.unwrap_or_else(|error| {
            tracing::error!(%error, "an admin call broke off");
            Problem::internal().into_response()
        })
    };
    tokio::time::timeout(DEADLINE, running).await.unwrap_or_else(|_| late().into_response())
}

fn late() -> Problem {
    let detail = "no answer in 30 s; a change may still be made, repeat the call to be sure";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "deadline_exceeded", detail)
}
