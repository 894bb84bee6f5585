//! Integration tests: one binary, one module per part.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::as_conversions,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    missing_docs,
    unreachable_pub,
    reason = "a test fails by panicking and may speak; the helpers are explained where they are not plain"
)]

mod control_api;
mod crash;
mod exactness;
mod flush_seal;
mod generations;
mod journal_crash;
mod judge;
mod ledger_contract;
mod proxy;
mod random;
mod records_crash;
mod sandbox;
mod stripe_report;
mod support;
mod two_gateways;
