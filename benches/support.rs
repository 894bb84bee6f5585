//! The parts of a benchmark, each run in a process of its own.

#![allow(dead_code, reason = "each benchmark uses some of the parts")]

pub mod bare;
pub mod gateway;
pub mod load;
pub mod origin;
