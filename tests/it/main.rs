//! Tollgate from the outside.

mod control_api;
