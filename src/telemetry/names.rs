//! Names of the metrics, as scripts and alert rules rely on them, with their labels and units.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Counter; labels `route`, `status`, `outcome`.
pub const REQUESTS_TOTAL: &str = "tollgate_requests_total";
/// Histogram, seconds; from the request head to the end of the response.
pub const REQUEST_SECONDS: &str = "tollgate_request_seconds";
/// Histogram, seconds; the part of it spent in the gateway, not in the origin.
pub const OVERHEAD_SECONDS: &str = "tollgate_overhead_seconds";
/// Counter, units; label `meter`.
pub const UNITS_TOTAL: &str = "tollgate_units_total";
/// Counter; label `code` of the problem.
pub const REFUSALS_TOTAL: &str = "tollgate_refusals_total";
/// Gauge, records not yet counted in the records' database.
pub const JOURNAL_PENDING_RECORDS: &str = "tollgate_journal_pending_records";
/// Gauge, 1 or 0: whether the journal takes records.
pub const JOURNAL_UP: &str = "tollgate_journal_up";
/// Counter; label `result`.
pub const LEDGER_SETTLES_TOTAL: &str = "tollgate_ledger_settles_total";
/// Gauge, 1 or 0.
pub const LEDGER_UP: &str = "tollgate_ledger_up";
/// Gauge.
pub const LEDGER_GENERATION: &str = "tollgate_ledger_generation";
/// Counter; buckets of the ledger that went on without a node that may have held budget in them.
pub const LEDGER_ABSENT_TOTAL: &str = "tollgate_ledger_absent_total";
/// Gauge, units; label `state`.
pub const BUDGET_UNITS: &str = "tollgate_budget_units";
/// Counter; label `result`.
pub const STRIPE_REPORTS_TOTAL: &str = "tollgate_stripe_reports_total";
/// Gauge, seconds; age of the oldest usage that Stripe does not know of.
pub const STRIPE_FLUSH_LAG_SECONDS: &str = "tollgate_stripe_flush_lag_seconds";
/// Gauge, units; ledger minus Stripe.
pub const STRIPE_DRIFT_UNITS: &str = "tollgate_stripe_drift_units";
/// Counter; labels `type`, `result`.
pub const WEBHOOKS_TOTAL: &str = "tollgate_webhooks_total";
/// Gauge; number of the active configuration.
pub const CONFIG_VERSION: &str = "tollgate_config_version";
/// Gauge, 1 or 0; label `origin`.
pub const UPSTREAM_UP: &str = "tollgate_upstream_up";

/// Tells the recorder what each name means.
pub(super) fn describe() {
    describe_traffic();
    describe_ledger();
    describe_stripe();
    describe_gauge!(CONFIG_VERSION, Unit::Count, "Number of the active configuration.");
}

fn describe_traffic() {
    describe_counter!(REQUESTS_TOTAL, Unit::Count, "Requests by route, final status and outcome.");
    describe_histogram!(REQUEST_SECONDS, Unit::Seconds, "Time from the request's head to the end of its response.");
    describe_histogram!(OVERHEAD_SECONDS, Unit::Seconds, "Time spent in the gateway itself, not in the origin.");
    describe_counter!(UNITS_TOTAL, Unit::Count, "Units charged, by meter.");
    describe_counter!(REFUSALS_TOTAL, Unit::Count, "Requests refused by the gateway, by problem code.");
    describe_gauge!(UPSTREAM_UP, Unit::Count, "Whether the origin answered last time: 1 or 0.");
}

fn describe_ledger() {
    describe_gauge!(JOURNAL_PENDING_RECORDS, Unit::Count, "Journal records not yet counted in the database.");
    describe_gauge!(JOURNAL_UP, Unit::Count, "Whether the journal takes records: 0 when its disk is full or fails.");
    describe_counter!(LEDGER_SETTLES_TOTAL, Unit::Count, "Exchanges with the ledger, by result.");
    describe_gauge!(LEDGER_UP, Unit::Count, "Whether the ledger answered last time: 1 or 0.");
    describe_gauge!(LEDGER_GENERATION, Unit::Count, "The ledger's generation.");
    describe_counter!(LEDGER_ABSENT_TOTAL, Unit::Count, "Buckets rebuilt without a node that did not answer.");
    describe_gauge!(BUDGET_UNITS, Unit::Count, "Units held by this node, by state.");
}

fn describe_stripe() {
    describe_counter!(STRIPE_REPORTS_TOTAL, Unit::Count, "Usage reports answered by Stripe, by result.");
    describe_gauge!(STRIPE_FLUSH_LAG_SECONDS, Unit::Seconds, "Age of the oldest usage that Stripe does not know of.");
    describe_gauge!(STRIPE_DRIFT_UNITS, Unit::Count, "Units in the ledger minus units at Stripe.");
    describe_counter!(WEBHOOKS_TOTAL, Unit::Count, "Webhooks received, by type and result.");
}
