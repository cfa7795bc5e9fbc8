//! [`Rejections`]: the rejected tokens of each key, and the pause before the next fetch for the key.
//!
//! Rejected tokens are remembered for two reasons. The next fetch must have
//! [`force_refresh`](crate::TokenRequest::force_refresh). And if the source returns a rejected token again, this token
//! must not come back into the cache (rule D5). If the next tokens are rejected as well, the pauses between fetches
//! grow (rule E5).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::entry::Entry;
use super::runtime::Pause;
use super::store::{Store, store};
use crate::jwt::Jwt;
use crate::params::AuthParams;

/// Maximum number of keys that are remembered. If there are more, keys that are rarely used are forgotten, as if their
/// tokens had never been rejected.
pub(super) const MAX_KEYS: usize = 1024;

/// Maximum number of tokens that are remembered for a key.
const MAX_TOKENS: usize = 4;

/// Maximum pause after a rejection. The pauses from the second rejection on are 1 s, 2 s, 4 s and so on.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// The rejected tokens of all keys. They are changed only under the lock of the fetches in flight.
pub(crate) struct Rejections {
    by_key: Store<Arc<Rejected>>,
}

/// The rejected tokens of one key.
#[derive(Clone)]
pub(crate) struct Rejected {
    /// The last rejected tokens, with the newest at the end. Never empty.
    tokens: Vec<Arc<Entry>>,
    /// Whether no new token has been fetched yet.
    is_pending: bool,
    /// Number of failures since the API last accepted a token. A failure is a rejection, or a failed fetch after a
    /// rejection.
    failures: u32,
    /// The pause before the next fetch.
    pause: Option<Pause>,
}

impl Rejected {
    /// Returns the newest rejected token, if no new token has been fetched yet.
    pub(crate) fn pending(&self) -> Option<&Arc<Entry>> {
        self.tokens.last().filter(|_| self.is_pending)
    }

    /// Returns the rejected token that requests carry during a pause.
    pub(crate) fn stopgap(&self, now: SystemTime) -> Option<&Arc<Entry>> {
        self.pending().filter(|_| self.pause.is_some_and(|pause| pause.left(now).is_some()))
    }

    /// Returns whether there was a rejection and the API has not accepted a token since then.
    pub(crate) fn has_failed(&self) -> bool {
        self.failures > 0
    }

    pub(crate) fn contains(&self, jwt: &Jwt) -> bool {
        self.tokens.iter().any(|rejected| rejected.jwt().same_as(jwt))
    }

    /// Adds a token. A token that has not been replaced yet stays the newest one.
    fn add(&mut self, entry: &Arc<Entry>) {
        if self.contains(entry.jwt()) {
            return;
        }
        if self.tokens.len() == MAX_TOKENS {
            self.tokens.remove(0);
        }
        let newer = usize::from(self.is_pending);
        self.tokens.insert(self.tokens.len() - newer, Arc::clone(entry));
    }

    /// Adds the token that the next fetch replaces.
    fn add_pending(&mut self, entry: &Arc<Entry>) {
        self.is_pending = false;
        self.add(entry);
        self.is_pending = true;
    }

    /// Counts a failure. From the second one on, the next fetch has to wait.
    fn fail(&mut self, now: SystemTime) {
        self.failures = self.failures.saturating_add(1);
        if let Some(doublings) = self.failures.checked_sub(2) {
            let wait = Duration::from_secs(1 << doublings.min(5)).min(MAX_BACKOFF);
            self.pause = Some(Pause::new(wait, now));
        }
    }

    fn reset(&mut self) {
        (self.failures, self.pause) = (0, None);
    }
}

impl Rejections {
    pub(crate) fn new(max_tokens: usize) -> Self {
        Self { by_key: store(max_tokens.min(MAX_KEYS)) }
    }

    pub(crate) fn get(&self, params: &AuthParams) -> Option<Arc<Rejected>> {
        self.by_key.get(params)
    }

    /// Records that the API has rejected the current token. The next fetch replaces this token.
    pub(crate) fn reject(&self, params: &AuthParams, entry: &Arc<Entry>, now: SystemTime) {
        self.change(params, |rejected| {
            rejected.add_pending(entry);
            rejected.fail(now);
        });
    }

    /// Remembers a rejected token that has been replaced already, or is being replaced.
    pub(crate) fn remember(&self, params: &AuthParams, entry: &Arc<Entry>) {
        self.change(params, |rejected| rejected.add(entry));
    }

    /// Records that the user has invalidated a token. The next token may be fetched at once.
    pub(crate) fn invalidate(&self, params: &AuthParams, entry: &Arc<Entry>) {
        self.change(params, |rejected| {
            rejected.add_pending(entry);
            rejected.reset();
        });
    }

    /// Records that a new token has been fetched.
    pub(crate) fn replaced(&self, params: &AuthParams) {
        self.update(params, |rejected| rejected.is_pending = false);
    }

    /// Records that the fetch of a new token has failed. After a rejection, this counts as another failure.
    pub(crate) fn fetch_failed(&self, params: &AuthParams, now: SystemTime) {
        self.update(params, |rejected| {
            if rejected.failures > 0 {
                rejected.fail(now);
            }
        });
    }

    /// Clears the failures, so that the next token may be fetched at once.
    pub(crate) fn reset(&self, params: &AuthParams) {
        self.update(params, Rejected::reset);
    }

    pub(crate) fn reset_all(&self) {
        let keys: Vec<_> = self.by_key.iter().map(|(params, _)| params).collect();
        keys.iter().for_each(|params| self.reset(params));
    }

    fn change(&self, params: &AuthParams, change: impl FnOnce(&mut Rejected)) {
        let new = || Rejected { tokens: Vec::new(), is_pending: false, failures: 0, pause: None };
        let mut rejected = self.by_key.get(params).map_or_else(new, |rejected| (*rejected).clone());
        change(&mut rejected);
        self.by_key.insert(params.clone(), Arc::new(rejected));
    }

    /// Like [`change`](Self::change), but does nothing if no token of the key was rejected.
    fn update(&self, params: &AuthParams, change: impl FnOnce(&mut Rejected)) {
        if let Some(rejected) = self.by_key.get(params) {
            let mut rejected = (*rejected).clone();
            change(&mut rejected);
            self.by_key.insert(params.clone(), Arc::new(rejected));
        }
    }
}
