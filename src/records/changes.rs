//! What changed lately, so that a node can take out of its memory what another node changed.

use jiff::Timestamp;

use super::rows::{self, Columns};
use super::{Records, RecordsError};
use crate::units::TenantNum;

const TENANTS: &str = "SELECT num, updated_at FROM tenant WHERE updated_at >= $1";
const KEYS: &str = "SELECT sha256, changed_at FROM api_key WHERE changed_at IS NOT NULL AND changed_at >= $1";

/// A change and its time, Unix milliseconds: the same change is the same value each time it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Changed {
    /// A tenant was made, changed or deleted.
    Tenant(TenantNum, i64),
    /// The key with this SHA-256 was revoked, or its expiry was changed.
    Key([u8; 32], i64),
}

impl Changed {
    /// When, by the clock of the node that made it; Unix milliseconds.
    #[must_use]
    pub fn at_ms(&self) -> i64 {
        match self {
            Self::Tenant(_, at_ms) | Self::Key(_, at_ms) => *at_ms,
        }
    }
}

impl Records {
    /// Changes since `from`, in no order. Nodes' clocks differ and commits land late: ask for more than the last second.
    pub async fn changes_since(&self, from: Timestamp) -> Result<Vec<Changed>, RecordsError> {
        let from_ms = from.as_millisecond();
        let mut changes = Vec::new();
        for row in sqlx::query(TENANTS).bind(from_ms).fetch_all(self.db().read()).await? {
            changes.push(Changed::Tenant(TenantNum(row.units("num")?), row.col("updated_at")?));
        }
        for row in sqlx::query(KEYS).bind(from_ms).fetch_all(self.db().read()).await? {
            changes.push(Changed::Key(rows::sha256(&row, "sha256")?, row.col("changed_at")?));
        }
        Ok(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{NewKey, TenantPatch, kit};
    use super::*;

    #[tokio::test]
    async fn changes_are_told_from_their_time_on() {
        let (_folder, records) = kit::records().await;
        let num = kit::tenant(&records, "acme", None).await.num;
        let new = NewKey {
            tenant: "acme".into(),
            id: "key_1".into(),
            name: "prod".into(),
            prefix: "tg_".into(),
            sha256: [7; 32],
            scopes: Vec::new(),
            expires_at: None,
        };
        records.create_key(new, kit::at(10)).await.unwrap();
        records.revoke_key("acme", "key_1", kit::at(20)).await.unwrap().unwrap();
        let patch = TenantPatch { plan: Some("pro".into()), ..TenantPatch::default() };
        records.update_tenant("acme", patch, kit::at(30)).await.unwrap().unwrap();
        let at_ms = |seconds| kit::at(seconds).as_millisecond();
        let revoked = Changed::Key([7; 32], at_ms(20));
        let upgraded = Changed::Tenant(num, at_ms(30));
        assert_eq!(records.changes_since(kit::at(20)).await.unwrap(), [upgraded, revoked]);
        assert_eq!(records.changes_since(kit::at(21)).await.unwrap(), [upgraded]);
        assert_eq!(records.changes_since(kit::at(31)).await.unwrap(), []);
    }
}
