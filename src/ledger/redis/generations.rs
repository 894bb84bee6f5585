//! Generations of the buckets, as Redis keeps them: survey, begin, confirm, open.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};

use futures_util::future::join_all;
use redis::Value;

use super::link::Failure;
use super::{Bucket, Redis, wire};
use crate::units::NodeId;

/// What a survey found of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// No answer.
    Silent,
    /// Nothing is known there.
    Nothing,
    /// A generation.
    Generation {
        /// Its number.
        generation: u64,
        /// Budget is granted.
        open: bool,
        /// This node has said what it holds.
        confirmed: bool,
    },
}

/// What came of opening a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// Budget is granted from now on.
    Open,
    /// These have not said what they hold.
    Waits(Vec<NodeId>),
    /// The generation has ended, or there was no answer.
    Failed,
}

impl Redis {
    /// The installation whose ledger this Redis is: this one, if it was nobody's. `None` without an answer.
    pub(super) async fn owner(&self) -> Option<String> {
        let first = Bucket::all().next()?;
        let mut cmd = redis::cmd("SET");
        cmd.arg(first.owner_key()).arg(self.records.installation()).arg("NX").arg("GET");
        let before: Option<String> = redis::from_redis_value(self.link.run(first, &cmd).await.ok()?).ok()?;
        Some(before.unwrap_or_else(|| self.records.installation().to_owned()))
    }

    /// Nothing is asked of any server until a survey has found it answering.
    pub(super) fn keep_away(&self) {
        for state in &self.buckets {
            state.silent.store(true, Release);
        }
    }

    /// Looks at every bucket, in one go; finds out whose servers answer.
    pub(super) async fn survey(&self, node: &NodeId) -> BTreeMap<Bucket, Found> {
        let looks = Bucket::all().map(|bucket| async move {
            let mut cmd = redis::cmd("HMGET");
            cmd.arg(bucket.meta_key()).arg("gen").arg("open").arg(format!("ok:{}", node.0));
            (bucket, self.link.run(bucket, &cmd).await)
        });
        let mut found = BTreeMap::new();
        for (bucket, answer) in join_all(looks).await {
            let seen = answer.and_then(|value| seen(value).ok_or(Failure::Unknown("not a bucket's meta".into())));
            let silent = seen.is_err();
            if self.state(bucket).silent.swap(silent, AcqRel) && !silent {
                tracing::debug!(?bucket, "answers");
            }
            found.insert(bucket, seen.unwrap_or(Found::Silent));
        }
        found
    }

    /// Whether a settle found that the generation this node is in has ended.
    pub(super) fn has_ended(&self, bucket: Bucket) -> bool {
        self.state(bucket).lost.load(Acquire)
    }

    /// Begins a generation, whose number is sent this once; answers the one that the bucket is in then.
    pub(super) async fn begin(&self, bucket: Bucket, generation: u64) -> Option<u64> {
        let arguments = [generation.to_string(), self.generation(bucket).to_string()];
        let begun = self.scripts.begin.run(&self.link, bucket, &[bucket.meta_key()], &arguments).await;
        wire::int(begun.inspect_err(|error| tracing::warn!(?bucket, ?error, "a generation was not begun")).ok()?)
    }

    /// This node is in `generation` from now on, unless it is in a later one: an old master is never believed again.
    pub(super) fn adopt(&self, bucket: Bucket, generation: u64) {
        if self.state(bucket).generation.fetch_max(generation, AcqRel) < generation {
            self.state(bucket).lost.store(false, Release);
        }
    }

    /// This node has said what it holds in the generation it is in.
    pub(super) async fn confirm(&self, bucket: Bucket, node: &NodeId) -> bool {
        let arguments = [self.generation(bucket).to_string(), node.0.to_string()];
        let confirmed = self.scripts.confirm.run(&self.link, bucket, &[bucket.meta_key()], &arguments).await;
        confirmed.ok().and_then(wire::words).is_some_and(|(word, _)| word == "OK")
    }

    /// Opens the generation this node is in, if all of `nodes` have said what they hold.
    pub(super) async fn open(&self, bucket: Bucket, nodes: &[NodeId]) -> Opening {
        let mut arguments = vec![self.generation(bucket).to_string()];
        arguments.extend(nodes.iter().map(|node| node.0.to_string()));
        let opened = self.scripts.open.run(&self.link, bucket, &[bucket.meta_key()], &arguments).await;
        match opened.ok().and_then(wire::words) {
            Some((word, _)) if word == "OPEN" => Opening::Open,
            Some((word, nodes)) if word == "WAIT" => {
                let name = |node| wire::text(node).map(|node| NodeId(node.into()));
                nodes.into_iter().map(name).collect::<Option<_>>().map_or(Opening::Failed, Opening::Waits)
            }
            Some(_) | None => Opening::Failed,
        }
    }

    /// Whether no bucket's server answers.
    pub(super) fn is_silent(&self) -> bool {
        self.buckets.iter().all(|state| state.silent.load(Acquire))
    }
}

fn seen(value: Value) -> Option<Found> {
    let [generation, open, confirmed] = <[Value; 3]>::try_from(wire::list(value)?).ok()?;
    if generation == Value::Nil {
        return Some(Found::Nothing);
    }
    let is_set = |value: Value| wire::int(value) == Some(1);
    Some(Found::Generation { generation: wire::int(generation)?, open: is_set(open), confirmed: is_set(confirmed) })
}
