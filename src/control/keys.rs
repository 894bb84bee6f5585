//! `/api/v1/tenants/{id}/keys`: what clients call with. A secret is shown in the answer that makes it, never again.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as Answer};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::auth::Actor;
use super::input::{self, Json, PageParams, Params};
use super::problem::Problem;
use super::secret::{KeySecret, key_id};
use super::tenants::{find, may_have_happened};
use super::{Change, ControlState};
use crate::config::settings::Secret;
use crate::pricing::Scope;
use crate::records::{Created, Key, Listed, NewKey};

/// Overlap of a rotation that does not say, seconds.
const DEFAULT_OVERLAP_S: u32 = 3600;

/// Longest overlap, seconds: 90 days.
const LONGEST_OVERLAP_S: u32 = 90 * 24 * 3600;

/// Most scopes of a key.
const MOST_SCOPES: usize = 100;

/// Body of `POST …/keys`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewBody {
    #[serde(default)]
    name: Option<String>,
    /// Empty = everything.
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    expires_at: Option<Timestamp>,
    /// An existing secret.
    #[serde(default)]
    key: Option<Hidden>,
    /// Hex of an existing secret's SHA-256.
    #[serde(default)]
    sha256: Option<String>,
}

/// A secret in a body: never in a log or a `Debug`.
#[derive(Deserialize)]
#[serde(transparent)]
struct Hidden(String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hidden(…)")
    }
}

/// Body of `POST …/keys/{kid}/rotate`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RotateBody {
    /// Seconds that the old key still works.
    #[serde(default)]
    overlap: Option<u32>,
}

/// A key, with its secret in the one answer that shows it.
#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    prefix: &'a str,
    tenant: &'a str,
    name: &'a str,
    scopes: &'a [String],
    expires_at: Option<Timestamp>,
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces: Option<Replaced<'a>>,
}

/// The key that a rotation replaced.
#[derive(Serialize)]
struct Replaced<'a> {
    id: &'a str,
    expires_at: Option<Timestamp>,
}

/// `POST …/keys`: 201 with the secret; an import that is there already answers 200, with other content 409.
pub(super) async fn create(
    State(state): State<Arc<ControlState>>,
    Extension(actor): Extension<Actor>,
    Path(tenant): Path<String>,
    Json(body): Json<NewBody>,
) -> Result<Response, Problem> {
    find(&state, &tenant).await?;
    body.check(state.clock.now())?;
    let secret = body.secret()?;
    let action = if secret.minted.is_some() { "key.create" } else { "key.import" };
    let new = NewKey {
        tenant: tenant.clone(),
        id: key_id()?,
        name: body.name.unwrap_or_default(),
        prefix: secret.prefix,
        sha256: secret.sha256,
        scopes: body.scopes,
        expires_at: body.expires_at,
    };
    let (status, key) = make(&state, &actor, action, new).await?;
    Ok((status, Answer(Shown::new(&key, secret.minted.as_ref()))).into_response())
}

/// `GET …/keys?limit&after`: newest first, revoked ones too.
pub(super) async fn list(
    State(state): State<Arc<ControlState>>,
    Path(tenant): Path<String>,
    Params(params): Params<PageParams>,
) -> Result<Answer<Listed<Key>>, Problem> {
    find(&state, &tenant).await?;
    Ok(Answer(state.records.keys(&tenant, params.page()?).await?))
}

/// `DELETE …/keys/{kid}`: 204; the key stops working at once. Repeating it is fine.
pub(super) async fn revoke(
    State(state): State<Arc<ControlState>>,
    Extension(actor): Extension<Actor>,
    Path((tenant, id)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let before = key_of(&state, &tenant, &id).await?;
    let revoked = state.records.revoke_key(&tenant, &id, state.clock.now()).await;
    if may_have_happened(&revoked) {
        (state.changed)(Change::Key(before.sha256)).await;
    }
    revoked?.ok_or_else(|| Problem::no_key(&tenant, &id))?;
    if before.revoked_at.is_none() {
        state.audit(&actor, "key.revoke", &subject(&tenant, &id), json!({ "name": before.name })).await;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// `POST …/keys/{kid}/rotate`: 201 with a new key of the same name, scopes and expiry; the old one ends after `overlap`.
///
/// The new one is made first: if what follows fails, two keys work rather than none.
pub(super) async fn rotate(
    State(state): State<Arc<ControlState>>,
    Extension(actor): Extension<Actor>,
    Path((tenant, id)): Path<(String, String)>,
    Json(body): Json<RotateBody>,
) -> Result<Response, Problem> {
    let now = state.clock.now();
    let end = body.end(now)?;
    let old = key_of(&state, &tenant, &id).await?;
    usable(&old, now)?;
    let secret = KeySecret::mint()?;
    let (status, key) = make(&state, &actor, "key.create", successor(&old, &secret)?).await?;
    let old = retire(&state, old, end).await?;
    let detail = json!({ "by": key.id, "expires_at": old.expires_at });
    state.audit(&actor, "key.rotate", &subject(&tenant, &id), detail).await;
    let mut shown = Shown::new(&key, secret.minted.as_ref());
    shown.replaces = Some(Replaced { id: &old.id, expires_at: old.expires_at });
    Ok((status, Answer(shown)).into_response())
}

/// Lets `old` expire at `end`, or earlier if it was to.
async fn retire(state: &ControlState, old: Key, end: Timestamp) -> Result<Key, Problem> {
    let end = old.expires_at.map_or(end, |expiry| expiry.min(end));
    let expired = state.records.expire_key(&old.tenant, &old.id, end, state.clock.now()).await;
    if may_have_happened(&expired) {
        (state.changed)(Change::Key(old.sha256)).await;
    }
    expired?.ok_or_else(|| Problem::no_key(&old.tenant, &old.id))
}

async fn make(
    state: &ControlState,
    actor: &Actor,
    action: &'static str,
    new: NewKey,
) -> Result<(StatusCode, Key), Problem> {
    let (tenant, sha256) = (new.tenant.clone(), new.sha256);
    let detail = json!({ "name": new.name, "scopes": new.scopes, "expires_at": new.expires_at });
    let created = state.records.create_key(new, state.clock.now()).await;
    if may_have_happened(&created) {
        (state.changed)(Change::Key(sha256)).await;
    }
    match created? {
        Created::New(key) => {
            state.audit(actor, action, &subject(&tenant, &key.id), detail).await;
            Ok((StatusCode::CREATED, key))
        }
        Created::Exists(key) => Ok((StatusCode::OK, key)),
        Created::Differs("tenant") => Err(Problem::no_tenant(&tenant)),
        Created::Differs(field) => Err(conflict(field)),
    }
}

fn conflict(field: &'static str) -> Problem {
    let taken = |detail| Problem::new(StatusCode::CONFLICT, "exists_with_other_content", detail).at(field);
    match field {
        "key" => taken("this key belongs to another tenant already"),
        "revoked_at" => taken("this key was revoked; a revoked key cannot be used again"),
        other => Problem::differs("this key", other),
    }
}

fn successor(old: &Key, secret: &KeySecret) -> Result<NewKey, Problem> {
    Ok(NewKey {
        tenant: old.tenant.clone(),
        id: key_id()?,
        name: old.name.clone(),
        prefix: secret.prefix.clone(),
        sha256: secret.sha256,
        scopes: old.scopes.clone(),
        expires_at: old.expires_at,
    })
}

async fn key_of(state: &ControlState, tenant: &str, id: &str) -> Result<Key, Problem> {
    find(state, tenant).await?;
    state.records.key(tenant, id).await?.ok_or_else(|| Problem::no_key(tenant, id))
}

fn usable(key: &Key, now: Timestamp) -> Result<(), Problem> {
    let refused = |why: &str| {
        Err(Problem::new(StatusCode::CONFLICT, "key_not_usable", format!("key {:?} {why}; create a new one", key.id)))
    };
    match (key.revoked_at, key.expires_at) {
        (Some(_), _) => refused("is revoked"),
        (None, Some(expiry)) if expiry <= now => refused("has expired"),
        (None, _) => Ok(()),
    }
}

fn subject(tenant: &str, key: &str) -> String {
    format!("{tenant}/{key}")
}

impl NewBody {
    fn check(&self, now: Timestamp) -> Result<(), Problem> {
        self.name.as_deref().map_or(Ok(()), |name| input::label("name", name))?;
        if self.expires_at.is_some_and(|expiry| expiry <= now) {
            return Err(Problem::invalid("expires_at", "it is past already; a later time or null is allowed"));
        }
        scopes(&self.scopes)
    }

    fn secret(&self) -> Result<KeySecret, Problem> {
        match (&self.key, &self.sha256) {
            (None, None) => KeySecret::mint(),
            (Some(Hidden(secret)), None) => KeySecret::import(secret),
            (None, Some(digest)) => KeySecret::import_hash(digest),
            (Some(_), Some(_)) => {
                Err(Problem::invalid("sha256", "`key` says it already; only one of the two is allowed"))
            }
        }
    }
}

impl RotateBody {
    fn end(&self, now: Timestamp) -> Result<Timestamp, Problem> {
        let overlap = self.overlap.unwrap_or(DEFAULT_OVERLAP_S);
        let end = now.checked_add(SignedDuration::from_secs(overlap.into())).ok();
        end.filter(|_| overlap <= LONGEST_OVERLAP_S).ok_or_else(|| {
            Problem::invalid("overlap", format!("{overlap} is not in 0..={LONGEST_OVERLAP_S} seconds (90 days)"))
        })
    }
}

impl<'a> Shown<'a> {
    fn new(key: &'a Key, secret: Option<&'a Secret>) -> Self {
        Self {
            id: &key.id,
            key: secret.map(Secret::expose),
            prefix: &key.prefix,
            tenant: &key.tenant,
            name: &key.name,
            scopes: &key.scopes,
            expires_at: key.expires_at,
            created_at: key.created_at,
            replaces: None,
        }
    }
}

fn scopes(scopes: &[String]) -> Result<(), Problem> {
    if scopes.len() > MOST_SCOPES {
        return Err(Problem::invalid("scopes", format!("{} are too many; at most {MOST_SCOPES}", scopes.len())));
    }
    scopes.iter().enumerate().try_for_each(|(at, text)| match Scope::parse(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(Problem::invalid(&format!("scopes[{at}]"), format!("{text:?}: {error}"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlap_is_at_most_90_days() {
        let now: Timestamp = "2026-11-20T00:00:00Z".parse().expect("RFC 3339");
        let end = |overlap| RotateBody { overlap }.end(now).map(|at| at.to_string());
        assert_eq!(end(None).expect("the default"), "2026-11-20T01:00:00Z");
        assert_eq!(end(Some(0)).expect("at once"), "2026-11-20T00:00:00Z");
        assert_eq!(end(Some(LONGEST_OVERLAP_S)).expect("the longest"), "2027-02-18T00:00:00Z");
        assert_eq!(end(Some(LONGEST_OVERLAP_S + 1)).expect_err("refused").field.as_deref(), Some("overlap"));
    }

    #[test]
    fn a_secret_in_a_body_is_not_shown_by_debug() {
        let body: NewBody = serde_json::from_str(r#"{"key":"legacy-key-1"}"#).expect("fits");
        assert!(!format!("{body:?}").contains("legacy"), "{body:?}");
    }
}
