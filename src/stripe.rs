//! Stripe's API: transport, typed operations, and the reporter that carries units to Stripe exactly once.
//!
//! Read in this order: [`transport`] sends one request and says what became of it ([`attempt`]); [`retry`],
//! [`breaker`] and [`rate`] say whether and when to ask again; [`client`] is the operations; [`report`] is the
//! protocol of `LEDGER.md`, "Seal, send, acknowledge".
//!
//! Requests are built by the typed builders of the `async-stripe` crates, so that fields and paths are Stripe's own;
//! answers are decoded into the small structs of [`wire`].

pub mod attempt;
pub mod breaker;
pub mod client;
pub mod rate;
pub mod report;
pub mod retry;
pub mod transport;
pub mod wire;

pub use attempt::{Answer, Attempt, Refused};
pub use client::Client;
pub use report::Reporter;
pub use retry::IdempotencyKey;
pub use transport::{CallError, Transport};

/// Makes aws-lc-rs the process's one TLS provider; safe to call any number of times, from anywhere.
pub fn tls_provider() {
    use rustls::crypto::{CryptoProvider, aws_lc_rs};
    if CryptoProvider::get_default().is_none() {
        // Losing this race means that another thread has just installed the same provider.
        drop(aws_lc_rs::default_provider().install_default());
    }
}
