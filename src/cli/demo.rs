//! `tollgate demo`: the whole of it on this machine, with nothing to set up.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use anyhow::Context as _;

use super::{Failure, Format};
use crate::app::{self, Options, Running};
use crate::config::{self, Env};

mod client;
mod sample;
mod story;

use client::Caller;
use story::Outcome;

/// Prices of the demo: the shipped example.
const PRICING: &str = include_str!("../../config/pricing.yaml");
/// Admin token of the demo, which listens on loopback only.
const ADMIN_TOKEN: &str = "demo-admin-token";

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
    /// How the figures are printed.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// Runs until a signal ends it, or once.
///
/// # Errors
/// [`Failure::Refused`] when the figures do not agree or a part cannot start.
pub fn run(args: &DemoArgs) -> Result<(), Failure> {
    let folder = Folder::new().map_err(|error| Failure::Refused(format!("no temporary folder: {error}")))?;
    demo(args, &folder.0).map_err(|error| Failure::Refused(format!("{error:#}")))
}

fn demo(args: &DemoArgs, folder: &Path) -> anyhow::Result<()> {
    let extras = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let origin = extras.block_on(sample::start())?;
    let running = start(args, folder, origin)?;
    let admin = Caller::new(format!("http://{}", running.admin()), ADMIN_TOKEN);
    let proxy = Caller::new(format!("http://{}", running.proxy()), "");
    let outcome = extras.block_on(story::tell(&running, &admin, &proxy))?;
    print(args, &running, &outcome, folder);
    if args.once {
        running.stop();
        anyhow::ensure!(outcome.agrees(), "usage, calls and Stripe do not agree");
        return Ok(());
    }
    app::Signals::listen()?.wait();
    running.stop();
    Ok(())
}

fn start(args: &DemoArgs, folder: &Path, origin: SocketAddr) -> anyhow::Result<Running> {
    let proxy = port(args.proxy_port, 8080)?;
    let admin = port(args.admin_port, 9090)?;
    std::fs::write(folder.join("pricing.yaml"), PRICING)?;
    let token = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(ADMIN_TOKEN));
    let settings = format!(
        "pricing: pricing.yaml\n\
         listen: {{ proxy: \"127.0.0.1:{proxy}\", admin: \"127.0.0.1:{admin}\" }}\n\
         upstreams: [{{ name: sample, origins: [\"http://{origin}\"] }}]\n\
         store: {{ records: \"sqlite:tollgate.db\", journal: {{ path: journal }} }}\n\
         stripe: {{ mode: sandbox, flush: 1s }}\n\
         admin: {{ tokens: [{{ name: demo, sha256: {token}, role: admin }}] }}\n"
    );
    let path = folder.join("tollgate.yaml");
    std::fs::write(&path, settings)?;
    // The demo is the same on every machine: nothing of the environment reaches it.
    let loaded = config::load(&path, &Env::empty()).context("the demo's own configuration")?;
    app::start(loaded, &Options { env: Env::empty(), ..Options::default() })
}

/// The wanted port, or the first free one from `from` on.
fn port(wanted: Option<u16>, from: u16) -> anyhow::Result<u16> {
    if let Some(port) = wanted {
        return Ok(port);
    }
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (from..from.saturating_add(200)).find(free).with_context(|| format!("no free port from {from} on"))
}

#[expect(clippy::print_stdout, reason = "this is what the command is for")]
fn print(args: &DemoArgs, running: &Running, outcome: &Outcome, folder: &Path) {
    match (args.format, args.once) {
        (Format::Json, _) => println!("{}", outcome.json()),
        (Format::Table, true) => print!("{}", outcome.table()),
        (Format::Table, false) => print!("{}{}", outcome.table(), outcome.guide(running, folder)),
    }
}

/// A temporary folder, removed at the end.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new() -> anyhow::Result<Self> {
        let mut name = [0; 8];
        getrandom::fill(&mut name)?;
        let path = std::env::temp_dir().join(format!("tollgate-demo-{}", hex::encode(name)));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, folder = %self.0.display(), "the demo's folder is left behind");
        }
    }
}
