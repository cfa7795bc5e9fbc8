//! [`Clock`]: the wall clock by which the cache and the token sources judge and create tokens.
//!
//! The claims of a token are wall-clock times, so its freshness depends on the wall clock. [`SystemClock`] is the only
//! code that reads it.

use std::time::SystemTime;

/// A source of the current time, by which tokens are created and expire.
///
/// The default is [`SystemClock`]. Set another one with [`AiutaAuthBuilder::clock`](crate::AiutaAuthBuilder::clock).
/// Tests can use `testing::ManualClock` (feature `testing`). An `Arc` of a clock is a clock, too.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use tower_aiuta_auth::{AiutaAuthLayer, Clock};
///
/// /// The system's clock with an offset that the application has measured.
/// struct OffsetClock(Duration);
///
/// impl Clock for OffsetClock {
///     fn now(&self) -> SystemTime {
///         SystemTime::now() + self.0
///     }
/// }
///
/// let builder = AiutaAuthLayer::builder().clock(OffsetClock(Duration::from_secs(2)));
/// ```
pub trait Clock: Send + Sync + 'static {
    /// Returns the current time.
    ///
    /// It is called for every request that needs a token, so it must be fast and must not block.
    fn now(&self) -> SystemTime;
}

/// The operating system's clock: [`SystemTime::now`].
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the only code that reads the wall clock")]
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

impl<C: Clock + ?Sized> Clock for std::sync::Arc<C> {
    fn now(&self) -> SystemTime {
        (**self).now()
    }
}
