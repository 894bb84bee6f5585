//! Integration tests: one binary, one module per part.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test fails by panicking and may speak")]

mod flush_seal;
mod judge;
mod ledger_contract;
mod random;
mod records_crash;
mod sandbox;
mod stripe_report;
