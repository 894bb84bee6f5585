//! Tenants: who pays, on which plan, under which Stripe customer.

use jiff::Timestamp;
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::db::{Durability, transact};
use super::rows::{self, Columns};
use super::{Created, Listed, NewTenant, Page, Records, RecordsError, Tenant, TenantPatch, locks};
use crate::pricing::Status;
use crate::units::TenantNum;

/// Plan versions begin here, so that 0 is older than any.
const FIRST_VERSION: i64 = 1;

macro_rules! columns {
    () => {
        "t.num, t.id, t.name, t.email, t.plan, t.plan_version, t.stripe_customer_id, t.stripe_subscription_id, \
         t.status, t.status_since, t.trial_ends_at, t.period_anchor, t.period_interval, \
         t.created_at, t.updated_at"
    };
}

const BY_ID: &str = concat!("SELECT ", columns!(), " FROM tenant AS t WHERE t.id = $1 AND t.deleted_at IS NULL");
const BY_NUM: &str = concat!("SELECT ", columns!(), " FROM tenant AS t WHERE t.num = $1");
const LIST: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM tenant AS t WHERE t.num < $1 AND t.deleted_at IS NULL ORDER BY t.num DESC LIMIT $2"
);
const INSERT: &str = "INSERT INTO tenant (id, name, email, plan, plan_version, stripe_customer_id, period_anchor, \
     period_interval, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, 'month', $7, $7)";
const UPDATE: &str = "UPDATE tenant SET name = $2, email = $3, plan = $4, plan_version = $5, stripe_customer_id = $6, \
     stripe_subscription_id = $7, status = $8, status_since = $9, trial_ends_at = $10, period_anchor = $11, \
     period_interval = $12, updated_at = $13 WHERE num = $1";
const DELETE: &str =
    "UPDATE tenant SET deleted_at = $2, updated_at = $2, plan_version = plan_version + 1 WHERE num = $1";
const REVOKE_ALL: &str = "UPDATE api_key SET revoked_at = $2, changed_at = $2 WHERE tenant = $1 AND revoked_at IS NULL";
/// What was held for want of a customer is due; a seal finds out whether there is anything in it.
const RELEASE: &str = "UPDATE account SET due_at = $2 WHERE tenant = $1 AND due_at IS NULL";

impl Records {
    /// Creates a tenant: monthly periods from `now`, no subscription. Safe to repeat.
    pub async fn create_tenant(&self, new: NewTenant, now: Timestamp) -> Result<Created<Tenant>, RecordsError> {
        let new = &new;
        transact!(self.db(), Durability::PowerCut, |connection| create(connection, new, now).await)
    }

    /// The tenant of that name; `None` also once it is deleted.
    pub async fn tenant(&self, id: &str) -> Result<Option<Tenant>, RecordsError> {
        let row = sqlx::query(BY_ID).bind(id.to_owned()).fetch_optional(self.db().read()).await?;
        row.as_ref().map(tenant).transpose()
    }

    /// The tenant of that number, a deleted one too: its usage is still to be reported.
    pub async fn tenant_by_num(&self, num: TenantNum) -> Result<Option<Tenant>, RecordsError> {
        let row = sqlx::query(BY_NUM).bind(rows::int(num.0)?).fetch_optional(self.db().read()).await?;
        row.as_ref().map(tenant).transpose()
    }

    /// Changes what `patch` names. The plan's version rises if plan, status, trial or period really change.
    pub async fn update_tenant(
        &self,
        id: &str,
        patch: TenantPatch,
        now: Timestamp,
    ) -> Result<Option<Tenant>, RecordsError> {
        let patch = &patch;
        transact!(self.db(), Durability::PowerCut, |connection| {
            let Some(before) = to_change(connection, id).await? else { return Ok(None) };
            let after = patched(before.clone(), patch.clone(), now);
            if after == before {
                return Ok(Some(before));
            }
            update(connection, &after).await?;
            if before.stripe_customer_id.is_none() && after.stripe_customer_id.is_some() {
                release(connection, after.num, now).await?;
            }
            Ok(Some(after))
        })
    }

    /// Deletes a tenant: its name is free, its keys are revoked, its usage is kept and still reported.
    pub async fn delete_tenant(&self, id: &str, now: Timestamp) -> Result<Option<Tenant>, RecordsError> {
        transact!(self.db(), Durability::PowerCut, |connection| {
            let Some(there) = to_change(connection, id).await? else { return Ok(None) };
            for statement in [DELETE, REVOKE_ALL] {
                let query = sqlx::query(statement).bind(rows::int(there.num.0)?).bind(now.as_millisecond());
                query.execute(&mut *connection).await?;
            }
            by_num(connection, there.num).await
        })
    }

    /// Tenants, newest first.
    pub async fn tenants(&self, page: Page) -> Result<Listed<Tenant>, RecordsError> {
        let query = sqlx::query(LIST).bind(rows::cursor(page.after.as_deref())?).bind(rows::limit(page.limit));
        let found = query.fetch_all(self.db().read()).await?;
        let found = found.iter().map(tenant).collect::<Result<Vec<_>, _>>()?;
        Ok(rows::listed(found, page.limit, |last| last.num.0.to_string()))
    }
}

pub(super) async fn by_id(connection: &mut AnyConnection, id: &str) -> Result<Option<Tenant>, RecordsError> {
    let row = sqlx::query(BY_ID).bind(id.to_owned()).fetch_optional(connection).await?;
    row.as_ref().map(tenant).transpose()
}

async fn by_num(connection: &mut AnyConnection, num: TenantNum) -> Result<Option<Tenant>, RecordsError> {
    let row = sqlx::query(BY_NUM).bind(rows::int(num.0)?).fetch_optional(connection).await?;
    row.as_ref().map(tenant).transpose()
}

/// The tenant of that name, as nobody else changes it until this transaction ends.
async fn to_change(connection: &mut AnyConnection, id: &str) -> Result<Option<Tenant>, RecordsError> {
    locks::tenants(connection, &[id]).await?;
    by_id(connection, id).await
}

async fn create(
    connection: &mut AnyConnection,
    new: &NewTenant,
    now: Timestamp,
) -> Result<Created<Tenant>, RecordsError> {
    if let Some(there) = by_id(connection, &new.id).await? {
        return Ok(difference(&there, new).map_or(Created::Exists(there), Created::Differs));
    }
    insert(connection, new, now).await?;
    let made = by_id(connection, &new.id).await?;
    made.map(Created::New).ok_or_else(|| RecordsError::Corrupt("a tenant vanished as it was made".to_owned()))
}

async fn insert(connection: &mut AnyConnection, new: &NewTenant, now: Timestamp) -> Result<(), RecordsError> {
    let query = sqlx::query(INSERT)
        .bind(new.id.clone())
        .bind(new.name.clone())
        .bind(new.email.clone())
        .bind(new.plan.clone())
        .bind(FIRST_VERSION)
        .bind(new.stripe_customer_id.clone())
        .bind(now.as_millisecond());
    query.execute(connection).await?;
    Ok(())
}

async fn update(connection: &mut AnyConnection, tenant: &Tenant) -> Result<(), RecordsError> {
    let ms = |time: Option<Timestamp>| time.map(Timestamp::as_millisecond);
    let query = sqlx::query(UPDATE)
        .bind(rows::int(tenant.num.0)?)
        .bind(tenant.name.clone())
        .bind(tenant.email.clone())
        .bind(tenant.plan.clone())
        .bind(rows::int(tenant.plan_version)?)
        .bind(tenant.stripe_customer_id.clone())
        .bind(tenant.stripe_subscription_id.clone())
        .bind(tenant.status.map(|status| status_text(status).to_owned()))
        .bind(ms(tenant.status_since))
        .bind(ms(tenant.trial_ends_at))
        .bind(tenant.period_anchor.as_millisecond())
        .bind(tenant.period_interval.clone())
        .bind(tenant.updated_at.as_millisecond());
    query.execute(connection).await?;
    Ok(())
}

async fn release(connection: &mut AnyConnection, tenant: TenantNum, now: Timestamp) -> Result<(), RecordsError> {
    sqlx::query(RELEASE).bind(rows::int(tenant.0)?).bind(now.as_millisecond()).execute(connection).await?;
    Ok(())
}

/// The first field in which what is there differs from what is asked for.
fn difference(there: &Tenant, new: &NewTenant) -> Option<&'static str> {
    [
        ("name", there.name == new.name),
        ("email", there.email == new.email),
        ("plan", there.plan == new.plan),
        ("stripe_customer_id", there.stripe_customer_id == new.stripe_customer_id),
    ]
    .into_iter()
    .find_map(|(field, same)| (!same).then_some(field))
}

/// What `tenant` becomes. Pure.
fn patched(mut tenant: Tenant, patch: TenantPatch, now: Timestamp) -> Tenant {
    let now = rows::whole_ms(now);
    let before = tenant.clone();
    set(&mut tenant.name, patch.name);
    set(&mut tenant.email, patch.email);
    set(&mut tenant.plan, patch.plan);
    set(&mut tenant.stripe_customer_id, patch.stripe_customer_id);
    set(&mut tenant.stripe_subscription_id, patch.stripe_subscription_id);
    set(&mut tenant.status, patch.status);
    set(&mut tenant.trial_ends_at, patch.trial_ends_at.map(|ends| ends.map(rows::whole_ms)));
    set(&mut tenant.period_anchor, patch.period_anchor.map(rows::whole_ms));
    set(&mut tenant.period_interval, patch.period_interval);
    if tenant.status != before.status {
        tenant.status_since = tenant.status.map(|_| now);
    }
    if plan_of(&tenant) != plan_of(&before) {
        tenant.plan_version += 1;
    }
    if tenant != before {
        tenant.updated_at = now;
    }
    tenant
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// Everything that caps and periods are made from.
fn plan_of(tenant: &Tenant) -> impl PartialEq + '_ {
    (&tenant.plan, tenant.status, tenant.trial_ends_at, tenant.period_anchor, &tenant.period_interval)
}

/// A tenant out of its columns.
pub(super) fn tenant(row: &AnyRow) -> Result<Tenant, RecordsError> {
    Ok(Tenant {
        num: TenantNum(row.units("num")?),
        id: row.col("id")?,
        name: row.col("name")?,
        email: row.col("email")?,
        plan: row.col("plan")?,
        plan_version: row.units("plan_version")?,
        stripe_customer_id: row.col("stripe_customer_id")?,
        stripe_subscription_id: row.col("stripe_subscription_id")?,
        status: row.col::<Option<String>>("status")?.as_deref().map(status).transpose()?,
        status_since: row.maybe_time("status_since")?,
        trial_ends_at: row.maybe_time("trial_ends_at")?,
        period_anchor: row.time("period_anchor")?,
        period_interval: row.col("period_interval")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}

/// As Stripe names it, as the API does.
fn status_text(status: Status) -> &'static str {
    match status {
        Status::Trialing => "trialing",
        Status::Active => "active",
        Status::PastDue => "past_due",
        Status::Unpaid => "unpaid",
        Status::Canceled => "canceled",
        Status::Incomplete => "incomplete",
        Status::IncompleteExpired => "incomplete_expired",
        Status::Paused => "paused",
    }
}

fn status(text: &str) -> Result<Status, RecordsError> {
    serde_json::from_value(text.into()).map_err(|_| RecordsError::Corrupt(format!("status {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::super::{NewKey, kit};
    use super::*;

    #[tokio::test]
    async fn creating_again_is_safe() {
        let (_folder, records) = kit::records().await;
        let made = kit::tenant(&records, "acme", Some("cus_1")).await;
        assert_eq!((made.plan_version, made.period_anchor, made.status), (1, kit::at(0), None));
        let again = records.create_tenant(kit::new_tenant("acme", Some("cus_1")), kit::at(9)).await.unwrap();
        assert_eq!(again, Created::Exists(made.clone()));
        let other = records.create_tenant(kit::new_tenant("acme", None), kit::at(9)).await.unwrap();
        assert_eq!(other, Created::Differs("stripe_customer_id"));
        assert_eq!(records.tenant("acme").await.unwrap(), Some(made.clone()));
        assert_eq!(records.tenant_by_num(made.num).await.unwrap(), Some(made));
        assert_eq!(records.tenant("nobody").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_patch_changes_what_it_names() {
        let (_folder, records) = kit::records().await;
        let made = kit::tenant(&records, "acme", None).await;
        let patch = TenantPatch {
            name: Some("Acme Corp".to_owned()),
            email: Some(Some("ops@acme.test".to_owned())),
            ..TenantPatch::default()
        };
        let changed = records.update_tenant("acme", patch, kit::at(5)).await.unwrap().unwrap();
        let expected = Tenant {
            name: "Acme Corp".to_owned(),
            email: Some("ops@acme.test".to_owned()),
            updated_at: kit::at(5),
            ..made
        };
        assert_eq!(changed, expected);
        assert_eq!(records.tenant("acme").await.unwrap(), Some(expected.clone()));
        let patch = TenantPatch { email: Some(None), ..TenantPatch::default() };
        let emptied = records.update_tenant("acme", patch, kit::at(6)).await.unwrap().unwrap();
        assert_eq!(emptied.email, None);
        assert_eq!(records.update_tenant("nobody", TenantPatch::default(), kit::at(6)).await.unwrap(), None);
    }

    #[tokio::test]
    async fn the_plans_version_rises_only_with_what_caps_are_made_from() {
        let (_folder, records) = kit::records().await;
        kit::tenant(&records, "acme", None).await;
        let patches = [
            (TenantPatch { plan: Some("starter".to_owned()), ..TenantPatch::default() }, 1),
            (TenantPatch { plan: Some("pro".to_owned()), ..TenantPatch::default() }, 2),
            (TenantPatch { name: Some("A".to_owned()), ..TenantPatch::default() }, 2),
            (TenantPatch { status: Some(Some(Status::PastDue)), ..TenantPatch::default() }, 3),
            (TenantPatch { status: Some(Some(Status::PastDue)), ..TenantPatch::default() }, 3),
            (TenantPatch { period_anchor: Some(kit::at(77)), ..TenantPatch::default() }, 4),
            (TenantPatch { period_interval: Some("year".to_owned()), ..TenantPatch::default() }, 5),
            (TenantPatch { stripe_customer_id: Some(Some("cus_1".to_owned())), ..TenantPatch::default() }, 5),
        ];
        for (patch, version) in patches {
            let text = format!("{patch:?}");
            let changed = records.update_tenant("acme", patch, kit::at(9)).await.unwrap().unwrap();
            assert_eq!(changed.plan_version, version, "{text}");
            assert_eq!(records.tenant("acme").await.unwrap(), Some(changed), "{text}");
        }
    }

    #[tokio::test]
    async fn every_status_is_kept_with_its_beginning() {
        let (_folder, records) = kit::records().await;
        kit::tenant(&records, "acme", None).await;
        let all = [
            Status::Trialing,
            Status::Active,
            Status::PastDue,
            Status::Unpaid,
            Status::Canceled,
            Status::Incomplete,
            Status::IncompleteExpired,
            Status::Paused,
        ];
        for (second, status) in (1..).zip(all) {
            let patch = TenantPatch { status: Some(Some(status)), ..TenantPatch::default() };
            records.update_tenant("acme", patch, kit::at(second)).await.unwrap();
            let there = records.tenant("acme").await.unwrap().unwrap();
            assert_eq!((there.status, there.status_since), (Some(status), Some(kit::at(second))));
        }
        let patch = TenantPatch { status: Some(None), ..TenantPatch::default() };
        let none = records.update_tenant("acme", patch, kit::at(99)).await.unwrap().unwrap();
        assert_eq!((none.status, none.status_since), (None, None));
    }

    #[tokio::test]
    async fn deleting_revokes_keys_and_frees_the_name_but_never_the_number() {
        let (_folder, records) = kit::records().await;
        let first = kit::tenant(&records, "acme", None).await;
        let key = NewKey {
            tenant: "acme".to_owned(),
            id: "key_1".to_owned(),
            name: "prod".to_owned(),
            prefix: "tg_a".to_owned(),
            sha256: [7; 32],
            scopes: Vec::new(),
            expires_at: None,
        };
        records.create_key(key, kit::at(1)).await.unwrap();
        let deleted = records.delete_tenant("acme", kit::at(2)).await.unwrap().unwrap();
        assert_eq!(deleted.plan_version, 2);
        assert_eq!(records.delete_tenant("acme", kit::at(3)).await.unwrap(), None);
        assert_eq!(records.tenant("acme").await.unwrap(), None);
        assert!(records.tenant_by_num(first.num).await.unwrap().is_some());
        let (key, _) = records.key_by_hash(&[7; 32]).await.unwrap().unwrap();
        assert_eq!(key.revoked_at, Some(kit::at(2)));
        let second = kit::tenant(&records, "acme", None).await;
        assert!(second.num > first.num);
        assert!(records.keys("acme", kit::page(10, None)).await.unwrap().data.is_empty());
    }

    #[tokio::test]
    async fn pages_stay_in_place_while_tenants_come() {
        let (_folder, records) = kit::records().await;
        for n in 0..5 {
            kit::tenant(&records, &format!("t{n}"), None).await;
        }
        let ids = |listed: &Listed<Tenant>| listed.data.iter().map(|t| t.id.clone()).collect::<Vec<_>>();
        let first = records.tenants(kit::page(2, None)).await.unwrap();
        assert_eq!(ids(&first), ["t4", "t3"]);
        kit::tenant(&records, "t5", None).await;
        records.delete_tenant("t3", kit::at(1)).await.unwrap();
        let second = records.tenants(kit::page(2, first.next)).await.unwrap();
        assert_eq!(ids(&second), ["t2", "t1"]);
        let third = records.tenants(kit::page(2, second.next)).await.unwrap();
        assert_eq!((ids(&third), third.next), (vec!["t0".to_owned()], None));
        let all = records.tenants(kit::page(5, None)).await.unwrap();
        assert_eq!((all.data.len(), all.next), (5, None));
        assert!(matches!(records.tenants(kit::page(1, Some("x".to_owned()))).await, Err(RecordsError::Invalid(_))));
    }
}
