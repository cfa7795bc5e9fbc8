//! Keys whose tokens are all rejected, in phases of a run: the source may be called for them ever more rarely (rule
//! E5).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tower_aiuta_auth::{AuthParams, FetchReason, TokenRequest};

use crate::invariants::{Invariant, Violations};
use crate::shared::TryOn;

/// Number of keys in a phase. The source fails to replace the tokens of every other one.
pub(crate) const REJECTED_KEYS: u64 = 6;

/// Length of a phase. It contains the waits of 1, 2 and 4 seconds.
pub(crate) const PHASE: Duration = Duration::from_millis(8_500);

/// How much shorter a wait may be, because timers are rounded.
const TOLERANCE: Duration = Duration::from_millis(5);

/// Minimum number of calls for each key within a phase, that for the first token not counted: at once, after 1 s and
/// after 3 s. The one after 7 s may come too late.
const MIN_CALLS: usize = 3;

/// The start of the garment's name.
const NAME: &str = "rejected-";

#[derive(Default)]
struct Key {
    fails: bool,
    /// The calls to replace a rejected token.
    calls: Vec<Instant>,
    /// Whether the layer has forgotten what was rejected, which it may: it remembers a bounded number of keys.
    was_forgotten: bool,
}

pub(crate) struct RejectedKeys {
    /// Number of the current phase; 0 if there is none.
    phase: AtomicU64,
    keys: Mutex<HashMap<AuthParams, Key>>,
    violations: Arc<Violations>,
}

impl RejectedKeys {
    pub(crate) fn new(violations: Arc<Violations>) -> Self {
        Self { phase: AtomicU64::new(0), keys: Mutex::default(), violations }
    }

    /// Returns whether all tokens for this garment are rejected.
    pub(crate) fn contains(garment: &str) -> bool {
        garment.starts_with(NAME)
    }

    /// Returns a try-on with one of the keys, if there are any at the moment.
    pub(crate) fn try_on(&self, number: u64, photo: &str) -> Option<TryOn> {
        let phase = self.phase.load(Ordering::SeqCst);
        (phase > 0).then(|| try_on(phase, number, photo))
    }

    pub(crate) fn begin_phase(&self, phase: u64, photo: &str) {
        let key = |number| (try_on(phase, number, photo).params(), Key { fails: number % 2 == 1, ..Key::default() });
        *self.lock() = (0..REJECTED_KEYS).map(key).collect();
        self.phase.store(phase, Ordering::SeqCst);
    }

    /// Ends the phase. Checks that the source was called after each wait, if the phase was a `full` one.
    pub(crate) fn end_phase(&self, full: bool) {
        self.phase.store(0, Ordering::SeqCst);
        for key in std::mem::take(&mut *self.lock()).into_values().filter(|key| full && !key.was_forgotten) {
            self.violations.check(Invariant::WaitsAfterRejections, key.calls.len() >= MIN_CALLS, || {
                format!("only {} calls of the token source to replace rejected tokens", key.calls.len())
            });
        }
    }

    /// Checks when the source is called. Returns whether it has to fail, for one of these keys.
    pub(crate) fn called(&self, request: &TokenRequest) -> Option<bool> {
        let mut keys = self.lock();
        let key = keys.get_mut(request.params())?;
        if request.reason() != FetchReason::Rejected {
            key.was_forgotten |= !key.calls.is_empty();
            key.calls.clear();
            return Some(false);
        }
        let (now, number) = (Instant::now(), key.calls.len());
        if let Some(last) = key.calls.last() {
            let wait = Duration::from_secs(1 << (number - 1).min(5)).min(Duration::from_secs(30));
            let waited = now - *last;
            self.violations.check(Invariant::WaitsAfterRejections, waited + TOLERANCE >= wait, || {
                format!("call {} to replace a rejected token came {waited:?} after the one before", number + 1)
            });
        }
        key.calls.push(now);
        Some(key.fails)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AuthParams, Key>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn try_on(phase: u64, number: u64, photo: &str) -> TryOn {
    TryOn { photo: photo.to_owned(), garment: format!("{NAME}{phase}-{number}"), partition: 0 }
}
