//! Tollgate from the outside.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise")]

mod control_api;
