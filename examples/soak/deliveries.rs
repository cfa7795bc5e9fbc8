//! Counts how often each try-on arrived and was accepted.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Minimum number of calls that are remembered. Every call ends within seconds, so a forgotten call cannot arrive
/// again.
const REMEMBERED: usize = 1 << 17;

#[derive(Default)]
struct Delivery {
    /// Arrivals at the original address, and at the one it was redirected to.
    arrivals: [u8; 2],
    accepted: u8,
}

/// Deliveries by call number. The older of two maps is cleared when the newer one is full, so that memory is bounded.
pub(crate) struct Deliveries(Mutex<[HashMap<u64, Delivery>; 2]>);

impl Default for Deliveries {
    fn default() -> Self {
        Self(Mutex::new([(); 2].map(|()| HashMap::with_capacity(REMEMBERED))))
    }
}

impl Deliveries {
    /// Records an arrival and returns the number of arrivals so far.
    pub(crate) fn arrived(&self, call: u64, redirected: bool) -> u8 {
        self.count(call, |seen| &mut seen.arrivals[usize::from(redirected)])
    }

    /// Records that the operation was started and returns how often it was.
    pub(crate) fn started(&self, call: u64) -> u8 {
        self.count(call, |seen| &mut seen.accepted)
    }

    fn count(&self, call: u64, which: impl FnOnce(&mut Delivery) -> &mut u8) -> u8 {
        let mut maps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let [recent, older] = &mut *maps;
        if recent.len() == REMEMBERED {
            std::mem::swap(recent, older);
            recent.clear();
        }
        let seen = match older.get_mut(&call) {
            Some(seen) => seen,
            None => recent.entry(call).or_default(),
        };
        let count = which(seen);
        *count = count.saturating_add(1);
        *count
    }
}
