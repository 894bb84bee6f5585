//! `/api/v1/tenants`: who pays.
#![expect(clippy::option_option, reason = "a patch tells a missing field from `null`")]

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as Answer};
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::auth::Actor;
use super::input::{self, Json, PageParams, Params, present};
use super::problem::Problem;
use super::{Change, ControlState};
use crate::pricing::{Pricing, Status};
use crate::records::{Created, Listed, NewTenant, Page, RecordsError, Tenant, TenantPatch};

/// Keys asked for at once while a deleted tenant's keys are told to the data plane.
const KEYS_AT_ONCE: u32 = 1000;

/// Body of `POST /tenants`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewBody {
    id: String,
    plan: String,
    /// The id, if it is missing.
    name: Option<String>,
    email: Option<String>,
    stripe_customer_id: Option<String>,
}

/// Body of `PATCH` and `PUT /tenants/{id}`: what is missing stays as it is, `null` empties.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PatchBody {
    /// Only as a repetition of the path's.
    #[serde(default, deserialize_with = "present", skip_serializing)]
    id: Option<String>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    email: Option<Option<String>>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    plan: Option<String>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    stripe_customer_id: Option<Option<String>>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    stripe_subscription_id: Option<Option<String>>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    status: Option<Option<Status>>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    trial_ends_at: Option<Option<Timestamp>>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    period_anchor: Option<Timestamp>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    period_interval: Option<String>,
}

/// `POST /tenants`: 201 new, 200 there with the same content, 409 there with other content.
pub(super) async fn create(
    State(state): State<Arc<ControlState>>,
    Extension(actor): Extension<Actor>,
    Json(body): Json<NewBody>,
) -> Result<Response, Problem> {
    let new = body.checked(&state.active.load().pricing)?;
    let id = new.id.clone();
    match make(&state, &actor, new).await? {
        Created::New(tenant) => Ok((StatusCode::CREATED, Answer(tenant)).into_response()),
        Created::Exists(tenant) => Ok(Answer(tenant).into_response()),
        Created::Differs(field) => Err(Problem::differs(&format!("tenant {id:?}"), field)),
    }
}

/// `GET /tenants?limit&after`: newest first.
pub(super) async fn list(
    State(state): State<Arc<ControlState>>,
    Params(params): Params<PageParams>,
) -> Result<Answer<Listed<Tenant>>, Problem> {
    Ok(Answer(state.records.tenants(params.page()?).await?))
}

/// `GET /tenants/{id}`.
pub(super) async fn show(
    State(state): State<Arc<ControlState>>,
    Path(id): Path<String>,
) -> Result<Answer<Tenant>, Problem> {
    find(&state, &id).await.map(Answer)
}

/// `PATCH /tenants/{id}`.
pub(super) async fn update(
    State(state): State<Arc<ControlState>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    Json(body): Json<PatchBody>,
) -> Result<Answer<Tenant>, Problem> {
    body.check(&id, &state.active.load().pricing)?;
    change(&state, &actor, &id, body).await?.map(Answer).ok_or_else(|| Problem::no_tenant(&id))
}

/// `PUT /tenants/{id}`: 201 if it is new, else 200 with the given fields changed.
pub(super) async fn upsert(
    State(state): State<Arc<ControlState>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    Json(body): Json<PatchBody>,
) -> Result<Response, Problem> {
    body.check(&id, &state.active.load().pricing)?;
    let is_new = match state.records.tenant(&id).await? {
        Some(_) => false,
        None => matches!(make(&state, &actor, body.as_new(&id)?).await?, Created::New(_)),
    };
    let tenant = change(&state, &actor, &id, body).await?.ok_or_else(|| Problem::no_tenant(&id))?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Answer(tenant)).into_response())
}

/// `DELETE /tenants/{id}`: 204; its keys stop working at once, its usage is kept.
pub(super) async fn delete(
    State(state): State<Arc<ControlState>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let tenant = find(&state, &id).await?;
    let keys = hashes_of_keys(&state, &id).await?;
    let deleted = state.records.delete_tenant(&id, state.clock.now()).await;
    if may_have_happened(&deleted) {
        (state.changed)(Change::Tenant(tenant.num)).await;
        for hash in keys {
            (state.changed)(Change::Key(hash)).await;
        }
    }
    deleted?.ok_or_else(|| Problem::no_tenant(&id))?;
    state.audit(&actor, "tenant.delete", &id, serde_json::Value::Null).await;
    Ok(StatusCode::NO_CONTENT)
}

/// The tenant of that id.
pub(super) async fn find(state: &ControlState, id: &str) -> Result<Tenant, Problem> {
    state.records.tenant(id).await?.ok_or_else(|| Problem::no_tenant(id))
}

/// Whether a change to the records was made, or may have been: what is held in memory is then out of date.
pub(super) fn may_have_happened<T>(outcome: &Result<T, RecordsError>) -> bool {
    matches!(outcome, Ok(_) | Err(RecordsError::Unknown(_)))
}

async fn make(state: &ControlState, actor: &Actor, new: NewTenant) -> Result<Created<Tenant>, Problem> {
    let detail = serde_json::json!({ "plan": new.plan, "stripe_customer_id": new.stripe_customer_id });
    let created = state.records.create_tenant(new, state.clock.now()).await?;
    if let Created::New(tenant) = &created {
        (state.changed)(Change::Tenant(tenant.num)).await;
        state.audit(actor, "tenant.create", &tenant.id, detail).await;
    }
    Ok(created)
}

async fn change(state: &ControlState, actor: &Actor, id: &str, body: PatchBody) -> Result<Option<Tenant>, Problem> {
    let Some(before) = state.records.tenant(id).await? else { return Ok(None) };
    let detail = serde_json::to_value(&body).unwrap_or_default();
    let changed = state.records.update_tenant(id, body.into_patch(), state.clock.now()).await;
    if may_have_happened(&changed) {
        (state.changed)(Change::Tenant(before.num)).await;
    }
    let after = changed?;
    if after.as_ref().is_some_and(|after| *after != before) {
        state.audit(actor, "tenant.update", id, detail).await;
    }
    Ok(after)
}

async fn hashes_of_keys(state: &ControlState, tenant: &str) -> Result<Vec<[u8; 32]>, Problem> {
    let (mut hashes, mut after) = (Vec::new(), None);
    loop {
        let page = state.records.keys(tenant, Page { limit: KEYS_AT_ONCE, after }).await?;
        hashes.extend(page.data.iter().map(|key| key.sha256));
        after = page.next;
        if after.is_none() {
            return Ok(hashes);
        }
    }
}

impl NewBody {
    fn checked(self, pricing: &Pricing) -> Result<NewTenant, Problem> {
        input::tenant_id(&self.id)?;
        input::plan(pricing, &self.plan)?;
        let name = self.name.unwrap_or_else(|| self.id.clone());
        input::label("name", &name)?;
        self.email.as_deref().map_or(Ok(()), input::email)?;
        self.stripe_customer_id.as_deref().map_or(Ok(()), customer)?;
        let (email, stripe_customer_id) = (self.email, self.stripe_customer_id);
        Ok(NewTenant { id: self.id, name, email, plan: self.plan, stripe_customer_id })
    }
}

impl PatchBody {
    fn check(&self, id: &str, pricing: &Pricing) -> Result<(), Problem> {
        input::tenant_id(id)?;
        if self.id.as_ref().is_some_and(|named| named != id) {
            return Err(Problem::invalid("id", format!("a tenant's id cannot change; {id:?} or nothing is allowed")));
        }
        self.plan.as_deref().map_or(Ok(()), |plan| input::plan(pricing, plan))?;
        self.name.as_deref().map_or(Ok(()), |name| input::label("name", name))?;
        let subscription = |id: &str| input::stripe_id("stripe_subscription_id", "sub_", id);
        self.email.iter().flatten().try_for_each(|email| input::email(email))?;
        self.stripe_customer_id.iter().flatten().try_for_each(|id| customer(id))?;
        self.stripe_subscription_id.iter().flatten().try_for_each(|id| subscription(id))?;
        self.period_interval.as_deref().map_or(Ok(()), interval)
    }

    fn as_new(&self, id: &str) -> Result<NewTenant, Problem> {
        let missing = || Problem::invalid("plan", "a new tenant needs one");
        Ok(NewTenant {
            id: id.to_owned(),
            name: self.name.clone().unwrap_or_else(|| id.to_owned()),
            email: self.email.clone().flatten(),
            plan: self.plan.clone().ok_or_else(missing)?,
            stripe_customer_id: self.stripe_customer_id.clone().flatten(),
        })
    }

    fn into_patch(self) -> TenantPatch {
        TenantPatch {
            name: self.name,
            email: self.email,
            plan: self.plan,
            stripe_customer_id: self.stripe_customer_id,
            stripe_subscription_id: self.stripe_subscription_id,
            status: self.status,
            trial_ends_at: self.trial_ends_at,
            period_anchor: self.period_anchor,
            period_interval: self.period_interval,
        }
    }
}

fn customer(id: &str) -> Result<(), Problem> {
    input::stripe_id("stripe_customer_id", "cus_", id)
}

fn interval(name: &str) -> Result<(), Problem> {
    match name {
        "month" | "year" => Ok(()),
        other => Err(Problem::invalid("period_interval", format!("{other:?} is not allowed; month, year"))),
    }
}
