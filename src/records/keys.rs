//! API keys: found by the hash of their secret, in one indexed read.

use jiff::Timestamp;
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::db::{Durability, transact};
use super::rows::{self, Columns};
use super::{Created, Key, Listed, NewKey, Page, Records, RecordsError, Tenant, locks, tenants};
use crate::units::KeyNum;

macro_rules! columns {
    () => {
        "k.num AS k_num, k.id AS k_id, k.name AS k_name, k.prefix AS k_prefix, k.sha256 AS k_sha256, \
         k.scopes AS k_scopes, k.expires_at AS k_expires_at, k.revoked_at AS k_revoked_at, \
         k.last_used_at AS k_last_used_at, k.created_at AS k_created_at, t.id AS k_tenant"
    };
}
macro_rules! joined {
    () => {
        " FROM api_key AS k JOIN tenant AS t ON t.num = k.tenant "
    };
}

const BY_HASH: &str = concat!("SELECT ", columns!(), ", t.*", joined!(), "WHERE k.sha256 = $1");
const BY_ID: &str = concat!("SELECT ", columns!(), joined!(), "WHERE k.id = $1");
const OF_TENANT: &str =
    concat!("SELECT ", columns!(), joined!(), "WHERE k.tenant = $1 AND k.num < $2 ORDER BY k.num DESC LIMIT $3");
const INSERT: &str = "INSERT INTO api_key (tenant, id, name, prefix, sha256, scopes, expires_at, created_at) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
/// Hashes travel in hexadecimal digits.
const IMPORT: &str = "INSERT INTO api_key (tenant, id, name, prefix, sha256, scopes, expires_at, created_at) \
     SELECT t.num, e.value ->> 1, e.value ->> 2, e.value ->> 3, unhex(e.value ->> 4), e.value ->> 5, \
            CAST(e.value ->> 6 AS BIGINT), $2 \
     FROM json_each($1) AS e CROSS JOIN tenant AS t WHERE t.id = e.value ->> 0 AND t.deleted_at IS NULL \
     ON CONFLICT DO NOTHING";
const REVOKE: &str = "UPDATE api_key SET revoked_at = $3, changed_at = $4 WHERE id = $2 AND revoked_at IS NULL AND tenant = \
     (SELECT num FROM tenant WHERE id = $1 AND deleted_at IS NULL)";
const EXPIRE: &str = "UPDATE api_key SET expires_at = $3, changed_at = $4 WHERE id = $2 AND tenant = \
     (SELECT num FROM tenant WHERE id = $1 AND deleted_at IS NULL)";
const TOUCH: &str = "UPDATE api_key SET last_used_at = u.at FROM \
     (SELECT CAST(e.value ->> 0 AS BIGINT) AS num, MAX(CAST(e.value ->> 1 AS BIGINT)) AS at \
      FROM json_each($1) AS e GROUP BY 1) AS u \
     WHERE api_key.num = u.num AND (api_key.last_used_at IS NULL OR api_key.last_used_at < u.at)";

impl Records {
    /// Creates a key. Safe to repeat: a secret is one key, at one tenant.
    pub async fn create_key(&self, new: NewKey, now: Timestamp) -> Result<Created<Key>, RecordsError> {
        let new = NewKey { expires_at: new.expires_at.map(rows::whole_ms), ..new };
        let new = &new;
        transact!(self.db(), Durability::PowerCut, |connection| create(connection, new, now).await)
    }

    /// Creates many keys in one transaction and answers how many are new; those that are there, and those of tenants
    /// that are not, are passed over.
    pub async fn import_keys(&self, new: &[NewKey], now: Timestamp) -> Result<u64, RecordsError> {
        let many = new.iter().map(importable).collect::<Result<Vec<_>, _>>()?;
        let many = rows::json(&many)?;
        let owners: Vec<_> = new.iter().map(|key| &*key.tenant).collect();
        transact!(self.db(), Durability::PowerCut, |connection| {
            locks::tenants(connection, &owners).await?;
            let query = sqlx::query(IMPORT).bind(many.clone()).bind(now.as_millisecond());
            Ok(query.execute(connection).await?.rows_affected())
        })
    }

    /// One key of a tenant, a revoked one too.
    pub async fn key(&self, tenant: &str, id: &str) -> Result<Option<Key>, RecordsError> {
        let row = sqlx::query(BY_ID).bind(id.to_owned()).fetch_optional(self.db().read()).await?;
        let found = row.as_ref().map(key).transpose()?;
        Ok(found.filter(|key| key.tenant == tenant))
    }

    /// A tenant's keys, newest first, revoked ones too.
    pub async fn keys(&self, tenant: &str, page: Page) -> Result<Listed<Key>, RecordsError> {
        let Some(tenant) = self.tenant(tenant).await? else {
            return Ok(Listed { data: Vec::new(), next: None });
        };
        let query = sqlx::query(OF_TENANT)
            .bind(rows::int(tenant.num.0)?)
            .bind(rows::cursor(page.after.as_deref())?)
            .bind(rows::limit(page.limit));
        let found = query.fetch_all(self.db().read()).await?;
        let found = found.iter().map(key).collect::<Result<Vec<_>, _>>()?;
        Ok(rows::listed(found, page.limit, |last| last.num.0.to_string()))
    }

    /// The key with that secret and its tenant, revoked, expired and deleted ones too: the caller says which.
    pub async fn key_by_hash(&self, sha256: &[u8; 32]) -> Result<Option<(Key, Tenant)>, RecordsError> {
        let row = sqlx::query(BY_HASH).bind(sha256.to_vec()).fetch_optional(self.db().read()).await?;
        row.as_ref().map(key_and_tenant).transpose()
    }

    /// Revokes a key for good; one that is revoked already stays as it is.
    pub async fn revoke_key(&self, tenant: &str, key_id: &str, now: Timestamp) -> Result<Option<Key>, RecordsError> {
        self.change_key(REVOKE, (tenant, key_id), now, now).await
    }

    /// Lets a key expire at `at`: the overlap of a rotation.
    pub async fn expire_key(
        &self,
        tenant: &str,
        key_id: &str,
        at: Timestamp,
        now: Timestamp,
    ) -> Result<Option<Key>, RecordsError> {
        self.change_key(EXPIRE, (tenant, key_id), at, now).await
    }

    /// Notes when keys were used; never moves back.
    pub async fn touch_keys(&self, used: &[(KeyNum, Timestamp)]) -> Result<(), RecordsError> {
        if used.is_empty() {
            return Ok(());
        }
        let used: Vec<_> = used.iter().map(|(key, at)| (key.0, at.as_millisecond())).collect();
        let used = rows::json(&used)?;
        transact!(self.db(), Durability::Process, |connection| {
            sqlx::query(TOUCH).bind(used.clone()).execute(connection).await?;
            Ok(())
        })
    }

    async fn change_key(
        &self,
        statement: &'static str,
        (tenant, id): (&str, &str),
        at: Timestamp,
        now: Timestamp,
    ) -> Result<Option<Key>, RecordsError> {
        transact!(self.db(), Durability::PowerCut, |connection| {
            let query = sqlx::query(statement).bind(tenant.to_owned()).bind(id.to_owned());
            query.bind(at.as_millisecond()).bind(now.as_millisecond()).execute(&mut *connection).await?;
            Ok(by_id(connection, id).await?.filter(|key| key.tenant == tenant))
        })
    }
}

async fn create(connection: &mut AnyConnection, new: &NewKey, now: Timestamp) -> Result<Created<Key>, RecordsError> {
    locks::tenants(connection, &[&new.tenant]).await?;
    let Some(tenant) = tenants::by_id(connection, &new.tenant).await? else {
        return Ok(Created::Differs("tenant"));
    };
    if let Some((there, owner)) = by_hash(connection, &new.sha256).await? {
        let same = owner.num == tenant.num;
        return Ok(difference(&there, new, same).map_or(Created::Exists(there), Created::Differs));
    }
    if by_id(connection, &new.id).await?.is_some() {
        return Ok(Created::Differs("id"));
    }
    insert(connection, &tenant, new, now).await?;
    let made = by_id(connection, &new.id).await?;
    made.map(Created::New).ok_or_else(|| RecordsError::Corrupt("a key vanished as it was made".to_owned()))
}

async fn by_hash(connection: &mut AnyConnection, sha256: &[u8; 32]) -> Result<Option<(Key, Tenant)>, RecordsError> {
    let row = sqlx::query(BY_HASH).bind(sha256.to_vec()).fetch_optional(connection).await?;
    row.as_ref().map(key_and_tenant).transpose()
}

async fn by_id(connection: &mut AnyConnection, id: &str) -> Result<Option<Key>, RecordsError> {
    let row = sqlx::query(BY_ID).bind(id.to_owned()).fetch_optional(connection).await?;
    row.as_ref().map(key).transpose()
}

async fn insert(
    connection: &mut AnyConnection,
    tenant: &Tenant,
    new: &NewKey,
    now: Timestamp,
) -> Result<(), RecordsError> {
    let query = sqlx::query(INSERT)
        .bind(rows::int(tenant.num.0)?)
        .bind(new.id.clone())
        .bind(new.name.clone())
        .bind(new.prefix.clone())
        .bind(new.sha256.to_vec())
        .bind(rows::json(&new.scopes)?)
        .bind(new.expires_at.map(Timestamp::as_millisecond))
        .bind(now.as_millisecond());
    query.execute(connection).await?;
    Ok(())
}

fn importable(new: &NewKey) -> Result<impl serde::Serialize + '_, RecordsError> {
    let scopes = rows::json(&new.scopes)?;
    let expires_at = new.expires_at.map(Timestamp::as_millisecond);
    Ok((&new.tenant, &new.id, &new.name, &new.prefix, hex::encode(new.sha256), scopes, expires_at))
}

/// The first field in which what is there differs from what is asked for; another id alone is no difference, since
/// each attempt may have made up its own.
fn difference(there: &Key, new: &NewKey, same_tenant: bool) -> Option<&'static str> {
    [
        ("key", same_tenant),
        ("revoked_at", there.revoked_at.is_none()),
        ("name", there.name == new.name),
        ("scopes", there.scopes == new.scopes),
        ("expires_at", there.expires_at == new.expires_at),
    ]
    .into_iter()
    .find_map(|(field, same)| (!same).then_some(field))
}

fn key_and_tenant(row: &AnyRow) -> Result<(Key, Tenant), RecordsError> {
    Ok((key(row)?, tenants::tenant(row)?))
}

fn key(row: &AnyRow) -> Result<Key, RecordsError> {
    let scopes: String = row.col("k_scopes")?;
    Ok(Key {
        num: KeyNum(row.units("k_num")?),
        id: row.col("k_id")?,
        tenant: row.col("k_tenant")?,
        name: row.col("k_name")?,
        prefix: row.col("k_prefix")?,
        sha256: rows::sha256(row, "k_sha256")?,
        scopes: serde_json::from_str(&scopes).map_err(|error| RecordsError::Corrupt(error.to_string()))?,
        expires_at: row.maybe_time("k_expires_at")?,
        revoked_at: row.maybe_time("k_revoked_at")?,
        last_used_at: row.maybe_time("k_last_used_at")?,
        created_at: row.time("k_created_at")?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{TenantPatch, kit};
    use super::*;

    fn new(n: u8) -> NewKey {
        NewKey {
            tenant: "acme".to_owned(),
            id: format!("key_{n}"),
            name: "prod".to_owned(),
            prefix: "tg_abc".to_owned(),
            sha256: [n; 32],
            scopes: vec!["GET /signals".to_owned(), "/{*rest}".to_owned()],
            expires_at: Some(kit::at(1000)),
        }
    }

    #[tokio::test]
    async fn a_key_comes_back_as_it_went_in() {
        let (_folder, records) = kit::records().await;
        let tenant = kit::tenant(&records, "acme", None).await;
        let Created::New(made) = records.create_key(new(1), kit::at(5)).await.unwrap() else { panic!("not new") };
        assert_eq!(made.scopes, new(1).scopes);
        assert_eq!((made.expires_at, made.created_at, made.revoked_at), (new(1).expires_at, kit::at(5), None));
        assert_eq!(records.key_by_hash(&[1; 32]).await.unwrap(), Some((made, tenant)));
        assert_eq!(records.key_by_hash(&[2; 32]).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_key_is_found_by_index_alone() {
        let (_folder, records) = kit::records().await;
        let Some(plan) = kit::plan(&records, BY_HASH).await else { return };
        assert!(plan.contains("api_key_by_sha256") && !plan.contains("SCAN"), "{plan}");
    }

    #[tokio::test]
    async fn creating_again_is_safe_and_a_secret_is_one_key() {
        let (_folder, records) = kit::records().await;
        kit::tenant(&records, "acme", None).await;
        kit::tenant(&records, "other", None).await;
        let Created::New(made) = records.create_key(new(1), kit::at(5)).await.unwrap() else { panic!("not new") };
        let create = async |change: fn(&mut NewKey)| {
            let mut key = new(1);
            change(&mut key);
            records.create_key(key, kit::at(6)).await.unwrap()
        };
        assert_eq!(create(|_| ()).await, Created::Exists(made.clone()));
        assert_eq!(create(|key| key.id = "key_9".to_owned()).await, Created::Exists(made));
        assert_eq!(create(|key| key.name = "x".to_owned()).await, Created::Differs("name"));
        assert_eq!(create(|key| key.scopes.clear()).await, Created::Differs("scopes"));
        assert_eq!(create(|key| key.tenant = "other".to_owned()).await, Created::Differs("key"));
        assert_eq!(create(|key| key.tenant = "nobody".to_owned()).await, Created::Differs("tenant"));
        assert_eq!(create(|key| key.sha256 = [9; 32]).await, Created::Differs("id"));
        records.revoke_key("acme", "key_1", kit::at(7)).await.unwrap();
        assert_eq!(create(|_| ()).await, Created::Differs("revoked_at"));
    }

    #[tokio::test]
    async fn revoking_is_for_good_and_for_the_owner_only() {
        let (_folder, records) = kit::records().await;
        kit::tenant(&records, "acme", None).await;
        kit::tenant(&records, "other", None).await;
        records.create_key(new(1), kit::at(5)).await.unwrap();
        assert_eq!(records.revoke_key("other", "key_1", kit::at(6)).await.unwrap(), None);
        assert_eq!(records.key_by_hash(&[1; 32]).await.unwrap().unwrap().0.revoked_at, None);
        let revoked = records.revoke_key("acme", "key_1", kit::at(7)).await.unwrap().unwrap();
        assert_eq!(revoked.revoked_at, Some(kit::at(7)));
        let again = records.revoke_key("acme", "key_1", kit::at(8)).await.unwrap().unwrap();
        assert_eq!(again.revoked_at, Some(kit::at(7)));
        let expiring = records.expire_key("acme", "key_1", kit::at(50), kit::at(7)).await.unwrap().unwrap();
        assert_eq!(expiring.expires_at, Some(kit::at(50)));
    }

    #[tokio::test]
    async fn use_is_noted_and_never_moves_back() {
        let (_folder, records) = kit::records().await;
        kit::tenant(&records, "acme", None).await;
        for n in [1, 2] {
            records.create_key(new(n), kit::at(5)).await.unwrap();
        }
        let num = records.key_by_hash(&[1; 32]).await.unwrap().unwrap().0.num;
        records.touch_keys(&[(num, kit::at(60)), (num, kit::at(120)), (KeyNum(999), kit::at(1))]).await.unwrap();
        records.touch_keys(&[(num, kit::at(90))]).await.unwrap();
        records.touch_keys(&[]).await.unwrap();
        assert_eq!(records.key_by_hash(&[1; 32]).await.unwrap().unwrap().0.last_used_at, Some(kit::at(120)));
        assert_eq!(records.key_by_hash(&[2; 32]).await.unwrap().unwrap().0.last_used_at, None);
    }

    #[tokio::test]
    async fn importing_passes_over_what_is_there() {
        let (_folder, records) = kit::records().await;
        kit::tenant(&records, "acme", None).await;
        records.create_key(new(1), kit::at(5)).await.unwrap();
        let stranger = NewKey { tenant: "nobody".to_owned(), ..new(9) };
        let eternal = NewKey { expires_at: None, ..new(3) };
        let made = records.import_keys(&[new(1), new(2), eternal, stranger], kit::at(6)).await.unwrap();
        assert_eq!(made, 2);
        let (second, _) = records.key_by_hash(&[2; 32]).await.unwrap().unwrap();
        assert_eq!((second.scopes, second.expires_at), (new(2).scopes, new(2).expires_at));
        assert_eq!(records.key_by_hash(&[3; 32]).await.unwrap().unwrap().0.expires_at, None);
        let listed = records.keys("acme", kit::page(2, None)).await.unwrap();
        assert_eq!(listed.data.iter().map(|key| &*key.id).collect::<Vec<_>>(), ["key_3", "key_2"]);
        let rest = records.keys("acme", kit::page(2, listed.next)).await.unwrap();
        assert_eq!((rest.data.len(), rest.next), (1, None));
    }

    #[tokio::test]
    async fn the_tenant_that_comes_with_a_key_is_the_present_one() {
        let (_folder, records) = kit::records().await;
        kit::tenant(&records, "acme", None).await;
        records.create_key(new(1), kit::at(5)).await.unwrap();
        let patch = TenantPatch { plan: Some("pro".to_owned()), ..TenantPatch::default() };
        let changed = records.update_tenant("acme", patch, kit::at(6)).await.unwrap().unwrap();
        assert_eq!(records.key_by_hash(&[1; 32]).await.unwrap().unwrap().1, changed);
    }
}
