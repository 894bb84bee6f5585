//! What all meter events add up to, for those who compare.

use std::collections::BTreeMap;

use serde::Serialize;

use super::meter_events::Owner;
use super::series::{Series, Span};
use super::store::Store;

/// What one customer's events on one meter add up to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MeterTotal {
    /// The meter's event name.
    pub event_name: String,
    /// The Stripe customer.
    pub customer: String,
    /// The meter; an event name may have an inactive one besides the active one.
    pub meter: String,
    /// Sum of the values of all events that are not cancelled, in units.
    pub sum: i128,
    /// How many events those are.
    pub events: usize,
    /// The number by the meter's own formula (sum, count, last).
    pub value: i128,
}

impl Store {
    /// Sum of the values for an event name and customer over all meters of that name.
    pub(super) fn meter_total(&self, event_name: &str, customer: &str) -> i128 {
        let named = self.meters.iter().filter(|meter| meter.event_name == event_name);
        named.filter_map(|meter| self.usage.series(&meter.id, customer)).map(Series::sum).sum()
    }

    /// Every meter and customer with events, ordered by event name, customer and meter.
    pub(super) fn meter_totals(&self) -> Vec<MeterTotal> {
        let total = |((meter, customer), series): (&Owner, &Series)| {
            let meter = self.meters.get(meter)?;
            let value = series.aggregate(Span::ALL, meter.formula(), meter.event_time_window)?;
            let key = (meter.event_name.clone(), customer.clone(), meter.id.clone());
            Some((key, (series.sum(), series.len(), value)))
        };
        let ordered: BTreeMap<_, _> = self.usage.series.iter().filter_map(total).collect();
        let row = |((event_name, customer, meter), (sum, events, value))| MeterTotal {
            event_name,
            customer,
            meter,
            sum,
            events,
            value,
        };
        ordered.into_iter().map(row).collect()
    }
}
