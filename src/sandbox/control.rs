//! `/_sandbox/…`: what Stripe does not have. Faults, time, validation, totals, recorded exchanges.
//!
//! | call | does |
//! |---|---|
//! | `POST faults` | arms a [`Fault`]: `{"effect":"lost_answer","filter":{"path":"/v1/billing/*"},"times":1}` → `{"id":1}` |
//! | `GET faults`, `DELETE faults` | what is armed and how often it happened; clears all |
//! | `GET exchanges`, `DELETE exchanges` | the judge's JSON lines (count in `Sandbox-Recorded`); forgets them |
//! | `GET meter_totals` | per event name, customer and meter: sum, number of events, aggregated value |
//! | `GET late_errors` | events accepted and found wrong later |
//! | `POST settings` | `{"validation":"later","dunning_end":"unpaid","webhooks":{"hold":true,"shuffle":true,"duplicate_percent":33,"seed":7}}`, any of them |
//! | `GET webhooks` | how deliveries are made, how many wait, how many were not acknowledged |
//! | `POST webhooks` | `{"event":"evt_…"}`: delivers an event once more to every endpoint that wants it |
//! | `GET clock`, `POST clock` | `{"now":SECONDS}`; `{"advance_s":3600}` |

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::exchanges::json_lines;
use super::faults::Fault;
use super::http::plain;
use super::state::Settings;
use super::{Shared, Time};

/// At most ten years at once.
const MAX_ADVANCE_S: u64 = 10 * 366 * 86_400;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resend {
    event: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    advance_s: u64,
}

/// Why a control call is refused.
enum Refused {
    Body(String),
    NotFound,
}

/// Answers one call; `path` is what follows `/_sandbox/`.
pub(super) fn answer(shared: &Shared, method: &Method, path: &str, body: &Bytes) -> Response<Full<Bytes>> {
    match run(shared, method, path, body) {
        Ok(response) => response,
        Err(Refused::Body(message)) => error(StatusCode::BAD_REQUEST, &message),
        Err(Refused::NotFound) => error(StatusCode::NOT_FOUND, "no such control path"),
    }
}

fn run(shared: &Shared, method: &Method, path: &str, body: &Bytes) -> Result<Response<Full<Bytes>>, Refused> {
    match (method.as_str(), path) {
        ("POST", "faults") => {
            let armed = shared.lock().faults.arm(read::<Fault>(body)?);
            armed.map(|id| ok(&json!({ "id": id }))).map_err(|refused| Refused::Body(refused.to_string()))
        }
        ("GET", "faults") => Ok(ok(&json!(shared.lock().faults.armed()))),
        ("DELETE", "faults") => {
            shared.lock().faults.clear();
            Ok(ok(&json!({})))
        }
        ("GET", "exchanges") => Ok(exchanges(shared)),
        ("DELETE", "exchanges") => {
            shared.lock().exchanges.clear();
            Ok(ok(&json!({})))
        }
        ("GET", "meter_totals") => Ok(ok(&shared.lock().store.meter_totals())),
        ("GET", "late_errors") => Ok(ok(&shared.lock().store.usage.late_errors)),
        ("POST", "settings") => {
            shared.lock().set(&read::<Settings>(body)?);
            shared.mail.notify_one();
            Ok(ok(&json!({})))
        }
        ("GET", "webhooks") => Ok(ok(&webhooks(shared))),
        ("POST", "webhooks") => {
            let event = read::<Resend>(body)?.event;
            let sent = shared.lock().store.deliver_again(&event);
            shared.mail.notify_one();
            sent.map(|sent| ok(&json!({ "deliveries": sent }))).ok_or(Refused::NotFound)
        }
        ("GET", "clock") => Ok(ok(&now(&shared.time))),
        ("POST", "clock") => {
            let by = read::<Advance>(body)?.advance_s;
            if by > MAX_ADVANCE_S {
                return Err(Refused::Body(format!("advance_s is at most {MAX_ADVANCE_S}")));
            }
            shared.advance(Duration::from_secs(by));
            Ok(ok(&now(&shared.time)))
        }
        _ => Err(Refused::NotFound),
    }
}

fn exchanges(shared: &Shared) -> Response<Full<Bytes>> {
    let (recorded, kept) = {
        let engine = shared.lock();
        (engine.exchanges.recorded, engine.exchanges.snapshot())
    };
    let mut response = plain(StatusCode::OK, "application/x-ndjson", json_lines(&kept));
    response.headers_mut().insert("sandbox-recorded", HeaderValue::from(recorded));
    response
}

fn webhooks(shared: &Shared) -> Value {
    let engine = shared.lock();
    let outbox = &engine.store.outbox;
    json!({ "delivering": outbox.delivering(), "waiting": outbox.waiting(), "unacknowledged": outbox.unfinished() })
}

fn now(time: &Time) -> Value {
    json!({ "now": time.now_ms().div_euclid(1_000) })
}

fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(|error| Refused::Body(error.to_string()))
}

fn ok(body: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_string(body) {
        Ok(text) => plain(StatusCode::OK, "application/json", text),
        Err(failed) => error(StatusCode::INTERNAL_SERVER_ERROR, &failed.to_string()),
    }
}

fn error(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    plain(status, "application/json", json!({ "error": message }).to_string())
}
