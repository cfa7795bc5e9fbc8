//! Remembers the tokens that the source returned: how long the layer may use each, and whether it was rejected.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tower_aiuta_auth::{Clock, Jwt};

use crate::call::{Call, Poll};
use crate::clock::WallClock;

/// Minimum number of tokens that are remembered. A forgotten token is not checked.
const REMEMBERED: usize = 1 << 15;

/// A token with less time than this may expire on its way to the layer.
pub(crate) const SHORT: Duration = Duration::from_millis(400);

/// How late a token may be sent, because the thread may be paused between the layer's check and this one.
const TOLERANCE: Duration = Duration::from_millis(400);

/// How far the layer's clock may go back without ending a token (rule D1).
const MAX_STEP_BACK: Duration = Duration::from_secs(5);

/// Number of calls that are remembered for a token that is returned several times.
const MAX_USES: usize = 8;

/// How long after the source has returned a token the layer may take to receive it.
const RECEIVED_WITHIN: Duration = Duration::from_millis(50);

/// A token that the source returned, once or several times.
#[derive(Clone)]
pub(crate) struct Issue {
    /// The fetch in which it was last returned.
    pub(crate) fetch: Fetch,
    /// The layer may use it if any of these allows it.
    pub(crate) uses: Vec<Use>,
    /// Whether it had expired when it was returned, or nearly so. It may be sent if the source has nothing better, but
    /// is not cached (rule D4).
    pub(crate) is_unusable: bool,
    /// Whether it was answered with 401.
    pub(crate) rejected: bool,
}

/// The time for which the layer may use a token that was returned by one call.
#[derive(Clone, Copy)]
pub(crate) struct Use {
    /// When the source was called, by the layer's clock.
    pub(crate) raw: SystemTime,
    pub(crate) called: Instant,
    pub(crate) returned: Instant,
    /// How long the layer may use it, from the call on.
    pub(crate) usable: Duration,
}

impl Issue {
    /// When it was last returned.
    pub(crate) fn returned(&self) -> Instant {
        self.uses[0].returned
    }
}

impl Use {
    /// Returns what is wrong with sending the token at `now`, by the layer's clock.
    fn error(&self, now: SystemTime, tolerance: Duration) -> Option<String> {
        match now.duration_since(self.raw) {
            Ok(elapsed) if elapsed > self.usable + tolerance => {
                Some(format!("sent {elapsed:?} after its fetch, but usable for {:?}", self.usable))
            }
            Err(error) if error.duration() > MAX_STEP_BACK + tolerance => {
                Some(format!("sent after the clock was set back to {:?} before its fetch", error.duration()))
            }
            _ => None,
        }
    }
}

/// The first call of the source in a fetch.
#[derive(Clone, Copy)]
pub(crate) struct Fetch {
    pub(crate) began_in: Poll,
    /// Whether it started on a runtime, where a task drives it.
    pub(crate) on_runtime: bool,
}

/// Tokens by their hash. The older of two maps is cleared when the newer one is full.
#[derive(Default)]
pub(crate) struct Issued(Mutex<[HashMap<u64, Issue>; 2]>);

impl Issued {
    pub(crate) fn add(&self, token: &Jwt, mut issue: Issue) {
        let key = key(token.expose());
        self.with(|[recent, older]| {
            // A token that is returned again: nothing that it may do is forgotten.
            if let Some(before) = recent.get(&key).or_else(|| older.get(&key)) {
                issue.is_unusable |= before.is_unusable;
                issue.rejected |= before.rejected;
                issue.uses.extend(before.uses.iter().take(MAX_USES - 1).copied());
            }
            if recent.len() == REMEMBERED {
                std::mem::swap(recent, older);
                recent.clear();
            }
            recent.insert(key, issue);
        });
    }

    pub(crate) fn get(&self, token: &str) -> Option<Issue> {
        let key = key(token);
        self.with(|[recent, older]| recent.get(&key).or_else(|| older.get(&key)).cloned())
    }

    /// Notes that a token was answered with 401. Returns whether it was for the first time.
    pub(crate) fn reject(&self, token: &str) -> bool {
        let key = key(token);
        self.with(|[recent, older]| {
            let issue = recent.get_mut(&key).or_else(|| older.get_mut(&key));
            !issue.is_some_and(|issue| std::mem::replace(&mut issue.rejected, true))
        })
    }

    /// Returns what is wrong with sending a token in `call`: its time is over (rules D1, C2). A rejected token may be
    /// sent for longer (rule E5), and so may one in a replay, if no other could be fetched (rule C2).
    pub(crate) fn error_of_sent(&self, token: &str, call: &Call, clock: &WallClock) -> Option<String> {
        let issue = self.get(token)?;
        let now = Instant::now();
        let stepped = |usage: &Use| clock.stepped_within(usage.called, usage.returned + RECEIVED_WITHIN);
        let stepped = clock.stepped_within(call.poll.began, now) || issue.uses.iter().any(stepped);
        if issue.rejected || call.sent > 1 || stepped {
            return None;
        }
        if issue.is_unusable {
            // It was not cached, so whoever sends it has waited for it.
            let was_awaited = call.began <= issue.returned() + SHORT + TOLERANCE;
            return (!was_awaited).then(|| "sent from the cache, but had expired when it was fetched".to_owned());
        }
        // The time in which this thread may have been paused.
        let tolerance = TOLERANCE + call.poll.began.elapsed();
        let raw = clock.now();
        // The first of the errors, if there is one for each use.
        let errors: Option<Vec<_>> = issue.uses.iter().map(|usage| usage.error(raw, tolerance)).collect();
        errors?.into_iter().next()
    }

    fn with<T>(&self, f: impl FnOnce(&mut [HashMap<u64, Issue>; 2]) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn key(token: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    token.hash(&mut hasher);
    hasher.finish()
}
