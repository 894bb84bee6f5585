//! Shutdown: stop accepting, let work end up to a deadline, then cut.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Tells every part when to stop. Cloned freely.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    /// No new connections; idle ones close; requests in flight end.
    pub stop: CancellationToken,
    /// The deadline has passed: what is still in flight is cut.
    pub cut: CancellationToken,
}

impl Drain {
    /// Begins the drain and cuts after `deadline`.
    pub async fn run(&self, deadline: Duration) {
        self.stop.cancel();
        tokio::time::sleep(deadline).await;
        self.cut.cancel();
    }
}
