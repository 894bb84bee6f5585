//! Integration tests, one binary.

mod flush_seal;
mod ledger_contract;
mod random;
mod records_crash;
mod stripe_report;
