//! `tollgate serve`: runs the gateway.

use std::path::PathBuf;

use super::Failure;

/// Arguments of `serve`.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// The configuration file.
    #[arg(long, default_value = "config/tollgate.yaml")]
    pub config: PathBuf,
}

/// Runs until a signal ends it.
///
/// # Errors
/// [`Failure::Usage`] when the configuration cannot be read.
pub fn run(args: &ServeArgs) -> Result<(), Failure> {
    Err(Failure::Usage(format!("{}: serving is not part of this build", args.config.display())))
}
