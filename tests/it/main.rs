//! Integration tests: one binary, one module per part.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test fails by panicking and may speak")]

mod judge;
mod sandbox;
mod crash;
mod exactness;
mod proxy;
mod support;
