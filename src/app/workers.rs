//! The data plane's threads.

use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::runtime::Runtime;

use super::Core;
use crate::config::settings::Settings;
use crate::drain::Drain;
use crate::gateway::reply::RequestIds;
use crate::gateway::{Current, Lane};
use crate::journal::{Sync, Writer};
use crate::meter::body::Durability;
use crate::serve::{Connections, Worker};
use crate::upstream::Pool;

/// One thread per worker.
pub struct Workers(Vec<JoinHandle<()>>);

impl Workers {
    /// Starts a thread per listener, each with its own journal.
    ///
    /// # Errors
    /// When a journal cannot be opened or a thread cannot be started.
    pub(super) fn start(
        listeners: Vec<TcpListener>,
        core: &Core,
        settings: &Settings,
        drain: &Drain,
        control: &Runtime,
    ) -> anyhow::Result<Self> {
        let worker = Worker {
            limits: Arc::new(settings.limits.clone()),
            connections: Arc::new(Connections::default()),
            drain: drain.clone(),
        };
        let mut threads = Vec::with_capacity(listeners.len());
        for (index, listener) in (0_u16..).zip(listeners) {
            let flushed = core.flushed_seq(control, index)?;
            let writer = core.journal.writer(index, flushed).context("opening a worker's journal")?;
            let (worker, core, sync) = (worker.clone(), core.clone(), settings.store.journal.sync);
            let thread = std::thread::Builder::new().name(format!("worker-{index}"));
            threads.push(thread.spawn(move || run(worker, listener, &core, writer, sync))?);
        }
        Ok(Self(threads))
    }

    /// Waits for the threads, and cuts what is still in flight at the deadline.
    pub(super) fn join(self, drain: &Drain, deadline: Duration) {
        let end = Instant::now() + deadline;
        while Instant::now() < end && self.0.iter().any(|thread| !thread.is_finished()) {
            std::thread::sleep(Duration::from_millis(5));
        }
        drain.cut.cancel();
        for thread in self.0 {
            if thread.join().is_err() {
                tracing::error!("a worker's thread panicked");
            }
        }
    }
}

fn run(worker: Worker, listener: TcpListener, core: &Core, writer: Writer, sync: Sync) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        let lane = lane(core, writer, sync)?;
        runtime.block_on(worker.run(listener, lane))?;
        Ok(())
    });
    if let Err(error) = served {
        tracing::error!(%error, "a worker stopped");
    }
}

fn lane(core: &Core, writer: Writer, sync: Sync) -> anyhow::Result<Rc<Lane>> {
    let writer = Rc::new(writer.local());
    Ok(Rc::new(Lane {
        gateway: Arc::clone(&core.gateway),
        durability: Rc::new(Durability::new(Rc::clone(&writer), sync)),
        writer,
        pool: Pool::default(),
        stats: std::cell::RefCell::default(),
        ids: RequestIds::new()?,
        current: std::cell::RefCell::new(Current::new(Arc::clone(&core.gateway.snapshot))),
    }))
}
