//! The one place where the wall clock is read.
//!
//! A token's claims are wall-clock times, so freshness is judged by the wall clock; everything that needs the time asks a
//! [`Clock`], so that a test (or a machine that knows better) can supply its own.

use std::time::SystemTime;

/// Tells the time by which tokens are judged fresh or stale.
///
/// The default is [`SystemClock`]; tests use `testing::ManualClock`.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use tower_aiuta_auth::Clock;
///
/// /// The system's clock, corrected by an offset learned elsewhere.
/// struct Corrected(Duration);
///
/// impl Clock for Corrected {
///     fn now(&self) -> SystemTime {
///         SystemTime::now() + self.0
///     }
/// }
/// ```
pub trait Clock: Send + Sync + 'static {
    /// The current time. Called on the path of every request that needs a token: it must not block.
    fn now(&self) -> SystemTime;
}

/// The operating system's wall clock, [`SystemTime::now`].
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

impl<C: Clock + ?Sized> Clock for std::sync::Arc<C> {
    fn now(&self) -> SystemTime {
        (**self).now()
    }
}
