//! SIGTERM and SIGINT, heard from the moment of [`Signals::listen`].

use anyhow::Context as _;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What asks this process to end.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    runtime: Runtime,
}

impl Signals {
    /// Before anything takes traffic: a signal that nobody listens for kills the process where it stands.
    ///
    /// # Errors
    /// When signals cannot be received.
    pub fn listen() -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build().context("the runtime of the signals")?;
        let inside = runtime.enter();
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        drop(inside);
        Ok(Self { terminate, interrupt, runtime })
    }

    /// Waits for the next one.
    pub fn wait(&mut self) {
        let Self { terminate, interrupt, runtime } = self;
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
    }
}
