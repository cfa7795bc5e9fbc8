//! Remembers the tokens that the source returned: how long the layer may use each, and whether it was rejected.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tower_aiuta_auth::{Clock, Jwt};

use crate::call::Call;
use crate::clock::WallClock;

/// Minimum number of tokens that are remembered. A forgotten token is not checked.
const REMEMBERED: usize = 1 << 15;

/// How late a token may be sent, because the thread may be paused between the layer's check and this one.
const TOLERANCE: Duration = Duration::from_millis(400);

/// How far the layer's clock may go back without ending a token (rule D1).
const MAX_STEP_BACK: Duration = Duration::from_secs(5);

/// How long after the source has returned a token the layer may take to receive it.
const RECEIVED_WITHIN: Duration = Duration::from_millis(50);

/// A token that the source returned.
#[derive(Clone, Copy)]
pub(crate) struct Issue {
    /// The fetch in which it was returned.
    pub(crate) fetch: Fetch,
    /// When the source was called, by the layer's clock.
    pub(crate) raw: SystemTime,
    pub(crate) called: Instant,
    pub(crate) returned: Instant,
    /// How long the layer may use it, from the call on.
    pub(crate) usable: Duration,
    /// Whether the layer may send it when it should not be used, since the source has nothing better (rules D4, D5).
    pub(crate) is_unusable: bool,
    /// Whether it was answered with 401.
    pub(crate) rejected: bool,
}

/// The first call of the source in a fetch.
#[derive(Clone, Copy)]
pub(crate) struct Fetch {
    pub(crate) began_in: crate::call::Poll,
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
                issue.is_unusable |= before.is_unusable || before.rejected;
                issue.rejected |= before.rejected;
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
        self.with(|[recent, older]| recent.get(&key).or_else(|| older.get(&key)).copied())
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
        let stepped = clock.stepped_within(issue.called, issue.returned + RECEIVED_WITHIN)
            || clock.stepped_within(call.poll.began, now);
        if issue.is_unusable || issue.rejected || call.sent > 1 || stepped {
            return None;
        }
        // The time in which this thread may have been paused.
        let tolerance = TOLERANCE + call.poll.began.elapsed();
        match clock.now().duration_since(issue.raw) {
            Ok(elapsed) if elapsed > issue.usable + tolerance => {
                Some(format!("sent {elapsed:?} after its fetch, but usable for {:?}", issue.usable))
            }
            Err(error) if error.duration() > MAX_STEP_BACK + tolerance => {
                Some(format!("sent after the clock was set back to {:?} before its fetch", error.duration()))
            }
            _ => None,
        }
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
