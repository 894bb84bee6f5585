//! Buckets: 256 parts of the tenants, each with its own keys in one slot of a Cluster and its own generation.

use sha2::{Digest, Sha256};

use crate::units::{Account, TenantNum};

/// One of 256; their number never changes, since it is in the names of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bucket(u8);

impl Bucket {
    /// Where a tenant's accounts are: the first byte of the SHA-256 of its number. Never changes.
    #[must_use]
    pub fn of(tenant: TenantNum) -> Self {
        Self(Sha256::digest(tenant.0.to_be_bytes())[0])
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=u8::MAX).map(Self)
    }

    /// Its place among all.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// What its keys are hashed by: the part between the braces.
    pub(super) fn tag(self) -> String {
        format!("tg:{}", self.0)
    }

    /// The key of its generation.
    #[must_use]
    pub fn meta_key(self) -> String {
        format!("{{{}}}:m", self.tag())
    }

    /// In the first bucket, the key of the installation whose ledger this is.
    pub(super) fn owner_key(self) -> String {
        format!("{{{}}}:installation", self.tag())
    }

    /// The key of an account in it.
    #[must_use]
    pub fn account_key(self, account: &Account) -> String {
        format!("{{{}}}:a:{}:{}:{}", self.tag(), account.tenant.0, account.period.0, account.meter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::PeriodId;

    #[test]
    fn a_tenant_stays_in_its_bucket() {
        let buckets: Vec<_> = [1, 2, 3, 4000].map(|n| Bucket::of(TenantNum(n)).0).to_vec();
        assert_eq!(buckets, [205, 205, 213, 108]);
    }

    #[test]
    fn tenants_spread_over_all() {
        let used: std::collections::HashSet<_> = (1..=4096).map(|n| Bucket::of(TenantNum(n))).collect();
        assert_eq!(used.len(), 256);
        assert_eq!(Bucket::all().count(), 256);
    }

    #[test]
    fn keys_carry_the_slot() {
        let account = Account { tenant: TenantNum(1), period: PeriodId(9), meter: "api_units".into() };
        let bucket = Bucket(7);
        assert_eq!(bucket.meta_key(), "{tg:7}:m");
        assert_eq!(bucket.account_key(&account), "{tg:7}:a:1:9:api_units");
    }
}
