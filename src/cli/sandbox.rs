//! `tollgate sandbox`: the Stripe stand-in alone.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::{sandbox, telemetry};

/// Arguments of `sandbox`.
#[derive(Debug, Args)]
pub(super) struct SandboxArgs {
    /// Where it listens.
    #[arg(long, default_value = "127.0.0.1:12111", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// A file that keeps the account between two runs; without it, it is forgotten.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
}

/// Runs until a signal ends it.
///
/// # Errors
/// [`Failure::Usage`] when the logs cannot be set up, [`Failure::Refused`] when the address cannot be had.
pub(super) fn run(args: &SandboxArgs) -> Result<(), Failure> {
    telemetry::init_logs().map_err(|error| Failure::Usage(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Refused(format!("cannot start: {error}")))?;
    let served = runtime.block_on(sandbox::serve_forever(args.listen, args.state.clone()));
    served.map_err(|error| Failure::Refused(format!("cannot serve on {}: {error}", args.listen)))
}
