//! Integration tests, one binary.

mod control_api;
mod flush_seal;
mod ledger_contract;
mod random;
