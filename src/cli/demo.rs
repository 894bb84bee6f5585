//! `tollgate demo`: the whole of it on this machine, with nothing to set up.

use super::{Failure, Format};

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Send the traffic, print what was charged and what Stripe holds, and end: 0 only if they agree.
    #[arg(long)]
    pub once: bool,
    /// Port of the proxy; 8080 or the next free one by default.
    #[arg(long, value_name = "PORT")]
    pub proxy_port: Option<u16>,
    /// Port of the admin API; 9090 or the next free one by default.
    #[arg(long, value_name = "PORT")]
    pub admin_port: Option<u16>,
    /// How the figures of `--once` are printed.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// Runs until a signal ends it, or once.
///
/// # Errors
/// [`Failure::Refused`] when the figures do not agree.
pub fn run(args: &DemoArgs) -> Result<(), Failure> {
    Err(Failure::Usage(format!("the demo is not part of this build ({args:?})")))
}
