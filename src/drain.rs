//! Shutdown: stop accepting, let work end up to a deadline, then cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

/// Tells every part when to stop. Cloned freely.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    /// Set before `stop`: a look at it costs no lock.
    stopping: Arc<AtomicBool>,
    /// No new connections; idle ones close; requests in flight end.
    pub stop: CancellationToken,
    /// The deadline has passed: what is still in flight is cut.
    pub cut: CancellationToken,
}

impl Drain {
    /// Begins the drain; [`Drain::cut`] ends it.
    pub fn begin(&self) {
        self.stopping.store(true, Ordering::Release);
        self.stop.cancel();
    }

    /// Whether the drain has begun.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}
