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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::Router;
    use axum::body::Body;
    use axum::middleware::{from_fn, from_fn_with_state};
    use axum::routing::any;
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;
    use tokio::sync::Notify;

    use super::*;

    type Called = TowerToHyperService<Router>;

    /// One path that takes an hour and then says so.
    fn slow(done: &Arc<Notify>, tasks: &TaskTracker) -> Called {
        let done = Arc::clone(done);
        let handler = any(async move || {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            done.notify_one();
        });
        TowerToHyperService::new(
            Router::new()
                .route("/", handler)
                .layer(from_fn_with_state(tasks.clone(), finish_what_began))
                .layer(from_fn(name_and_render)),
        )
    }

    fn request(method: &str) -> Request {
        http::Request::builder().method(method).uri("/").body(Body::empty()).expect("a request")
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_ends_though_its_client_has_left() {
        let (done, tasks) = (Arc::new(Notify::new()), TaskTracker::new());
        let call = slow(&done, &tasks).call(request("POST"));
        assert!(tokio::time::timeout(Duration::from_secs(1), call).await.is_err(), "the client left");
        tokio::time::timeout(Duration::from_secs(7200), done.notified()).await.expect("it ended all the same");
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test(start_paused = true)]
    async fn reading_ends_with_its_client() {
        let (done, tasks) = (Arc::new(Notify::new()), TaskTracker::new());
        let call = slow(&done, &tasks).call(request("GET"));
        assert!(tokio::time::timeout(Duration::from_secs(1), call).await.is_err(), "the client left");
        assert!(tokio::time::timeout(Duration::from_secs(7200), done.notified()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_the_deadline() {
        let (done, tasks) = (Arc::new(Notify::new()), TaskTracker::new());
        for method in ["GET", "POST"] {
            let response = slow(&done, &tasks).call(request(method)).await.expect("an answer");
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{method}");
            assert_eq!(response.headers()["content-type"], "application/problem+json");
            assert!(response.headers()[REQUEST_ID].to_str().is_ok_and(|id| id.starts_with("req_")));
        }
    }

    #[tokio::test]
    async fn a_call_that_breaks_off_is_a_problem_too() {
        let handler = any(async || -> StatusCode { panic!("a defect") });
        let router = Router::new().route("/", handler);
        let router = router.layer(from_fn_with_state(TaskTracker::new(), finish_what_began));
        let called = TowerToHyperService::new(router.layer(from_fn(name_and_render)));
        let response = called.call(request("POST")).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
