//! A settle as the script reads it, and its answers as we do.

use std::collections::BTreeMap;

use redis::Value;

use crate::ledger::{Answer, Ask};
use crate::units::NodeId;

/// Lua's numbers are exact up to here; so many units nobody spends.
const LARGEST: u64 = 1 << 53;

/// What each node has flushed of an account.
pub(super) type Base = BTreeMap<NodeId, u64>;

/// The arguments of one ask.
pub(super) fn arguments(ask: &Ask, base: Option<&Base>) -> [String; 8] {
    [
        format!("{:020}", ask.ctr),
        number(ask.used),
        number(ask.hold),
        number(ask.need),
        number(ask.want),
        number(ask.plan_version),
        ask.cap.map_or_else(String::new, number),
        base.map_or_else(String::new, json),
    ]
}

fn number(value: u64) -> String {
    value.min(LARGEST).to_string()
}

fn json(base: &Base) -> String {
    let object = base.iter().map(|(node, total)| (node.0.to_string(), (*total).min(LARGEST).into()));
    serde_json::Value::Object(object.collect()).to_string()
}

/// What the settle script said about a bucket.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// What it holds is not of this process.
    Lost,
    /// It is in another generation.
    Gen(u64),
    /// Each ask was looked at, in the order of the asks.
    Ok(Vec<Item>),
}

/// What it said about one ask.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// Done, or nothing to be done.
    Answer(Answer),
    /// The account is new in this generation.
    NeedBase,
}

/// Reads a reply to `asks`; `None` if it is none.
pub(super) fn reply(value: Value, asks: &[&Ask]) -> Option<Reply> {
    let mut values = list(value)?.into_iter();
    match text(values.next()?)?.as_str() {
        "LOST" => Some(Reply::Lost),
        "GEN" => Some(Reply::Gen(int(values.next()?)?)),
        "OK" => {
            let open = int(values.next()?)? == 1;
            let items: Vec<_> =
                asks.iter().zip(values).map(|(ask, value)| item(ask, value, open)).collect::<Option<_>>()?;
            (items.len() == asks.len()).then_some(Reply::Ok(items))
        }
        _ => None,
    }
}

fn item(ask: &Ask, value: Value, open: bool) -> Option<Item> {
    let mut values = list(value)?.into_iter();
    match text(values.next()?)?.as_str() {
        "NEEDBASE" => Some(Item::NeedBase),
        "OLD" => Some(Item::Answer(Answer::Old)),
        "OK" if !open => Some(Item::Answer(Answer::Closed { noted: true })),
        "OK" => Some(Item::Answer(Answer::Settled {
            ctr: ask.ctr,
            // -1: no cap.
            ceiling: int(values.next()?).unwrap_or(u64::MAX),
            used: int(values.next()?)?,
            plan_version: int(values.next()?)?,
            recall: int(values.next()?)? == 1,
            exhausted: int(values.next()?)? == 1,
        })),
        _ => None,
    }
}

/// The words of a short answer: its first, and the rest.
pub(super) fn words(value: Value) -> Option<(String, Vec<Value>)> {
    let mut values = list(value)?.into_iter();
    Some((text(values.next()?)?, values.collect()))
}

pub(super) fn list(value: Value) -> Option<Vec<Value>> {
    redis::from_redis_value(value).ok()
}

pub(super) fn text(value: Value) -> Option<String> {
    redis::from_redis_value(value).ok()
}

/// A number, also where it comes as text.
pub(super) fn int(value: Value) -> Option<u64> {
    redis::from_redis_value(value).ok()
}
