//! The parts of Stripe's answers that Tollgate reads. Fields that are not here are ignored, so that a new one at
//! Stripe breaks nothing.

use std::str::FromStr;

use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde::Deserialize;

/// `{"error": {…}}`: every answer that is not 2xx.
#[derive(Clone, Debug, Deserialize)]
pub struct ErrorEnvelope {
    /// What went wrong.
    pub error: ErrorBody,
}

/// Stripe's account of an error.
#[derive(Clone, Debug, Deserialize)]
pub struct ErrorBody {
    /// `api_error`, `card_error`, `idempotency_error`, `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// A short name, where there is one.
    pub code: Option<String>,
    /// For people.
    pub message: Option<String>,
    /// The field at fault.
    pub param: Option<String>,
}

/// `customer`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Customer {
    /// `cus_…`.
    pub id: String,
    /// A deleted customer is still found, with this set.
    #[serde(default)]
    pub deleted: bool,
    /// For people.
    #[serde(default)]
    pub name: Option<String>,
    /// For people.
    #[serde(default)]
    pub email: Option<String>,
}

/// `billing.meter`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Meter {
    /// `mtr_…`.
    pub id: String,
    /// What events name it by.
    pub event_name: String,
    /// `active` or `inactive`.
    pub status: String,
    /// How its values combine.
    pub default_aggregation: Aggregation,
}

/// `default_aggregation` of a meter.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Aggregation {
    /// `sum`, `count` or `last`.
    pub formula: String,
}

/// `billing.meter_event`: the receipt for one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct MeterEvent {
    /// As sent.
    pub identifier: String,
}

/// `billing.meter_event_summary`: what a meter holds of one customer in one span.
#[derive(Clone, Debug, Deserialize)]
pub struct Summary {
    /// `mtrusg_…`; the paging cursor.
    pub id: String,
    /// Units, a JSON number that may be written as a fraction.
    pub aggregated_value: serde_json::Number,
    /// Unix seconds.
    pub start_time: i64,
    /// Unix seconds, exclusive.
    pub end_time: i64,
}

impl Summary {
    /// The value in whole units; `None` if it is none (negative, fractional, beyond `u64`): not of our making.
    pub fn units(&self) -> Option<u64> {
        let text = self.aggregated_value.to_string();
        let value = Decimal::from_str(&text).or_else(|_| Decimal::from_scientific(&text)).ok()?;
        if value.fract().is_zero() { value.to_u64() } else { None }
    }
}

/// A page of a list.
#[derive(Clone, Debug, Deserialize)]
pub struct List<T> {
    /// The page, newest first.
    pub data: Vec<T>,
    /// There is another page after the last item of this one.
    pub has_more: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(number: &str) -> Option<u64> {
        let json = format!(r#"{{"id":"s","aggregated_value":{number},"start_time":0,"end_time":60,"new":[1]}}"#);
        serde_json::from_str::<Summary>(&json).unwrap().units()
    }

    #[test]
    fn summaries_are_whole_units_however_written() {
        assert_eq!(units("0"), Some(0));
        assert_eq!(units("250"), Some(250));
        assert_eq!(units("250.0"), Some(250));
        assert_eq!(units("999999999999999"), Some(999_999_999_999_999));
        assert_eq!(units("1e15"), Some(1_000_000_000_000_000));
        assert_eq!(units("2.5"), None);
        assert_eq!(units("-1"), None);
    }
}
