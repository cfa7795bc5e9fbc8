//! [`Rejections`]: the tokens that the API has rejected, by key, and how long the next one has to wait.
//!
//! A rejected token is remembered so that its successor is asked for with
//! [`force_refresh`](crate::TokenRequest::force_refresh), and so that a source which returns it again can't put it back
//! into the cache (rule D5). If its successors are rejected as well, they are asked for ever more slowly (rule E5).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::entry::Entry;
use super::runtime::Pause;
use super::store::{Store, store};
use crate::jwt::Jwt;
use crate::params::AuthParams;

/// Number of keys that are remembered. Beyond it, the key that was seen longest ago is asked for as if nothing had been
/// rejected.
pub(super) const MAX_KEYS: usize = 1024;

/// Number of tokens that are remembered for a key.
const MAX_TOKENS: usize = 4;

/// The waits from the second rejection on are 1 s, 2 s, 4 s … up to this.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// Changed only under the lock of the fetches in flight.
pub(crate) struct Rejections {
    by_key: Store<Arc<Rejected>>,
}

/// What is known of one key.
#[derive(Clone)]
pub(crate) struct Rejected {
    /// The last ones, the newest at the end; never empty.
    tokens: Vec<Arc<Entry>>,
    /// Whether there is no new token yet.
    is_pending: bool,
    /// Rejections, and failed fetches after one, since the API last accepted a token.
    failures: u32,
    /// Until when no other token is fetched.
    pause: Option<Pause>,
}

impl Rejected {
    /// The token to be replaced, if there is no new one yet.
    pub(crate) fn pending(&self) -> Option<&Arc<Entry>> {
        self.tokens.last().filter(|_| self.is_pending)
    }

    /// The rejected token that requests still carry in a pause.
    pub(crate) fn stopgap(&self, now: SystemTime) -> Option<&Arc<Entry>> {
        self.pending().filter(|_| self.pause.is_some_and(|pause| pause.left(now).is_some()))
    }

    /// Whether a rejection was not followed by a success yet.
    pub(crate) fn has_failed(&self) -> bool {
        self.failures > 0
    }

    pub(crate) fn contains(&self, jwt: &Jwt) -> bool {
        self.tokens.iter().any(|rejected| rejected.jwt().same_as(jwt))
    }

    fn push(&mut self, entry: &Arc<Entry>) {
        if self.contains(entry.jwt()) {
            return;
        }
        if self.tokens.len() == MAX_TOKENS {
            self.tokens.remove(0);
        }
        self.tokens.push(Arc::clone(entry));
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

    /// Remembers the token in use, which the API has rejected.
    pub(crate) fn reject(&self, params: &AuthParams, entry: &Arc<Entry>, now: SystemTime) {
        self.remember_with(params, entry, |rejected| {
            rejected.is_pending = true;
            rejected.fail(now);
        });
    }

    /// Remembers a token that the API has rejected, and that is being replaced already.
    pub(crate) fn remember(&self, params: &AuthParams, entry: &Arc<Entry>) {
        self.remember_with(params, entry, |_| {});
    }

    /// Remembers a token that the user has invalidated. Its successor may be fetched at once.
    pub(crate) fn invalidate(&self, params: &AuthParams, entry: &Arc<Entry>) {
        self.remember_with(params, entry, |rejected| {
            rejected.is_pending = true;
            rejected.reset();
        });
    }

    /// Notes that there is a new token.
    pub(crate) fn replaced(&self, params: &AuthParams) {
        self.update(params, |rejected| rejected.is_pending = false);
    }

    /// Notes that the new token could not be fetched, so that the next fetch waits.
    pub(crate) fn fetch_failed(&self, params: &AuthParams, now: SystemTime) {
        self.update(params, |rejected| {
            if rejected.failures > 0 {
                rejected.fail(now);
            }
        });
    }

    /// Lets the next token be fetched at once.
    pub(crate) fn reset(&self, params: &AuthParams) {
        self.update(params, Rejected::reset);
    }

    pub(crate) fn reset_all(&self) {
        let keys: Vec<_> = self.by_key.iter().map(|(params, _)| params).collect();
        keys.iter().for_each(|params| self.reset(params));
    }

    fn remember_with(&self, params: &AuthParams, entry: &Arc<Entry>, change: impl FnOnce(&mut Rejected)) {
        let new = || Rejected { tokens: Vec::new(), is_pending: false, failures: 0, pause: None };
        let mut rejected = self.by_key.get(params).map_or_else(new, |rejected| (*rejected).clone());
        rejected.push(entry);
        change(&mut rejected);
        self.by_key.insert(params.clone(), Arc::new(rejected));
    }

    fn update(&self, params: &AuthParams, change: impl FnOnce(&mut Rejected)) {
        if let Some(rejected) = self.by_key.get(params) {
            let mut rejected = (*rejected).clone();
            change(&mut rejected);
            self.by_key.insert(params.clone(), Arc::new(rejected));
        }
    }
}
