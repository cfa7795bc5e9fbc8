//! A wall clock that runs and can be set.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tower_aiuta_auth::Clock;

/// January 2027. The machine's own clock is not used.
const START_MS: u64 = 1_800_000_000_000;

/// Runs like a machine's wall clock until it is stepped. Clones share their state.
#[derive(Clone)]
pub(crate) struct WallClock {
    started: Instant,
    off_by_ms: Arc<AtomicI64>,
    /// The beginning and the end of each step.
    steps: Arc<Mutex<Vec<Instant>>>,
}

impl WallClock {
    pub(crate) fn new(started: Instant) -> Self {
        Self { started, off_by_ms: Arc::default(), steps: Arc::default() }
    }

    pub(crate) fn step(&self, by_ms: i64) {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        steps.push(Instant::now());
        self.off_by_ms.fetch_add(by_ms, Ordering::SeqCst);
        steps.push(Instant::now());
    }

    /// Returns whether the clock was stepped between two points in time.
    pub(crate) fn stepped_within(&self, from: Instant, to: Instant) -> bool {
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        steps.iter().rev().take_while(|step| **step >= from).any(|step| *step <= to)
    }
}

impl Clock for WallClock {
    fn now(&self) -> SystemTime {
        let start = START_MS.saturating_add_signed(self.off_by_ms.load(Ordering::SeqCst));
        SystemTime::UNIX_EPOCH + Duration::from_millis(start) + self.started.elapsed()
    }
}
