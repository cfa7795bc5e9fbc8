//! [`ManualClock`]: a clock for tests, used in the place of the system's clock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::Clock;

/// A [`Clock`] whose time changes only when a test changes it. Clones share the same time.
///
/// Pass a clone to [`AiutaAuthBuilder::clock`](crate::AiutaAuthBuilder::clock) to test how the layer handles expiring
/// tokens.
///
/// ```
/// use std::time::Duration;
/// use tower_aiuta_auth::{Clock, testing::ManualClock};
///
/// let clock = ManualClock::default();
/// let clone = clock.clone();
/// let start = clock.now();
///
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(clone.now(), start + Duration::from_secs(60));
/// clock.step_back(Duration::from_secs(90));
/// assert_eq!(clone.now(), start - Duration::from_secs(30));
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock {
    now: Arc<Mutex<SystemTime>>,
}

impl ManualClock {
    /// Creates a clock with the time `start`.
    #[must_use]
    pub fn new(start: SystemTime) -> Self {
        Self { now: Arc::new(Mutex::new(start)) }
    }

    /// Moves the clock forward by a duration.
    ///
    /// # Panics
    ///
    /// Panics if [`SystemTime`] can't represent the result.
    pub fn advance(&self, by: Duration) {
        *self.lock() += by;
    }

    /// Moves the clock back by a duration, like the correction of a machine's clock.
    ///
    /// # Panics
    ///
    /// Panics if [`SystemTime`] can't represent the result.
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
    /// Creates a clock with the time 15 January 2027, 08:00 UTC, which is 1,800,000,000 seconds after the Unix epoch.
    fn default() -> Self {
        Self::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        *self.lock()
    }
}
