//! `tollgate serve`: runs the gateway.

use std::path::PathBuf;

use super::Failure;
use crate::app::{self, Options};
use crate::config::{self, Env};
use crate::telemetry;

/// Arguments of `serve`.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// The configuration file.
    #[arg(long, default_value = "config/tollgate.yaml")]
    pub config: PathBuf,
}

/// Runs until SIGTERM or SIGINT, then drains; a second one cuts what is still in flight.
///
/// # Errors
/// [`Failure::Usage`] when the configuration cannot be read, [`Failure::Refused`] when a part cannot start.
pub fn run(args: &ServeArgs) -> Result<(), Failure> {
    telemetry::init_logs().map_err(|error| Failure::Usage(error.to_string()))?;
    let env = Env::process();
    let loaded = config::load(&args.config, &env).map_err(|errors| Failure::Usage(errors.to_string()))?;
    serve(loaded, env).map_err(|error| Failure::Refused(format!("{error:#}")))
}

fn serve(loaded: config::Loaded, env: Env) -> anyhow::Result<()> {
    let mut signals = app::Signals::listen()?;
    let running = app::start(loaded, &Options { env, ..Options::default() })?;
    signals.wait();
    let cut = running.cutter();
    // Ends with the process.
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        signals.wait();
        cut.cancel();
    })?;
    running.stop();
    Ok(())
}
