//! `/v1/test_helpers/test_clocks`: time for some customers alone.

use serde_json::{Value, json};

use super::agenda::Scope;
use super::cycle::{Interval, later};
use super::errors::ApiError;
use super::params::TEXT;
use super::renewal;
use super::shelf::{Cursor, list};
use super::store::{Call, Store};

/// A clock is deleted so long after it was made.
const KEPT_S: i64 = 30 * 86_400;

/// A clock that stands still until it is told to advance.
#[derive(Clone, Debug)]
pub(super) struct TestClock {
    pub(super) id: String,
    /// Its customers' time, Unix seconds.
    pub(super) frozen: i64,
    name: Option<String>,
    created: i64,
    /// Where it is going, until somebody has looked at it.
    target: Option<i64>,
}

impl TestClock {
    pub(super) fn shown(&self) -> Value {
        let details = self.target.map_or_else(|| json!({}), |at| json!({ "advancing": { "target_frozen_time": at } }));
        json!({
            "id": self.id,
            "object": "test_helpers.test_clock",
            "created": self.created,
            "deletes_after": self.created + KEPT_S,
            "frozen_time": self.frozen,
            "livemode": false,
            "name": self.name,
            "status": if self.target.is_some() { "advancing" } else { "ready" },
            "status_details": details,
        })
    }
}

/// `POST /v1/test_helpers/test_clocks`
pub(super) fn create(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    call.params.unsupported(&["customer"])?;
    let frozen = call.params.integer("frozen_time")?.ok_or_else(|| ApiError::missing("frozen_time"))?;
    let name = call.params.text("name", 300)?;
    call.finish()?;
    let clock = TestClock { id: store.ids.make("clock"), frozen, name, created: store.now_s, target: None };
    let id = clock.id.clone();
    store.test_clocks.put(id.clone(), clock)?;
    store.announce_object("test_helpers.test_clock.created", &id);
    store.test_clocks.need(&id, "test_clock").map(TestClock::shown)
}

/// `GET /v1/test_helpers/test_clocks/{test_clock}`
pub(super) fn retrieve(store: &mut Store, call: Call, id: &str) -> Result<Value, ApiError> {
    call.finish()?;
    store.test_clocks.need(id, "test_clock").map(TestClock::shown)
}

/// `POST /v1/test_helpers/test_clocks/{test_clock}/advance`: everything due until then happens, in order, before
/// the answer; the answer says `advancing`, as Stripe's does, and every later look `ready`.
pub(super) fn advance(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    let target = call.params.integer("frozen_time")?.ok_or_else(|| ApiError::missing("frozen_time"))?;
    call.finish()?;
    let clock = store.test_clocks.need_mut(id, "test_clock")?;
    check_target(clock.frozen, target)?;
    clock.target = Some(target);
    let shown = clock.shown();
    store.announce_object("test_helpers.test_clock.advancing", id);
    renewal::run(store, &Scope::Clock(id.to_owned()), target);
    let clock = store.test_clocks.need_mut(id, "test_clock")?;
    (clock.frozen, clock.target) = (target, None);
    store.announce_object("test_helpers.test_clock.ready", id);
    Ok(shown)
}

/// Forward, and two years at most. (Stripe: two intervals of the longest subscription.)
fn check_target(frozen: i64, target: i64) -> Result<(), ApiError> {
    let message = if target <= frozen {
        "A test clock can only advance: `frozen_time` must be later than it is."
    } else if target > later(frozen, Interval::Year, 2) {
        "A test clock can advance by two years at most at once."
    } else {
        return Ok(());
    };
    Err(ApiError::invalid(message).param("frozen_time").executed())
}

/// `DELETE /v1/test_helpers/test_clocks/{test_clock}`: its customers go with it.
pub(super) fn delete(store: &mut Store, call: Call, id: &str) -> Result<Value, ApiError> {
    call.finish()?;
    store.test_clocks.need(id, "test_clock")?;
    let customers: Vec<String> =
        store.customers.iter().filter(|c| c.test_clock() == Some(id)).map(|c| c.id().to_owned()).collect();
    for customer in customers {
        super::customers::remove(store, &customer)?;
    }
    store.announce_object("test_helpers.test_clock.deleted", id);
    store.test_clocks.take(id, "test_clock")?;
    Ok(json!({ "id": id, "object": "test_helpers.test_clock", "deleted": true }))
}

/// `GET /v1/test_helpers/test_clocks`
pub(super) fn list_all(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    let cursor = Cursor::take(&mut call.params)?;
    call.params.text("customer", TEXT)?;
    call.finish()?;
    let (page, more) = store.test_clocks.page(&cursor, |_| true)?;
    Ok(list("/v1/test_helpers/test_clocks", page.into_iter().map(TestClock::shown), more))
}
