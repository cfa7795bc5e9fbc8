//! What has arrived of each try-on that a caller wants started.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// So many at least are remembered. Every call ends within seconds, so that one that is forgotten can't come again.
const REMEMBERED: usize = 1 << 17;

#[derive(Default)]
struct Seen {
    /// As the caller sent it, and as it was redirected.
    arrivals: [u8; 2],
    accepted: u8,
}

/// By the calls' numbers, those of the last while: two maps take turns, so that no run is too long for them.
pub(crate) struct TryOns(Mutex<[HashMap<u64, Seen>; 2]>);

impl Default for TryOns {
    fn default() -> Self {
        Self(Mutex::new([(); 2].map(|()| HashMap::with_capacity(REMEMBERED))))
    }
}

impl TryOns {
    /// It arrives; answers how often it has.
    pub(crate) fn arrives(&self, call: u64, redirected: bool) -> u8 {
        self.count(call, |seen| &mut seen.arrivals[usize::from(redirected)])
    }

    /// Its operation is started; answers how often it was.
    pub(crate) fn starts(&self, call: u64) -> u8 {
        self.count(call, |seen| &mut seen.accepted)
    }

    fn count(&self, call: u64, which: impl FnOnce(&mut Seen) -> &mut u8) -> u8 {
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
