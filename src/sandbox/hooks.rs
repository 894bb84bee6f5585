//! Deliveries to webhook endpoints: signed, retried with fresh signatures, as many at once as there is room for.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{Method, Request};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use sha2::Sha256;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Shared;
use super::events::API_VERSION;
use super::outbox::Delivery;

/// Deliveries at once.
const IN_FLIGHT: usize = 16;
/// An endpoint that takes longer has failed (Stripe's own deadline is not published; this is a test's).
const DEADLINE: Duration = Duration::from_secs(10);
/// How often it is looked what is due and what waits, also when nobody calls.
const TICK: Duration = Duration::from_millis(50);

type Http = Client<HttpConnector, Full<Bytes>>;

/// What one delivery sends.
#[derive(Debug)]
struct Letter {
    url: String,
    secret: String,
    body: String,
}

/// Delivers until it is told to stop.
pub(super) async fn deliver(shared: Arc<Shared>, closing: CancellationToken, tasks: TaskTracker) {
    let client: Http = Client::builder(TokioExecutor::new()).build_http();
    let room = Arc::new(Semaphore::new(IN_FLIGHT));
    while closing.run_until_cancelled(shared.mail.notified()).await.is_some() {
        loop {
            let Some(Ok(permit)) = closing.run_until_cancelled(Arc::clone(&room).acquire_owned()).await else { return };
            let Some(delivery) = shared.lock().store.outbox.next() else { break };
            let (shared, client, closing) = (Arc::clone(&shared), client.clone(), closing.clone());
            tasks.spawn(async move {
                let sent = closing.run_until_cancelled(send(&shared, &client, &delivery)).await;
                drop(permit);
                if let Some(acknowledged) = sent {
                    settle(&shared, delivery, acknowledged, &closing).await;
                }
            });
        }
    }
}

/// Lets time pass, also when nobody calls and whatever deliveries take.
pub(super) async fn tick(shared: Arc<Shared>, closing: CancellationToken) {
    let mut tick = tokio::time::interval(TICK);
    while closing.run_until_cancelled(tick.tick()).await.is_some() {
        shared.tick();
        shared.mail.notify_one();
    }
}

/// A delivery is done, or waits for its retry.
async fn settle(shared: &Shared, delivery: Delivery, acknowledged: bool, closing: &CancellationToken) {
    let pause = shared.lock().store.outbox.retry_after_ms(&delivery).filter(|_| !acknowledged);
    if let Some(ms) = pause {
        if closing.run_until_cancelled(tokio::time::sleep(Duration::from_millis(ms))).await.is_none() {
            return;
        }
        shared.lock().retry(&delivery);
        shared.mail.notify_one();
        return;
    }
    shared.lock().delivered(&delivery, acknowledged);
}

/// Whether the endpoint took it. An endpoint that was deleted meanwhile takes everything.
async fn send(shared: &Shared, client: &Http, delivery: &Delivery) -> bool {
    let Some(letter) = letter(shared, delivery) else { return true };
    let signature = sign(&letter.secret, shared.time.clock.now_s(), &letter.body);
    let request = Request::builder()
        .method(Method::POST)
        .uri(&letter.url)
        .header("content-type", "application/json; charset=utf-8")
        .header("user-agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks)")
        .header("stripe-signature", signature)
        .body(Full::new(Bytes::from(letter.body)));
    let request = match request {
        Ok(request) => request,
        Err(error) => {
            tracing::warn!(url = letter.url, %error, "this webhook endpoint cannot be called");
            return false;
        }
    };
    match tokio::time::timeout(DEADLINE, client.request(request)).await {
        Ok(Ok(response)) => response.status().is_success(),
        Ok(Err(error)) => {
            tracing::debug!(url = letter.url, %error, "a webhook endpoint did not answer");
            false
        }
        Err(_) => {
            tracing::debug!(url = letter.url, "a webhook endpoint took too long");
            false
        }
    }
}

fn letter(shared: &Shared, delivery: &Delivery) -> Option<Letter> {
    let engine = shared.lock();
    let store = &engine.store;
    let endpoint = store.endpoints.get(&delivery.endpoint)?;
    let version = endpoint.api_version.as_deref().unwrap_or(API_VERSION);
    let thin = || store.thin_events.get(&delivery.event).map(super::thin_events::ThinEvent::notification);
    let event = store.events.get(&delivery.event);
    let body = event.map(|event| event.shown(version, store.outbox.pending(&delivery.event))).or_else(thin)?;
    Some(Letter { url: endpoint.url.clone(), secret: endpoint.secret.clone(), body: body.to_string() })
}

/// `t=…,v1=…`: HMAC-SHA256 over `t.body` (Stripe, "Verify webhook signatures manually").
pub(super) fn sign(secret: &str, at: i64, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(format!("{at}.{body}").as_bytes());
    format!("t={at},v1={}", hex::encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_over_the_time_and_the_body() {
        // Checked with Python: hmac.new(b"whsec_test", b"1700000000.{}", "sha256").
        let want = "t=1700000000,v1=35495024f4ef3f94e5a93e22221544c4b75e9a42300cd965ab81cb85cd994e91";
        let got = sign("whsec_test", 1_700_000_000, "{}");
        assert_ne!(got, sign("whsec_test", 1_700_000_001, "{}"));
        assert_eq!(got, want);
    }
}
