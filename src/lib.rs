//! Tollgate: a reverse proxy that sells the API behind it.
//!
//! The tree is the diagram; read it in this order.
//!
//! | room | what happens there |
//! |---|---|
//! | [`app`] | the one place that builds the parts and connects them |
//! | [`cli`] | one file per command |
//! | [`config`] | the YAML files become each part's own `Config`; every error with line and column |
//! | [`listen`], [`serve`] | sockets per worker; one connection through hyper |
//! | [`gateway`] | one request, top to bottom: identify, route, admit, forward |
//! | [`accounts`] | tenants and keys in memory, loaded from the records on a miss |
//! | [`upstream`] | connections to origins, pooled per worker |
//! | [`meter`] | an `Exchange` from reservation to journal record; the body that counts |
//! | [`units`], [`pricing`], [`period`] | pure: quantities, rules and plans, billing periods. No I/O, no clock |
//! | [`journal`] | records of finished exchanges on this node's disk; batches of them |
//! | [`ledger`] | budgets held by this node, settled with the ledger |
//! | [`records`] | SQL: tenants, keys, usage, flush and seal, reports, history |
//! | [`stripe`] | Stripe's API: transport, wire types, the reporter |
//! | [`sandbox`] | the Stripe stand-in, over real HTTP |
//! | [`control`] | the admin API |
//! | [`telemetry`], [`clock`], [`drain`], [`testing`] | logs and metrics, time, shutdown, crash points |

// The sandbox writes Stripe's larger objects with one `json!` each.
#![recursion_limit = "256"]

pub mod accounts;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod drain;
pub mod gateway;
pub mod journal;
pub mod ledger;
pub mod listen;
pub mod meter;
pub mod period;
pub mod pricing;
pub mod records;
pub mod sandbox;
pub mod serve;
pub mod stripe;
pub mod telemetry;
pub mod testing;
pub mod units;
pub mod upstream;
