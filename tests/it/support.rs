//! The little language of the tests: a gateway from YAML on free ports, an origin that counts what it served, clients.

pub mod client;
pub mod gateway;
pub mod origin;
pub mod postgres;
pub mod process;
pub mod programs;
pub mod raw;
pub mod redis;

pub use client::{Client, Got};
pub use gateway::Gateway;
pub use origin::Origin;
pub use redis::RedisServer;
