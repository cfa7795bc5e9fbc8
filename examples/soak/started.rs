//! Which calls have started an operation.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// So many at least are remembered. Every call ends within seconds, so that one that is forgotten can't come again.
const REMEMBERED: usize = 1 << 17;

/// Calls by their numbers, those of the last while: two sets take turns, so that no run is too long for it.
pub(crate) struct Started(Mutex<[HashSet<u64>; 2]>);

impl Default for Started {
    fn default() -> Self {
        Self(Mutex::new([(); 2].map(|()| HashSet::with_capacity(REMEMBERED))))
    }
}

impl Started {
    pub(crate) fn is_first(&self, call: u64) -> bool {
        let mut sets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let [recent, older] = &mut *sets;
        if recent.len() == REMEMBERED {
            std::mem::swap(recent, older);
            recent.clear();
        }
        !older.contains(&call) && recent.insert(call)
    }
}
