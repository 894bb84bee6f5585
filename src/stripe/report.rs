//! The reporter (to follow).
#[derive(Debug)]
/// The reporter.
pub struct Reporter;
