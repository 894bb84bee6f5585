//! The command line: one file per command.
//!
//! Exit codes: 0 fine, 1 the check failed or the call was refused, 2 wrong usage or unreadable configuration.

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

mod check;
mod client;
pub mod demo;
mod key;
mod output;
mod sandbox;
pub mod serve;
mod table;
mod tenant;
mod usage;

/// A reverse proxy that sells the API behind it: usage metered, limits enforced, Stripe billed exactly what passed.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway.
    Serve(serve::ServeArgs),
    /// Show the whole of it on this machine: a sample API, the gateway, the Stripe sandbox, tenants and keys.
    Demo(demo::DemoArgs),
    /// Validate every configuration file; explain what one request would match and cost.
    Check(check::CheckArgs),
    /// Create, list, show, change and delete tenants.
    Tenant(tenant::TenantArgs),
    /// Create, list, revoke and rotate a tenant's keys.
    Key(key::KeyArgs),
    /// A tenant's usage and overage.
    Usage(usage::UsageArgs),
    /// Run the Stripe stand-in alone.
    Sandbox(sandbox::SandboxArgs),
}

/// How a listing is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For scripts.
    Json,
}

/// Why a command did not end well; the text goes to standard error.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The check failed or the call was refused: exit code 1.
    #[error("{0}")]
    Refused(String),
    /// Wrong usage or unreadable configuration: exit code 2.
    #[error("{0}")]
    Usage(String),
}

impl Failure {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Refused(_) => ExitCode::from(1),
            Self::Usage(_) => ExitCode::from(2),
        }
    }
}

/// Reads the process's arguments and runs the command they name.
pub fn main() -> ExitCode {
    let outcome = match Cli::try_parse() {
        Ok(cli) => run(cli.command),
        Err(error) => return explain(&error),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::complain(&failure.to_string());
            failure.exit_code()
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(args) => serve::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Tenant(args) => tenant::run(args),
        Command::Key(args) => key::run(args),
        Command::Usage(args) => usage::run(args),
        Command::Sandbox(args) => sandbox::run(&args),
    }
}

/// Prints clap's help, version or complaint; clap's own code is 0 for the first two and 2 for the last.
fn explain(error: &clap::Error) -> ExitCode {
    if error.print().is_err() {
        // Nobody reads standard error any more; the exit code still tells.
    }
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_declared_arguments_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn demo_takes_the_documented_options() {
        let cli = Cli::try_parse_from(["tollgate", "demo", "--once", "--proxy-port", "1", "--format", "json"]);
        let Ok(Cli { command: Command::Demo(args) }) = cli else { panic!("{cli:?}") };
        assert!(args.once);
        assert_eq!((args.proxy_port, args.admin_port), (Some(1), None));
        assert_eq!(args.format, Format::Json);
    }

    #[test]
    fn serve_reads_the_shipped_file_by_default() {
        let cli = Cli::try_parse_from(["tollgate", "serve"]).expect("complete");
        let Command::Serve(args) = cli.command else { panic!("{:?}", cli.command) };
        assert_eq!(args.config, std::path::Path::new("config/tollgate.yaml"));
    }
}
