//! PostgreSQL under several nodes at once: everything that is tested over a file, and what only a server can do.

mod cut;
mod measure;
mod nodes;
mod outage;

use crate::support::postgres;

/// What stands on the records, over a server instead of a file.
const STANDS_ON_RECORDS: [&str; 5] =
    ["flush_seal::", "generations::caps::", "ledger_contract::", "records_crash::a_kill", "stripe_report::"];

#[test]
fn what_is_tested_over_a_file_holds_over_a_server() {
    postgres::run_over_postgres(&STANDS_ON_RECORDS, &[]);
}
