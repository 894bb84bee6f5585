//! The embedded ledger's rows: read for all asked accounts at once, changed by the ledger's rules, written at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::db::{Durability, transact};
use super::rows::{self, Columns};
use super::{Records, RecordsError, locks, nodes};
use crate::ledger::rules::{AccountState, Hold, Turn};
use crate::testing::crash_point;
use crate::units::{Account, NodeId};

macro_rules! asked {
    ($columns:literal, $table:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM json_each($1) AS e CROSS JOIN ",
            $table,
            " AS a WHERE a.tenant = CAST(e.value ->> 0 AS BIGINT) AND a.period = CAST(e.value ->> 1 AS BIGINT) \
             AND a.meter = e.value ->> 2"
        )
    };
}

const ACCOUNTS: &str = asked!(
    "a.tenant, a.period, a.meter, a.ver, a.cap, a.hungry_until, a.turn_node, a.turn_lack, a.turn_until",
    "ledger_account"
);
const HOLDS: &str = asked!("a.tenant, a.period, a.meter, a.node, a.u, a.a, a.c", "ledger_hold");
const FLUSHED: &str = asked!("a.tenant, a.period, a.meter, a.node, a.total", "usage");
const STORE_ACCOUNTS: &str = "INSERT INTO ledger_account \
         (tenant, period, meter, ver, cap, hungry_until, turn_node, turn_lack, turn_until) \
     SELECT CAST(e.value ->> 0 AS BIGINT), CAST(e.value ->> 1 AS BIGINT), e.value ->> 2, \
            CAST(e.value ->> 3 AS BIGINT), CAST(e.value ->> 4 AS BIGINT), CAST(e.value ->> 5 AS BIGINT), \
            e.value ->> 6, CAST(e.value ->> 7 AS BIGINT), CAST(e.value ->> 8 AS BIGINT) \
     FROM json_each($1) AS e WHERE true \
     ON CONFLICT (tenant, period, meter) DO UPDATE SET ver = excluded.ver, cap = excluded.cap, \
         hungry_until = excluded.hungry_until, turn_node = excluded.turn_node, turn_lack = excluded.turn_lack, \
         turn_until = excluded.turn_until";
const STORE_HOLDS: &str = "INSERT INTO ledger_hold (tenant, period, meter, node, u, a, c) \
     SELECT CAST(e.value ->> 0 AS BIGINT), CAST(e.value ->> 1 AS BIGINT), e.value ->> 2, e.value ->> 3, \
            CAST(e.value ->> 4 AS BIGINT), CAST(e.value ->> 5 AS BIGINT), CAST(e.value ->> 6 AS BIGINT) \
     FROM json_each($1) AS e WHERE true \
     ON CONFLICT (tenant, period, meter, node) DO UPDATE SET u = excluded.u, a = excluded.a, c = excluded.c";

/// The asked accounts, as the ledger's rules see them.
pub(crate) struct Ledger {
    /// One for every asked account.
    pub(crate) states: BTreeMap<Account, AccountState>,
    /// How many nodes are alive.
    pub(crate) nodes: u32,
}

impl Records {
    /// One settle: loads `accounts`, lets `rules` change them, and stores what changed, in one transaction (perhaps
    /// more than once, if another one undid it). It
    /// survives the process; after a power cut every node says again what it holds.
    pub(crate) async fn settle<T>(
        &self,
        accounts: &[&Account],
        now: Timestamp,
        rules: impl Fn(&mut Ledger) -> T,
    ) -> Result<T, RecordsError> {
        crash_point("settle.before");
        let answers = transact!(self.db(), Durability::Process, |connection| {
            let mut ledger = load(connection, accounts, now).await?;
            let before = ledger.states.clone();
            let answers = rules(&mut ledger);
            store(connection, &before, &ledger.states).await?;
            crash_point("settle.before_commit");
            Ok(answers)
        })?;
        crash_point("settle.after_commit");
        Ok(answers)
    }
}

async fn load(connection: &mut AnyConnection, accounts: &[&Account], now: Timestamp) -> Result<Ledger, RecordsError> {
    let mut accounts = accounts.to_vec();
    accounts.sort_unstable();
    accounts.dedup();
    locks::ledger(connection, &accounts).await?;
    let live: i64 =
        sqlx::query(nodes::LIVE).bind(nodes::alive_since(now)).fetch_one(&mut *connection).await?.col("live")?;
    let mut states = known(connection, &accounts).await?;
    accounts.retain(|account| !states.contains_key(*account));
    if !accounts.is_empty() {
        states.extend(new(connection, &accounts).await?);
    }
    Ok(Ledger { states, nodes: u32::try_from(live).unwrap_or(u32::MAX) })
}

/// Accounts that have been settled before.
async fn known(
    connection: &mut AnyConnection,
    accounts: &[&Account],
) -> Result<BTreeMap<Account, AccountState>, RecordsError> {
    let mut states = BTreeMap::new();
    let asked = keys(accounts)?;
    for row in sqlx::query(ACCOUNTS).bind(asked.clone()).fetch_all(&mut *connection).await? {
        states.insert(row.account()?, account_state(&row)?);
    }
    for row in sqlx::query(HOLDS).bind(asked).fetch_all(connection).await? {
        let state = states.get_mut(&row.account()?);
        let state = state.ok_or_else(|| RecordsError::Corrupt("a node holds budget of no account".to_owned()))?;
        state.holds.insert(node(&row)?, hold(&row)?);
    }
    Ok(states)
}

/// Accounts settled for the first time begin with what is flushed.
async fn new(
    connection: &mut AnyConnection,
    accounts: &[&Account],
) -> Result<BTreeMap<Account, AccountState>, RecordsError> {
    let mut flushed: BTreeMap<Account, Vec<(NodeId, u64)>> =
        accounts.iter().map(|account| ((*account).clone(), Vec::new())).collect();
    for row in sqlx::query(FLUSHED).bind(keys(accounts)?).fetch_all(connection).await? {
        flushed.entry(row.account()?).or_default().push((node(&row)?, row.units("total")?));
    }
    Ok(flushed.into_iter().map(|(account, totals)| (account, AccountState::begin(totals))).collect())
}

async fn store(
    connection: &mut AnyConnection,
    before: &BTreeMap<Account, AccountState>,
    after: &BTreeMap<Account, AccountState>,
) -> Result<(), RecordsError> {
    let (mut accounts, mut holds) = (Vec::new(), Vec::new());
    for (account, state) in after.iter().filter(|(account, state)| before.get(account) != Some(state)) {
        accounts.push(account_row(account, state));
        holds.extend(state.holds.iter().map(|(node, hold)| hold_row(account, node, hold)));
    }
    if !accounts.is_empty() {
        sqlx::query(STORE_ACCOUNTS).bind(rows::json(&accounts)?).execute(&mut *connection).await?;
        sqlx::query(STORE_HOLDS).bind(rows::json(&holds)?).execute(connection).await?;
    }
    Ok(())
}

fn keys(accounts: &[&Account]) -> Result<String, RecordsError> {
    let keys: Vec<_> = accounts.iter().map(|account| key(account)).collect();
    rows::json(&keys)
}

fn key(account: &Account) -> (u64, i64, &str) {
    (account.tenant.0, account.period.0, &account.meter)
}

fn account_row<'a>(account: &'a Account, state: &'a AccountState) -> impl serde::Serialize + 'a {
    let (tenant, period, meter) = key(account);
    let turn = state.turn.as_ref();
    let (node, lack, until) = turn.map_or((None, 0, 0), |turn| (Some(&*turn.node.0), turn.lack, turn.until_ms));
    let cap = state.cap.map(whole);
    (tenant, period, meter, whole(state.plan_version), cap, state.hungry_until_ms, node, whole(lack), until)
}

fn hold_row<'a>(account: &'a Account, node: &'a NodeId, hold: &Hold) -> impl serde::Serialize + use<'a> {
    let (tenant, period, meter) = key(account);
    (tenant, period, meter, &*node.0, whole(hold.used), whole(hold.ceiling), whole(hold.ctr))
}

/// "Without limit" is the largest number the database has; so many units nobody spends.
fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn account_state(row: &AnyRow) -> Result<AccountState, RecordsError> {
    Ok(AccountState {
        plan_version: row.units("ver")?,
        cap: row.col::<Option<i64>>("cap")?.map(rows::uint).transpose()?,
        hungry_until_ms: row.col("hungry_until")?,
        turn: turn(row)?,
        holds: BTreeMap::new(),
    })
}

fn turn(row: &AnyRow) -> Result<Option<Turn>, RecordsError> {
    let Some(node) = row.col::<Option<String>>("turn_node")? else { return Ok(None) };
    let (lack, until_ms) = (row.units("turn_lack")?, row.col("turn_until")?);
    Ok(Some(Turn { node: NodeId(node.into()), lack, until_ms }))
}

fn node(row: &AnyRow) -> Result<NodeId, RecordsError> {
    Ok(NodeId(Arc::from(row.col::<String>("node")?)))
}

fn hold(row: &AnyRow) -> Result<Hold, RecordsError> {
    Ok(Hold { used: row.units("u")?, ceiling: row.units("a")?, ctr: row.units("c")? })
}
