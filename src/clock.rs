//! [`Clock`]: the wall clock. Token sources use it to create tokens, and the cache uses it to check whether tokens have
//! expired.
//!
//! The claims of a token are wall-clock times, so the cache needs the wall clock to tell whether a token has expired.
//! Only [`SystemClock`] reads the wall clock of the operating system.

use std::time::SystemTime;

/// A source of the current time, for creating tokens and for checking whether they have expired.
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
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a clock",
    note = "implement `Clock` for a type of your own, whose `now` returns a `SystemTime`"
)]
pub trait Clock: Send + Sync + 'static {
    /// Returns the current time.
    ///
    /// The layer calls this method for every request that needs a token, so it must be fast and must not block.
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
