//! [`CacheState`]: the state that all handles of a cache share. This module also handles the results of fetches.
//!
//! A fetch may publish its token only while the fetch is in the map of the fetches in flight. To forget a token, the
//! cache removes the fetch from the map. Both happen under one lock.

use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use super::clock::{ClockReading, CorrectedClock};
use super::cooldown::Cooldowns;
use super::entry::{Entry, ExpiryPolicy};
use super::fetch::{Fetch, FetchCounter, Outcome};
use super::lock;
use super::lookup::TokenOrigin;
use super::recursion;
use super::rejection::Rejections;
use super::runtime::{Deadline, Pause};
use super::stats::Counters;
use super::store::{Map, Store, store};
use crate::clock::Clock;
use crate::error::{AuthError, AuthErrorKind, TokenError};
use crate::jwt::Jwt;
use crate::params::AuthParams;
use crate::source::{BoxTokenSource, FetchReason, TokenRequest};
use crate::sync::Mutex;
use crate::trace;

/// Maximum number of keys in `expired_twice`. If there are more, rarely used keys are removed. A fetch for such a
/// key may then call the source twice again.
const MAX_EXPIRED_TWICE: usize = 1024;

/// How long a key stays in `expired_twice` (rule D4).
const ASK_ONCE: Duration = Duration::from_secs(30);

/// Everything that [`TokenCache::new`](super::TokenCache::new) needs.
pub(crate) struct CacheConfig {
    pub(crate) source: BoxTokenSource,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) expiry: ExpiryPolicy,
    pub(crate) fetch_timeout: Duration,
    pub(crate) max_tokens: usize,
    pub(crate) max_concurrent_fetches: usize,
}

pub(crate) struct CacheState {
    source: BoxTokenSource,
    pub(super) clock: CorrectedClock,
    expiry: ExpiryPolicy,
    pub(super) fetch_timeout: Duration,
    /// Changed only under the lock of `in_flight`.
    pub(super) store: Store<Arc<Entry>>,
    pub(super) in_flight: Mutex<InFlight>,
    pub(super) counter: Arc<FetchCounter>,
    /// Changed only under the lock of `in_flight`.
    pub(super) rejections: Rejections,
    /// Keys for which a fetch called the source twice and got two unusable tokens. The next fetches for such a key
    /// call the source only once.
    expired_twice: Store<Pause>,
    pub(super) cooldowns: Cooldowns,
    pub(super) counters: Counters,
}

/// The fetches that may publish their tokens, at most one for each key.
pub(super) struct InFlight {
    by_key: Map<Arc<Fetch>>,
    /// During this pause, no fetch in the map can have missed its deadline.
    next_sweep: Option<Pause>,
    /// During this pause, every fetch has `force_refresh`, because [`clear`](super::TokenCache::clear) may have
    /// forgotten a token for its key.
    pub(super) forced_until: Option<Pause>,
}

impl InFlight {
    pub(super) fn get(&self, params: &AuthParams) -> Option<&Arc<Fetch>> {
        self.by_key.get(params)
    }

    /// Returns the previous fetch for the key. The previous fetch may not publish its token any more.
    pub(super) fn insert(&mut self, fetch: Arc<Fetch>) -> Option<Arc<Fetch>> {
        self.by_key.insert(fetch.params.clone(), fetch)
    }

    pub(super) fn remove(&mut self, params: &AuthParams) -> Option<Arc<Fetch>> {
        self.by_key.remove(params)
    }

    pub(super) fn remove_all(&mut self) -> impl Iterator<Item = Arc<Fetch>> + use<> {
        std::mem::take(&mut self.by_key).into_values()
    }

    /// Removes the fetches that have missed their deadline, and abandoned fetches. Searches the map only if it may
    /// contain such fetches.
    fn remove_useless(&mut self, now: SystemTime, may_be_abandoned: bool) -> Vec<Arc<Fetch>> {
        let none_is_late = self.next_sweep.is_some_and(|pause| pause.left(now).is_some());
        if none_is_late && !may_be_abandoned {
            return Vec::new();
        }
        let is_useless = |_: &_, fetch: &mut Arc<Fetch>| fetch.deadline.is_missed(now) || fetch.is_abandoned();
        let removed = self.by_key.extract_if(is_useless).map(|(_, fetch)| fetch).collect();
        // Fetches that start later have a later deadline.
        let first = self.by_key.values().map(|fetch| fetch.deadline.left(now)).min();
        self.next_sweep = first.map(|left| Pause::new(left, now));
        removed
    }
}

impl CacheState {
    pub(super) fn new(config: CacheConfig) -> Self {
        Self {
            source: config.source,
            clock: CorrectedClock::new(config.clock),
            expiry: config.expiry,
            fetch_timeout: config.fetch_timeout,
            store: store(config.max_tokens),
            in_flight: Mutex::new(InFlight { by_key: Map::default(), next_sweep: None, forced_until: None }),
            counter: Arc::new(FetchCounter::new(config.max_concurrent_fetches)),
            rejections: Rejections::new(config.max_tokens),
            expired_twice: store(config.max_tokens.min(MAX_EXPIRED_TWICE)),
            cooldowns: Cooldowns::default(),
            counters: Counters::default(),
        }
    }

    /// Creates a fetch. The caller must put it into the map. No code of the source runs before the first poll.
    pub(super) fn start_fetch(
        &self,
        params: &AuthParams,
        seen: Option<&Arc<Entry>>,
        reason: FetchReason,
        at: ClockReading,
        forced: bool,
    ) -> Arc<Fetch> {
        let rejected = self.rejections.get(params);
        let (reason, replaces) = match rejected.as_ref().and_then(|rejected| rejected.pending()) {
            Some(rejected) => (FetchReason::Rejected, Some(Arc::clone(rejected))),
            None => (reason, seen.cloned().filter(|_| reason == FetchReason::RefreshAhead)),
        };
        let deadline = Deadline::after(self.fetch_timeout, at.raw);
        let forced = forced || reason == FetchReason::Rejected;
        let request = self.request(params, at, reason, deadline, replaces.as_ref().map(|entry| entry.jwt()), forced);
        self.counters.fetches.add();
        let call = recursion::detect(self, self.source.call(request));
        Fetch::new(params.clone(), (reason, replaces), (at, deadline), call, Arc::clone(&self.counter))
    }

    fn request(
        &self,
        params: &AuthParams,
        at: ClockReading,
        reason: FetchReason,
        deadline: Deadline,
        replaces: Option<&Jwt>,
        forced: bool,
    ) -> TokenRequest {
        let mut request = TokenRequest::new(params.clone(), at.corrected()).with_reason(reason);
        if let Some(replaced) = replaces {
            request = request.replacing(replaced.clone());
        }
        if let Some(deadline) = deadline.to_std() {
            request = request.with_deadline(deadline);
        }
        if forced { request.with_force_refresh() } else { request }
    }

    /// Polls the source's call. If the call is ready, completes the fetch.
    pub(super) fn drive(&self, fetch: &Arc<Fetch>) {
        let _cancel = CancelOnPanic { state: self, fetch };
        while let Poll::Ready(result) = fetch.poll() {
            let now = self.clock.raw();
            match result {
                Ok(jwt) => {
                    let entry = self.entry(fetch, jwt);
                    let origin = self.judge(fetch, &entry, now);
                    if origin == TokenOrigin::Fetch || !self.ask_again(fetch, &entry, now) {
                        return self.complete(fetch, entry, origin, now);
                    }
                }
                Err(error) => {
                    let for_this_key = error.as_ref().is_some_and(TokenError::is_for_this_key);
                    let error = error.map_or_else(AuthError::source_panicked, AuthError::from_source);
                    let pause = self.cooldowns.begin(&fetch.params, for_this_key, now, &error);
                    return self.fail(fetch, error, pause, now);
                }
            }
        }
    }

    fn entry(&self, fetch: &Fetch, jwt: Jwt) -> Arc<Entry> {
        let has_failed = || self.rejections.get(&fetch.params).is_some_and(|rejected| rejected.has_failed());
        let on_trial = fetch.reason == FetchReason::Rejected || has_failed();
        Arc::new(Entry::new(jwt, fetch.call_started(), on_trial, &self.expiry, fetch.params.keyed_hash()))
    }

    /// Returns [`TokenOrigin::Fetch`] if the token can be cached. A token can't be cached if it has expired, if it was
    /// rejected before, or if the fetch should replace it (rules D4, D5).
    fn judge(&self, fetch: &Fetch, entry: &Entry, now: SystemTime) -> TokenOrigin {
        let replaces_it = fetch.replaces.as_ref().is_some_and(|old| old.jwt().same_as(entry.jwt()));
        let was_rejected = || self.rejections.get(&fetch.params).is_some_and(|rejected| rejected.contains(entry.jwt()));
        if replaces_it || was_rejected() {
            TokenOrigin::RejectedFetch
        } else if entry.is_expired(now) {
            TokenOrigin::ExpiredFetch
        } else {
            TokenOrigin::Fetch
        }
    }

    /// Calls the source a second time, within the same fetch, because the token of the first call can't be used (rule
    /// D4). Returns `false` if there is no second call. A refresh has no second call.
    fn ask_again(&self, fetch: &Arc<Fetch>, entry: &Entry, now: SystemTime) -> bool {
        let is_current = || lock(&self.in_flight).get(&fetch.params).is_some_and(|other| Arc::ptr_eq(other, fetch));
        let was_in_vain = || self.expired_twice.get(&fetch.params).is_some_and(|pause| pause.left(now).is_some());
        if fetch.reason == FetchReason::RefreshAhead || was_in_vain() || !is_current() {
            return false;
        }
        let Some(at) = fetch.claim_second_call(now) else {
            self.expired_twice.insert(fetch.params.clone(), Pause::new(ASK_ONCE, now));
            return false;
        };
        let request = self.request(&fetch.params, at, fetch.reason, fetch.deadline, Some(entry.jwt()), true);
        self.counters.fetches.add();
        fetch.restart(recursion::detect(self, self.source.call(request)));
        true
    }

    /// Ends a fetch whose source returned a token.
    fn complete(&self, fetch: &Arc<Fetch>, entry: Arc<Entry>, mut origin: TokenOrigin, now: SystemTime) {
        let mut is_current = false;
        self.remove_if_current(fetch, || {
            is_current = true;
            // The token may have been rejected meanwhile.
            origin = self.judge(fetch, &entry, now);
            self.admit(fetch, &entry, origin, now);
        });
        fetch.finish(Outcome::Token(entry, origin), || {
            if is_current && origin != TokenOrigin::Fetch {
                note_failed_refresh(fetch, None, None, now);
            }
        });
    }

    /// Puts a new token into the cache, if the token can be used.
    fn admit(&self, fetch: &Fetch, entry: &Arc<Entry>, origin: TokenOrigin, now: SystemTime) {
        if origin == TokenOrigin::Fetch {
            self.rejections.replaced(&fetch.params);
            self.store.insert(fetch.params.clone(), Arc::clone(entry));
            return;
        }
        // If this token is rejected, the expired one before it must not be taken for a newer one (rule D5).
        self.store.remove_if(&fetch.params, |cached| cached.is_expired(now));
        if fetch.reason == FetchReason::Rejected {
            self.rejections.fetch_failed(&fetch.params, now);
        }
    }

    /// Ends a fetch that has taken too long (rule C6).
    pub(super) fn time_out(&self, fetch: &Arc<Fetch>) {
        self.fail(fetch, AuthError::fetch_timeout(), None, self.clock.raw());
    }

    /// Ends a fetch that has missed its deadline. If the task of the fetch is on another runtime, that runtime may have
    /// stopped. The fetch is then cancelled, and its waiters start a new one (rule C4).
    pub(super) fn abandon(&self, fetch: &Arc<Fetch>) {
        if !fetch.deadline.has_timer() || fetch.runtime.is_current() {
            return self.time_out(fetch);
        }
        let now = self.clock.raw();
        self.remove_if_current(fetch, || {});
        fetch.finish(Outcome::Cancelled, || {
            self.counters.failures.add();
            note_failed_refresh(fetch, Some(AuthErrorKind::FetchTimeout), None, now);
        });
    }

    fn fail(&self, fetch: &Arc<Fetch>, error: AuthError, pause: Option<Duration>, now: SystemTime) {
        self.remove_if_current(fetch, || {
            if fetch.reason == FetchReason::Rejected {
                self.rejections.fetch_failed(&fetch.params, now);
            }
        });
        let kind = error.kind();
        fetch.finish(Outcome::Failed(error), || {
            self.counters.failures.add();
            note_failed_refresh(fetch, Some(kind), pause, now);
        });
    }

    /// Removes a fetch from the map. If the fetch was still in it, calls `publish` under the lock (rules C1, E1).
    pub(super) fn remove_if_current(&self, fetch: &Arc<Fetch>, publish: impl FnOnce()) {
        let mut in_flight = lock(&self.in_flight);
        if in_flight.get(&fetch.params).is_some_and(|current| Arc::ptr_eq(current, fetch)) {
            in_flight.remove(&fetch.params);
            publish();
        }
    }

    /// Ends late and abandoned fetches when there is no place for another fetch (rule C5).
    pub(super) fn sweep(&self, now: SystemTime) {
        let useless = lock(&self.in_flight).remove_useless(now, self.counter.take_abandoned());
        for fetch in useless {
            if fetch.deadline.is_missed(now) { self.abandon(&fetch) } else { fetch.cancel() }
        }
    }
}

/// Ends the fetch if its driver panics before it can complete the fetch, for example in a subscriber or a clock (rule
/// G1).
struct CancelOnPanic<'a> {
    state: &'a CacheState,
    fetch: &'a Arc<Fetch>,
}

impl Drop for CancelOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.state.remove_if_current(self.fetch, || {});
            self.fetch.cancel();
        }
    }
}

/// Records that a refresh has brought no new token. The next refresh has to wait (rule D3).
fn note_failed_refresh(fetch: &Fetch, error: Option<AuthErrorKind>, pause: Option<Duration>, now: SystemTime) {
    if let (FetchReason::RefreshAhead, Some(entry)) = (fetch.reason, &fetch.replaces) {
        entry.refresh_failed(now, pause);
        trace::refresh_failed(error);
    }
}

impl Drop for CacheState {
    /// Cancels all fetches. The last handle of the cache is gone, so no fetch has a waiter any more (rule C4).
    fn drop(&mut self) {
        let fetches = lock(&self.in_flight).remove_all();
        fetches.for_each(|fetch| fetch.cancel());
    }
}
