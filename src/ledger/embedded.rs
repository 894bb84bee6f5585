//! The ledger in the records' own database: a settle is one SQL transaction. For one machine, or a few nodes.
//!
//! Nothing here forgets, so there are no generations: what a node was granted stays in its row until it lowers it.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::rules::settle_account;
use super::{Answer, Ask, Ledger, LedgerError};
use crate::clock::Clock;
use crate::records::{Records, RecordsError};
use crate::units::NodeId;

/// The embedded ledger. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Embedded {
    records: Records,
    clock: Clock,
}

impl Embedded {
    /// A ledger in `records`; the clock only times how long a short node is waited for.
    #[must_use]
    pub fn new(records: Records, clock: Clock) -> Self {
        Self { records, clock }
    }

    async fn settle_all(&self, node: &NodeId, asks: &[Ask]) -> Result<Vec<Answer>, LedgerError> {
        let accounts: Vec<_> = asks.iter().map(|ask| &ask.account).collect();
        let now = self.clock.now();
        let settled = self.records.settle(&accounts, now, |ledger| {
            let mut answer = |ask: &Ask| {
                let state = ledger.states.get_mut(&ask.account).expect("every account asked for was loaded");
                settle_account(state, node, ask, now.as_millisecond(), ledger.nodes)
            };
            asks.iter().map(&mut answer).collect()
        });
        settled.await.map_err(LedgerError::from)
    }
}

impl Ledger for Embedded {
    fn settle<'a>(&'a self, node: &'a NodeId, asks: &'a [Ask]) -> BoxFuture<'a, Result<Vec<Answer>, LedgerError>> {
        self.settle_all(node, asks).boxed()
    }
}

impl From<RecordsError> for LedgerError {
    fn from(error: RecordsError) -> Self {
        let text = error.to_string().into();
        match error {
            RecordsError::Unknown(_) => Self::Unknown(text),
            RecordsError::Unavailable(_) | RecordsError::Corrupt(_) | RecordsError::Invalid(_) => {
                Self::Unavailable(text)
            }
        }
    }
}
