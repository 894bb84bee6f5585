//! Time, from one place, so that tests can move it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;

/// Where "now" comes from. Cloned freely; all clones of a manual clock move together.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The system's wall clock.
    #[default]
    System,
    /// A clock that stands still until it is told to move: milliseconds since the Unix epoch.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// A clock that stands at `at` until it is moved.
    #[must_use]
    pub fn manual(at: Timestamp) -> Self {
        Self::Manual(Arc::new(AtomicI64::new(at.as_millisecond())))
    }

    /// Now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place that others are sent to")]
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => Timestamp::now(),
            Self::Manual(ms) => Timestamp::from_millisecond(ms.load(Ordering::Acquire))
                .expect("a manual clock is only ever set from a Timestamp"),
        }
    }

    /// Now, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        self.now().as_millisecond()
    }

    /// Now, in whole seconds since the Unix epoch.
    #[must_use]
    pub fn now_s(&self) -> i64 {
        self.now().as_second()
    }

    /// Moves a manual clock to `at`; the system's clock cannot be moved and says so with `false`.
    pub fn set(&self, at: Timestamp) -> bool {
        match self {
            Self::System => false,
            Self::Manual(ms) => {
                ms.store(at.as_millisecond(), Ordering::Release);
                true
            }
        }
    }
}
