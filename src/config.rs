//! The files become each part's own settings; every error with file, line, column, the value and what is allowed.

pub mod env;
pub mod error;
pub mod settings;

mod check;
mod scalar;
mod suggest;
mod tree;

pub use env::Env;
pub use error::{ConfigError, ConfigErrors, Position};
pub use settings::Settings;
