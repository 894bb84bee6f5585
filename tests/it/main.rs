//! Integration tests: one binary, one module per part.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::as_conversions,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::assigning_clones,
    clippy::type_complexity,
    clippy::format_push_string,
    clippy::let_underscore_must_use,
    clippy::duration_suboptimal_units,
    missing_docs,
    unreachable_pub,
    reason = "a test fails by panicking and may speak; the helpers are explained where they are not plain"
)]

mod budget;
mod control_api;
mod crash;
mod drain;
mod exactness;
mod flush_seal;
mod full_disk;
mod gates;
mod generations;
mod httpbin;
mod journal_crash;
mod judge;
mod ledger_contract;
mod origin_trouble;
mod periods;
mod postgres;
mod proxy;
mod random;
mod records_crash;
mod reload;
mod sandbox;
mod sandbox_billing;
mod sandbox_hooks;
mod strict;
mod stripe_report;
mod support;
mod two_gateways;
mod uploads;
