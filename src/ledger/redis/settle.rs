//! The settle itself: asks are sorted into buckets, each bucket's go in one call, all calls at once.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;

use futures_util::future::join_all;

use super::link::Failure;
use super::wire::{self, Base, Item, Reply};
use super::{Bucket, Redis};
use crate::clock::Clock;
use crate::ledger::{Answer, Ask, LedgerError};
use crate::units::{Account, NodeId};

/// Asks in one script call: bounds how long Redis is busy with it.
const ASKS_AT_MOST: usize = 100;
/// A base is read from the records within so long, or its account waits: others must not wait longer for it.
const BASE_WAIT: Duration = Duration::from_millis(250);

/// What is known of each ask so far, by its place.
type Items = Vec<Option<Item>>;

impl Redis {
    pub(super) async fn settle_all(&self, node: &NodeId, asks: &[Ask]) -> Result<Vec<Answer>, LedgerError> {
        let mut items: Items = asks.iter().map(|_| None).collect();
        let failure = self.send(node, asks, (0..asks.len()).collect(), &BTreeMap::new(), &mut items).await;
        let new: Vec<_> = (0..asks.len()).filter(|n| items[*n] == Some(Item::NeedBase)).collect();
        if !new.is_empty()
            && let Some(bases) = self.bases(asks, &new).await
        {
            // The same message may go again: nothing has happened. A base is read after the node was in this
            // generation, which the script checks.
            self.send(node, asks, new, &bases, &mut items).await;
        }
        match failure {
            Some(failure) if items.iter().all(Option::is_none) => Err(failure.into()),
            Some(_) | None => Ok(items.into_iter().map(answer).collect()),
        }
    }

    /// Settles the asks at `places`; answers one of the failures, if there was one.
    async fn send(
        &self,
        node: &NodeId,
        asks: &[Ask],
        places: Vec<usize>,
        bases: &BTreeMap<Account, Base>,
        items: &mut Items,
    ) -> Option<Failure> {
        let mut buckets: BTreeMap<Bucket, Vec<usize>> = BTreeMap::new();
        for place in places {
            buckets.entry(Bucket::of(asks[place].account.tenant)).or_default().push(place);
        }
        let calls = buckets.iter().flat_map(|(bucket, places)| places.chunks(ASKS_AT_MOST).map(|some| (*bucket, some)));
        let calls = calls.map(|(bucket, places)| async move {
            let asks: Vec<_> = places.iter().map(|place| &asks[*place]).collect();
            (places, self.call(node, bucket, &asks, bases).await)
        });
        let mut failure = None;
        for (places, replied) in join_all(calls).await {
            match replied {
                Ok(replied) => places.iter().zip(replied).for_each(|(place, item)| items[*place] = Some(item)),
                Err(failed) => failure = Some(failed),
            }
        }
        failure
    }

    async fn call(
        &self,
        node: &NodeId,
        bucket: Bucket,
        asks: &[&Ask],
        bases: &BTreeMap<Account, Base>,
    ) -> Result<Vec<Item>, Failure> {
        if self.state(bucket).silent.load(Acquire) {
            return Err(Failure::NotSent("the ledger does not answer".into()));
        }
        let mut keys = vec![bucket.meta_key()];
        keys.extend(asks.iter().map(|ask| bucket.account_key(&ask.account)));
        let mut arguments = vec![
            node.0.to_string(),
            self.generation(bucket).to_string(),
            self.now(),
            self.nodes.load(Relaxed).to_string(),
        ];
        arguments.extend(asks.iter().flat_map(|ask| wire::arguments(ask, bases.get(&ask.account))));
        let running = self.scripts.settle.run(&self.link, bucket, &keys, &arguments);
        let replied = tokio::time::timeout(self.patience, running).await;
        let replied = replied.unwrap_or_else(|_| Err(Failure::Unknown("no answer in time".into())));
        let replied = replied.inspect_err(|failure| self.note_silence(bucket, failure))?;
        match wire::reply(replied, asks) {
            Some(Reply::Ok(items)) => Ok(items),
            Some(other @ (Reply::Lost | Reply::Gen(_))) => {
                self.note_end(bucket, &other);
                Ok(asks.iter().map(|_| Item::Answer(Answer::Closed { noted: false })).collect())
            }
            None => Err(Failure::Unknown("an answer that is none of the script's".into())),
        }
    }

    fn note_end(&self, bucket: Bucket, reply: &Reply) {
        match reply {
            // A later generation: the next survey adopts it.
            Reply::Gen(generation) if *generation > self.generation(bucket) => self.work.notify_one(),
            // An earlier one is an old master's word, worth nothing.
            Reply::Lost | Reply::Gen(_) | Reply::Ok(_) => self.ended(bucket),
        }
    }

    fn note_silence(&self, bucket: Bucket, failure: &Failure) {
        tracing::debug!(?bucket, ?failure, "a bucket does not answer");
        self.fell_silent(bucket);
    }

    /// Redis's own clock, so that nodes whose clocks differ agree; a test's where it moves time.
    fn now(&self) -> String {
        match &self.clock {
            Clock::System => "0".to_owned(),
            clock @ Clock::Manual(_) => clock.now_ms().to_string(),
        }
    }

    /// What is flushed of the accounts at `places`; `None` if the records do not say so in time.
    async fn bases(&self, asks: &[Ask], places: &[usize]) -> Option<BTreeMap<Account, Base>> {
        let accounts: Vec<_> = places.iter().map(|place| &asks[*place].account).collect();
        let error = match tokio::time::timeout(BASE_WAIT, self.records.bases(&accounts)).await {
            Ok(Ok(bases)) => return Some(bases),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::warn!(error, accounts = accounts.len(), "the records do not say what is flushed: accounts wait");
        None
    }
}

fn answer(item: Option<Item>) -> Answer {
    match item {
        Some(Item::Answer(answer)) => answer,
        Some(Item::NeedBase) | None => Answer::Closed { noted: false },
    }
}
