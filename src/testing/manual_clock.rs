//! A clock that moves only when told to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::Clock;

/// A [`Clock`] that stands still until a test moves it. Clones share one time.
///
/// ```
/// use std::time::Duration;
/// use tower_aiuta_auth::{Clock, testing::ManualClock};
///
/// let clock = ManualClock::default();
/// let seen_by_the_layer = clock.clone();
/// let start = clock.now();
///
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(seen_by_the_layer.now(), start + Duration::from_secs(60));
/// clock.step_back(Duration::from_secs(90));
/// assert_eq!(seen_by_the_layer.now(), start - Duration::from_secs(30));
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock {
    now: Arc<Mutex<SystemTime>>,
}

impl ManualClock {
    /// A clock that shows `start`.
    #[must_use]
    pub fn new(start: SystemTime) -> Self {
        Self { now: Arc::new(Mutex::new(start)) }
    }

    /// Moves the clock forward.
    ///
    /// # Panics
    ///
    /// If the result is beyond what [`SystemTime`] can hold.
    pub fn advance(&self, by: Duration) {
        *self.lock() += by;
    }

    /// Moves the clock back, as a machine's clock does when it is corrected.
    ///
    /// # Panics
    ///
    /// If the result is beyond what [`SystemTime`] can hold.
    pub fn step_back(&self, by: Duration) {
        *self.lock() -= by;
    }

    /// Sets the clock to `now`.
    pub fn set(&self, now: SystemTime) {
        *self.lock() = now;
    }

    fn lock(&self) -> MutexGuard<'_, SystemTime> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for ManualClock {
    /// A clock that shows 1,800,000,000 seconds after the Unix epoch: 15 January 2027, 08:00 UTC.
    fn default() -> Self {
        Self::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        *self.lock()
    }
}
