//! The files become each part's own settings; every error with file, line, column, the value and what is allowed.

pub mod settings;

pub use settings::Settings;
