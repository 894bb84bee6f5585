//! Nodes: who writes journals, who is alive, how far each journal is counted; and the versions of the configuration.

use jiff::{SignedDuration, Timestamp};

use super::db::{Durability, transact};
use super::rows::Columns;
use super::{Records, RecordsError, locks};
use crate::units::NodeId;

/// A node that has not been heard of for longer is not counted as live. Only the size of grants depends on it.
pub(super) const LIVE_FOR: SignedDuration = SignedDuration::from_secs(30);

const REGISTER: &str = "INSERT INTO node (id, boot, state, registered_at, seen_at) VALUES ($1, $2, 'live', $3, $3) \
     ON CONFLICT (id) DO UPDATE SET boot = excluded.boot, state = 'live', seen_at = excluded.seen_at \
     WHERE node.boot <= excluded.boot";
const BEAT: &str = "UPDATE node SET seen_at = $2 WHERE id = $1 AND seen_at < $2";
pub(super) const LIVE: &str = "SELECT COUNT(*) AS live FROM node WHERE state = 'live' AND seen_at >= $1";
const FLUSHED_SEQ: &str = "SELECT flushed_seq FROM journal WHERE node = $1 AND worker = $2";
const NEWEST_CONFIG: &str = "SELECT version, sha256 FROM config_version ORDER BY version DESC LIMIT 1";
const NEW_CONFIG: &str = "INSERT INTO config_version (sha256, at) VALUES ($1, $2)";

impl Records {
    /// Makes a node known, before its first settle.
    ///
    /// # Errors
    /// [`RecordsError::Invalid`] if it has already been here with a later `boot`: its directory is an old copy, and a
    /// second life under the same id would spend and count what the first one did.
    pub async fn register_node(&self, node: &NodeId, boot: u32, now: Timestamp) -> Result<(), RecordsError> {
        let newer = transact!(self.db(), Durability::PowerCut, |connection| {
            let query = sqlx::query(REGISTER).bind(node.0.to_string()).bind(i64::from(boot)).bind(now.as_millisecond());
            Ok(query.execute(connection).await?.rows_affected() > 0)
        })?;
        if !newer {
            return Err(RecordsError::Invalid(format!(
                "node {} has been started since its journal directory was copied (boot {boot})",
                node.0
            )));
        }
        self.claims_for(node);
        Ok(())
    }

    /// Says that a node is alive.
    pub async fn beat_node(&self, node: &NodeId, now: Timestamp) -> Result<(), RecordsError> {
        transact!(self.db(), Durability::Process, |connection| {
            let query = sqlx::query(BEAT).bind(node.0.to_string()).bind(now.as_millisecond());
            query.execute(connection).await?;
            Ok(())
        })
    }

    /// How many nodes were heard of within 30 seconds.
    pub async fn live_nodes(&self, now: Timestamp) -> Result<u32, RecordsError> {
        let row = sqlx::query(LIVE).bind(alive_since(now)).fetch_one(self.db().read()).await?;
        let live: i64 = row.col("live")?;
        u32::try_from(live).map_err(|_| RecordsError::Corrupt(format!("{live} live nodes")))
    }

    /// Last sequence number of that worker's journal that is counted; 0 before the first.
    pub async fn flushed_seq(&self, node: &NodeId, worker: u16) -> Result<u64, RecordsError> {
        let query = sqlx::query(FLUSHED_SEQ).bind(node.0.to_string()).bind(i32::from(worker));
        let row = query.fetch_optional(self.db().read()).await?;
        row.map_or(Ok(0), |row| row.units("flushed_seq"))
    }

    /// The version of the configuration with that content: the newest if it is the same, else a new one.
    pub async fn config_version(&self, sha256: &str, now: Timestamp) -> Result<u64, RecordsError> {
        transact!(self.db(), Durability::PowerCut, |connection| {
            locks::names(connection, &["tollgate config".to_owned()]).await?;
            if let Some(newest) = sqlx::query(NEWEST_CONFIG).fetch_optional(&mut *connection).await?
                && newest.col::<String>("sha256")? == sha256
            {
                return newest.units("version");
            }
            let query = sqlx::query(NEW_CONFIG).bind(sha256.to_owned()).bind(now.as_millisecond());
            query.execute(&mut *connection).await?;
            sqlx::query(NEWEST_CONFIG).fetch_one(connection).await?.units("version")
        })
    }
}

/// Beats from then on count as life, Unix milliseconds.
pub(super) fn alive_since(now: Timestamp) -> i64 {
    now.as_millisecond().saturating_sub(LIVE_FOR.as_millis().try_into().unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::super::kit;
    use super::*;

    #[tokio::test]
    async fn nodes_are_live_while_they_beat() {
        let (_folder, records) = kit::records().await;
        assert_eq!(records.live_nodes(kit::at(0)).await.unwrap(), 0);
        records.register_node(&kit::node("a"), 1, kit::at(0)).await.unwrap();
        records.register_node(&kit::node("b"), 1, kit::at(0)).await.unwrap();
        assert_eq!(records.live_nodes(kit::at(30)).await.unwrap(), 2);
        records.beat_node(&kit::node("a"), kit::at(25)).await.unwrap();
        records.beat_node(&kit::node("a"), kit::at(3)).await.unwrap();
        assert_eq!(records.live_nodes(kit::at(31)).await.unwrap(), 1);
        assert_eq!(records.live_nodes(kit::at(56)).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn an_old_copy_of_a_node_is_refused() {
        let (_folder, records) = kit::records().await;
        records.register_node(&kit::node("a"), 5, kit::at(0)).await.unwrap();
        records.register_node(&kit::node("a"), 5, kit::at(1)).await.unwrap();
        records.register_node(&kit::node("a"), 6, kit::at(2)).await.unwrap();
        let copy = records.register_node(&kit::node("a"), 5, kit::at(3)).await;
        assert!(matches!(copy, Err(RecordsError::Invalid(_))), "{copy:?}");
    }

    #[tokio::test]
    async fn a_configuration_keeps_its_version_until_it_changes() {
        let (_folder, records) = kit::records().await;
        let mut versions = Vec::new();
        for sha256 in ["a", "a", "b", "b", "a"] {
            versions.push(records.config_version(sha256, kit::at(0)).await.unwrap());
        }
        assert_eq!(versions, [1, 1, 2, 2, 3]);
    }
}
