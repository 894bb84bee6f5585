//! What a ledger that may forget needs from the records: numbers for its generations, what each node has flushed, and
//! which nodes may hold budget.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::db::{Durability, transact};
use super::rows::{self, Columns};
use super::{Records, RecordsError};
use crate::units::{Account, NodeId};

const NEXT: &str = "UPDATE ledger_gen SET gen = gen + $1 RETURNING gen";
const FLUSHED_SINCE: &str = "SELECT tenant, period, meter, flush_gen FROM usage WHERE node = $1 AND flush_gen >= $2";
const BASES: &str = "SELECT a.tenant, a.period, a.meter, a.node, a.total FROM json_each($1) AS e CROSS JOIN usage AS a \
     WHERE a.tenant = CAST(e.value ->> 0 AS BIGINT) AND a.period = CAST(e.value ->> 1 AS BIGINT) \
       AND a.meter = e.value ->> 2";
const NODES: &str = "SELECT id, state, closed_gen FROM node";
const CLOSE: &str = "UPDATE node SET state = $2, closed_gen = (SELECT gen FROM ledger_gen) WHERE id = $1";

/// A node, as the generations of the ledger see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeState {
    /// Which.
    pub id: NodeId,
    /// Whether it may hold budget.
    pub holds: Holds,
}

/// Whether a node may hold budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// It may.
    Maybe,
    /// It gave everything back and was drained; the last generation it may have held something in.
    Retired {
        /// `ledger_gen` at that time.
        closed_gen: u64,
    },
    /// It will not come back, and what it had used is in the records.
    Lost {
        /// `ledger_gen` at that time.
        closed_gen: u64,
    },
}

/// An end of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Drained: everything given back and flushed.
    Retired,
    /// Stopped for good, its journal shipped.
    Lost,
}

impl Records {
    /// Numbers for `count` new generations: the first of as many. Never given twice.
    pub async fn next_generations(&self, count: u64) -> Result<u64, RecordsError> {
        let last = transact!(self.db(), Durability::PowerCut, |connection| {
            sqlx::query(NEXT).bind(rows::int(count)?).fetch_one(connection).await?.units("gen")
        })?;
        Ok(last + 1 - count)
    }

    /// Accounts of which `node` has flushed something in `generation` or later, with the latest one.
    pub async fn flushed_since(&self, node: &NodeId, generation: u64) -> Result<Vec<(Account, u64)>, RecordsError> {
        let query = sqlx::query(FLUSHED_SINCE).bind(node.0.to_string()).bind(rows::int(generation)?);
        let found = query.fetch_all(self.db().read()).await?;
        found.iter().map(|row| Ok((row.account()?, row.units("flush_gen")?))).collect()
    }

    /// What each node has flushed of each of `accounts`; all from one snapshot.
    pub async fn bases(&self, accounts: &[&Account]) -> Result<BTreeMap<Account, BTreeMap<NodeId, u64>>, RecordsError> {
        let keys: Vec<_> = accounts.iter().map(|a| (a.tenant.0, a.period.0, &*a.meter)).collect();
        let mut bases: BTreeMap<_, BTreeMap<_, _>> =
            accounts.iter().map(|account| ((*account).clone(), BTreeMap::new())).collect();
        for row in sqlx::query(BASES).bind(rows::json(&keys)?).fetch_all(self.db().read()).await? {
            let node = NodeId(Arc::from(row.col::<String>("node")?));
            bases.entry(row.account()?).or_default().insert(node, row.units("total")?);
        }
        Ok(bases)
    }

    /// Every node there ever was.
    pub async fn nodes(&self) -> Result<Vec<NodeState>, RecordsError> {
        let found = sqlx::query(NODES).fetch_all(self.db().read()).await?;
        let state = |row: &sqlx::any::AnyRow| {
            let closed_gen = row.units("closed_gen")?;
            let holds = match row.col::<String>("state")?.as_str() {
                "retired" => Holds::Retired { closed_gen },
                "lost" => Holds::Lost { closed_gen },
                _ => Holds::Maybe,
            };
            Ok(NodeState { id: NodeId(row.col::<String>("id")?.into()), holds })
        };
        found.iter().map(state).collect()
    }

    /// A node's end, as of the present generation. It is undone when the node registers again.
    pub async fn end_node(&self, node: &NodeId, ended: Ended) -> Result<(), RecordsError> {
        let state = match ended {
            Ended::Retired => "retired",
            Ended::Lost => "lost",
        };
        transact!(self.db(), Durability::PowerCut, |connection| {
            sqlx::query(CLOSE).bind(node.0.to_string()).bind(state).execute(connection).await?;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::kit::{self, batch};
    use super::*;
    use crate::units::TenantNum;

    #[tokio::test]
    async fn numbers_are_given_once() {
        let (_folder, records) = kit::records().await;
        let first = records.next_generations(1).await.unwrap();
        let (a, b) = tokio::join!(records.next_generations(256), records.next_generations(3));
        let (a, b) = (a.unwrap(), b.unwrap());
        assert!(first < a && first < b);
        assert!(a + 256 <= b || b + 3 <= a, "{a} {b}");
    }

    #[tokio::test]
    async fn what_was_flushed_since_a_generation_is_found_by_index() {
        let (_folder, records) = kit::records().await;
        records.flush(&[batch("a", TenantNum(1), (1, 1), 5)], kit::at(0)).await.unwrap();
        let generation = records.next_generations(1).await.unwrap();
        let later = [batch("a", TenantNum(2), (2, 2), 7), batch("b", TenantNum(2), (1, 1), 3)];
        records.flush(&later, kit::at(0)).await.unwrap();
        let since = records.flushed_since(&kit::node("a"), generation).await.unwrap();
        assert_eq!(since, [(kit::account(TenantNum(2)), generation)]);
        assert_eq!(records.flushed_since(&kit::node("a"), generation + 1).await.unwrap(), []);
        let plan = kit::plan(&records, "SELECT * FROM usage WHERE node = 'a' AND flush_gen >= 1").await;
        assert!(plan.is_none_or(|plan| plan.contains("usage_by_flush")));
    }

    #[tokio::test]
    async fn a_base_has_every_node_and_an_unused_account_none() {
        let (_folder, records) = kit::records().await;
        let batches = [batch("a", TenantNum(1), (1, 1), 5), batch("b", TenantNum(1), (1, 1), 6)];
        records.flush(&batches, kit::at(0)).await.unwrap();
        let (used, unused) = (kit::account(TenantNum(1)), kit::account(TenantNum(2)));
        let bases = records.bases(&[&used, &unused]).await.unwrap();
        assert_eq!(bases[&used], BTreeMap::from([(kit::node("a"), 5), (kit::node("b"), 6)]));
        assert_eq!(bases[&unused], BTreeMap::new());
    }

    #[tokio::test]
    async fn an_ended_node_may_hold_budget_again_when_it_comes_back() {
        let (_folder, records) = kit::records().await;
        let node = kit::node("a");
        let holds = async || records.nodes().await.unwrap().remove(0).holds;
        records.register_node(&node, 1, kit::at(0)).await.unwrap();
        assert_eq!(holds().await, Holds::Maybe);
        records.end_node(&node, Ended::Retired).await.unwrap();
        let closed_gen = records.next_generations(1).await.unwrap() - 1;
        assert_eq!(holds().await, Holds::Retired { closed_gen });
        records.end_node(&node, Ended::Lost).await.unwrap();
        assert_eq!(holds().await, Holds::Lost { closed_gen: closed_gen + 1 });
        records.register_node(&node, 2, kit::at(1)).await.unwrap();
        assert_eq!(holds().await, Holds::Maybe);
    }
}
