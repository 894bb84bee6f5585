//! Claims: which node works on what. They save work and prove nothing; the conditions of `seal` and `reports` do.

use jiff::{SignedDuration, Timestamp};
use sqlx::any::AnyRow;

use super::db::{Durability, Engine, transact};
use super::{Records, RecordsError};
use crate::units::NodeId;

/// How long a claim keeps the others away: the work of a node that died is taken up after that.
const CLAIM: SignedDuration = SignedDuration::from_mins(2);

impl Records {
    /// Who claims: the first node that registered here. Nobody in a SQLite file, which has one node.
    pub(super) fn claimant(&self) -> Option<&NodeId> {
        self.inner.claimant.get().filter(|_| self.db().engine() == Engine::Postgres)
    }

    pub(super) fn claims_for(&self, node: &NodeId) {
        self.inner.claimant.get_or_init(|| node.clone());
    }

    /// Claims what is free and reads what this node has claimed, now or before.
    pub(super) async fn claimed(
        &self,
        [claim, read]: [&'static str; 2],
        node: &NodeId,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<AnyRow>, RecordsError> {
        let now_ms = now.as_millisecond();
        let until_ms = now_ms.saturating_add(CLAIM.as_millis().try_into().unwrap_or(i64::MAX));
        transact!(self.db(), Durability::Process, |connection| {
            let query = sqlx::query(claim).bind(now_ms).bind(i64::from(limit)).bind(node.0.to_string()).bind(until_ms);
            query.execute(&mut *connection).await?;
            let query = sqlx::query(read).bind(now_ms).bind(i64::from(limit)).bind(node.0.to_string());
            Ok(query.fetch_all(connection).await?)
        })
    }
}
