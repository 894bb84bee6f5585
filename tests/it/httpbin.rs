//! The example under `config/examples/httpbin`: an application that no one here wrote, under a real server, driven by
//! real clients. Each gets through the gateway what it gets from httpbin itself, and pays what the YAML says.
//!
//! Both doors are asked under the same host name. At httpbin's own door the clients send the headers with which
//! Tollgate tells httpbin who calls; at Tollgate's they send a key, and those headers forged. Then everything that
//! httpbin says back, which repeats most of what it was told, must be the same to the byte.

mod answer;
mod browser;
mod curl;
mod libraries;
mod price;
mod stage;
