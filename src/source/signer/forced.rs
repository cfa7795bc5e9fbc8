//! [`ForcedTokens`]: keeps a [`JwtSigner`](super::JwtSigner) from creating the same token twice when it is forced (rule
//! D5).

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::{Mutex, PoisonError};

use crate::params::AuthParams;

/// Number of [`Slot`]s. Params that share a slot only set each other's `iat` further back.
const SLOTS: usize = 512;

/// Number of seconds that a [`Slot`] remembers. Threads that read the clock just before and just after a second begins
/// alternate between two of them, and so do layers whose clocks differ.
const SECONDS: usize = 4;

/// Counts the forced tokens of each second. Its memory is bounded, and allocated when the first token is forced.
#[derive(Default)]
pub(super) struct ForcedTokens {
    hasher: RandomState,
    slots: Mutex<Vec<Slot>>,
}

impl ForcedTokens {
    /// Returns by how many seconds to set `iat` back from `now` for a forced token: at least `backdate` and one more,
    /// and more than for any other forced token for the same params and the same `now`.
    ///
    /// The partition is not part of a token, so it does not matter here.
    pub(super) fn set_back(&self, params: &AuthParams, now: u64, backdate: u64) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        params.iter().for_each(|param| param.hash(&mut hasher));
        #[allow(clippy::cast_possible_truncation, reason = "any bits of the hash will do")]
        let index = hasher.finish() as usize % SLOTS;

        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.is_empty() {
            slots.resize_with(SLOTS, Slot::default);
        }
        slots[index].set_back(now, backdate)
    }
}

/// The last seconds in which tokens were forced, the last used one first.
#[derive(Default)]
struct Slot([Second; SECONDS]);

#[derive(Clone, Copy, Default)]
struct Second {
    /// Seconds since the epoch.
    now: u64,
    /// By how many seconds the last `iat` was set back.
    set_back: u64,
}

impl Slot {
    fn set_back(&mut self, now: u64, backdate: u64) -> u64 {
        let found = self.0.iter().position(|second| second.now == now);
        let place = found.unwrap_or(SECONDS - 1);
        if found.is_none() {
            self.0[place] = Second { now, set_back: 0 };
        }
        self.0[..=place].rotate_right(1);
        let second = &mut self.0[0];
        // Clones share the slot and may have different backdates.
        second.set_back = second.set_back.max(backdate).saturating_add(1);
        second.set_back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d5_seconds_are_counted_apart() {
        let mut slot = Slot::default();
        for (now, backdate, expected) in [
            (100, 5, 6),
            (100, 5, 7),
            (101, 5, 6),
            // Another thread has read the clock a moment earlier.
            (100, 5, 8),
            (101, 5, 7),
            // Another clone has another backdate.
            (101, 0, 8),
            (101, 20, 21),
            (101, 5, 22),
            (4000, 5, 6),
            (100, 5, 9),
            (102, 0, 1),
            // The least recently used second, 101, is forgotten.
            (103, 0, 1),
            (100, 5, 10),
            (4000, 5, 7),
            (102, u64::MAX, u64::MAX),
        ] {
            assert_eq!(slot.set_back(now, backdate), expected, "{now}");
        }
    }
}
