//! [`CacheState`]: what all handles of a cache share, and what becomes of a fetch's result.
//!
//! One lock, over the fetches in flight, makes a *generation* of a key: a fetch publishes its token only while it is the
//! one that stands in that map, and forgetting a token takes the fetch out of it, both under the lock.

use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use super::clock::{ClockReading, CorrectedClock};
use super::cooldown::Cooldowns;
use super::entry::{Entry, ExpiryPolicy, Freshness};
use super::fetch::{Fetch, FetchCounter, FetchResult, Outcome};
use super::lock;
use super::stats::Counters;
use super::store::{Map, Store, store};
use crate::clock::Clock;
use crate::error::{AuthError, AuthErrorKind};
use crate::params::AuthParams;
use crate::source::{BoxTokenSource, FetchReason, TokenRequest};
use crate::sync::Mutex;
use crate::trace;

/// Number of keys for which the last rejected token is remembered. Beyond it, the key that was seen longest ago is asked
/// for without [`force_refresh`](TokenRequest::force_refresh).
const MAX_REJECTED: usize = 1024;

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
    pub(super) max_concurrent_fetches: usize,
    /// Changed only under the lock of `in_flight`.
    pub(super) store: Store<Arc<Entry>>,
    pub(super) in_flight: Mutex<InFlight>,
    pub(super) counter: Arc<FetchCounter>,
    /// The last rejected token of each key that has no new one yet. Changed only under the lock of `in_flight`.
    pub(super) rejected: Store<Arc<Entry>>,
    pub(super) cooldowns: Cooldowns,
    pub(super) counters: Counters,
}

/// The fetches that may publish, one for each key.
pub(super) struct InFlight {
    by_key: Map<Arc<Fetch>>,
    /// No fetch has timed out before this.
    none_late_before: SystemTime,
}

impl InFlight {
    pub(super) fn get(&self, params: &AuthParams) -> Option<&Arc<Fetch>> {
        self.by_key.get(params)
    }

    pub(super) fn insert(&mut self, fetch: Arc<Fetch>) {
        self.none_late_before = self.none_late_before.min(fetch.deadline);
        self.by_key.insert(fetch.params.clone(), fetch);
    }

    pub(super) fn remove(&mut self, params: &AuthParams) -> Option<Arc<Fetch>> {
        self.by_key.remove(params)
    }

    pub(super) fn remove_all(&mut self) -> impl Iterator<Item = Arc<Fetch>> + use<> {
        std::mem::take(&mut self.by_key).into_values()
    }

    /// Removes the fetches that have timed out and those that nobody awaits or drives. Looks through all of them only if
    /// there can be such.
    fn remove_useless(&mut self, now: SystemTime, may_be_abandoned: bool) -> Vec<Arc<Fetch>> {
        if now < self.none_late_before && !may_be_abandoned {
            return Vec::new();
        }
        let is_useless = |_: &_, fetch: &mut Arc<Fetch>| fetch.timed_out(now) || fetch.is_abandoned();
        let removed = self.by_key.extract_if(is_useless).map(|(_, fetch)| fetch).collect();
        self.none_late_before = self.by_key.values().map(|fetch| fetch.deadline).min().unwrap_or(now);
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
            max_concurrent_fetches: config.max_concurrent_fetches,
            store: store(config.max_tokens),
            in_flight: Mutex::new(InFlight { by_key: Map::default(), none_late_before: SystemTime::UNIX_EPOCH }),
            counter: Arc::default(),
            rejected: store(config.max_tokens.min(MAX_REJECTED)),
            cooldowns: Cooldowns::default(),
            counters: Counters::default(),
        }
    }

    /// Makes a fetch that is not in the map yet. Nothing of the source runs here.
    pub(super) fn start_fetch(
        &self,
        params: &AuthParams,
        seen: Option<&Arc<Entry>>,
        reason: FetchReason,
        at: ClockReading,
    ) -> Arc<Fetch> {
        let request = TokenRequest::new(params.clone(), at.corrected());
        let (reason, replaces, request) = match self.rejected.get(params) {
            Some(rejected) => (FetchReason::Rejected, Some(rejected), request.with_force_refresh()),
            None => (reason, seen.cloned().filter(|_| reason == FetchReason::RefreshAhead), request),
        };
        self.counters.fetches.add();
        let times = (at, at.raw + self.fetch_timeout);
        let call = self.source.call(request);
        Fetch::new(params.clone(), (reason, replaces), times, call, Arc::clone(&self.counter))
    }

    /// Polls the source's call, and completes the fetch if it is ready.
    pub(super) fn drive(&self, fetch: &Arc<Fetch>) {
        if let Poll::Ready(result) = fetch.poll() {
            self.complete(fetch, result);
        }
    }

    /// Ends a fetch whose source returned or panicked.
    fn complete(&self, fetch: &Arc<Fetch>, result: FetchResult) {
        let now = self.clock.read();
        match result {
            Ok(jwt) => {
                let started = fetch.started.corrected();
                let entry = Arc::new(Entry::new(jwt, started, &self.expiry, fetch.params.keyed_hash()));
                let mut admitted = None;
                self.remove_if_current(fetch, || admitted = Some(self.admit(fetch, &entry, now.corrected())));
                fetch.finish(Outcome::Token(entry), || {
                    if admitted == Some(false) {
                        note_failed_refresh(fetch, now, None, None);
                    }
                });
            }
            Err(error) => {
                let error = error.map(Arc::new);
                let pause =
                    error.as_ref().and_then(|error| self.cooldowns.begin(fetch.params.partition(), now.raw, error));
                self.fail(fetch, now, error.map_or_else(AuthError::source_panicked, AuthError::from_source), pause);
            }
        }
    }

    /// Ends a fetch that has taken too long (rule C6).
    pub(super) fn time_out(&self, fetch: &Arc<Fetch>) {
        self.fail(fetch, self.clock.read(), AuthError::fetch_timeout(), None);
    }

    fn fail(&self, fetch: &Arc<Fetch>, now: ClockReading, error: AuthError, pause: Option<Duration>) {
        self.remove_if_current(fetch, || {});
        let kind = error.kind();
        fetch.finish(Outcome::Failed(error), || {
            self.counters.failures.add();
            note_failed_refresh(fetch, now, Some(kind), pause);
        });
    }

    /// Takes a fetch out of the map. If it still was in it, it may publish: `publish` is called under the lock (rules C1,
    /// E1).
    pub(super) fn remove_if_current(&self, fetch: &Arc<Fetch>, publish: impl FnOnce()) {
        let mut in_flight = lock(&self.in_flight);
        if in_flight.get(&fetch.params).is_some_and(|current| Arc::ptr_eq(current, fetch)) {
            in_flight.remove(&fetch.params);
            publish();
        }
    }

    /// Puts a new token into the cache. Returns false, and does not, if it has expired, or is one that was to be replaced.
    fn admit(&self, fetch: &Fetch, entry: &Arc<Entry>, now: SystemTime) -> bool {
        let rejected = self.rejected.get(&fetch.params);
        if fetch.replaces.iter().chain(&rejected).any(|old| old.jwt().same_as(entry.jwt())) {
            return false;
        }
        self.rejected.remove(&fetch.params);
        if entry.freshness(now) == Freshness::Expired {
            return false;
        }
        self.store.insert(fetch.params.clone(), Arc::clone(entry));
        true
    }

    /// Makes room when `max_concurrent_fetches` are running, but never by ending a fetch that is awaited (rule C5).
    /// Returns whether there is room now.
    pub(super) fn sweep(&self, now: SystemTime) -> bool {
        let useless = lock(&self.in_flight).remove_useless(now, self.counter.take_abandoned());
        for fetch in useless {
            if fetch.timed_out(now) { self.time_out(&fetch) } else { fetch.cancel() }
        }
        self.counter.running() < self.max_concurrent_fetches
    }
}

/// A refresh brought no better token: the next one waits (rule D3).
fn note_failed_refresh(fetch: &Fetch, now: ClockReading, error: Option<AuthErrorKind>, pause: Option<Duration>) {
    if let (FetchReason::RefreshAhead, Some(entry)) = (fetch.reason, &fetch.replaces) {
        entry.refresh_failed(now.corrected(), pause);
        trace::refresh_failed(error);
    }
}

impl Drop for CacheState {
    /// The last handle is gone, and with it everyone who awaited a fetch (rule C4).
    fn drop(&mut self) {
        let fetches = lock(&self.in_flight).remove_all();
        fetches.for_each(|fetch| fetch.cancel());
    }
}
