//! What all handles share: the store, the flights that fill it, and what becomes of a flight's result.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::clock::{ClockReading, CorrectedClock};
use super::cooldown::Cooldowns;
use super::entry::{Entry, ExpiryPolicy};
use super::fetch::{Fetch, FetchCounter, Outcome, Reason};
use super::join::Saw;
use super::lock;
use super::stats::Counters;
use super::store::{Map, Store, store};
use crate::clock::Clock;
use crate::error::{AuthError, AuthErrorKind, TokenError};
use crate::jwt::Jwt;
use crate::params::AuthParams;
use crate::source::{BoxTokenSource, TokenRequest};
use crate::sync::Mutex;
use crate::trace;

/// Refused tokens are remembered for so many keys, until a new token is there; past it a source is not told
/// [`force_refresh`](TokenRequest::force_refresh) for the one that was seen longest ago.
const MAX_REJECTED: usize = 1024;

/// Everything that [`TokenCache::new`](super::TokenCache::new) needs.
pub(crate) struct CacheConfig {
    pub(crate) source: BoxTokenSource,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) freshness: ExpiryPolicy,
    pub(crate) fetch_timeout: Duration,
    pub(crate) max_tokens: usize,
    pub(crate) max_concurrent_fetches: usize,
}

pub(crate) struct Inner {
    source: BoxTokenSource,
    pub(super) clock: CorrectedClock,
    freshness: ExpiryPolicy,
    pub(super) fetch_timeout: Duration,
    pub(super) max_concurrent_fetches: usize,
    /// Changed only under the lock of `flights`.
    pub(super) store: Store<Arc<Entry>>,
    /// The flights that may publish.
    pub(super) flights: Mutex<InFlight>,
    /// All flights that are not over, those that may not publish any more included.
    pub(super) air: Arc<FetchCounter>,
    /// The token that was refused last, for keys that have no new one yet. Changed only under the lock of `flights`.
    pub(super) rejected: Store<Jwt>,
    pub(super) holds: Cooldowns,
    pub(super) counters: Counters,
}

/// One flight a key.
pub(super) struct InFlight {
    by_key: Map<Arc<Fetch>>,
    /// None of them is late before this.
    none_late_before: SystemTime,
}

impl InFlight {
    pub(super) fn get(&self, params: &AuthParams) -> Option<&Arc<Fetch>> {
        self.by_key.get(params)
    }

    pub(super) fn insert(&mut self, flight: Arc<Fetch>) {
        self.none_late_before = self.none_late_before.min(flight.deadline);
        self.by_key.insert(flight.params.clone(), flight);
    }

    pub(super) fn remove(&mut self, params: &AuthParams) -> Option<Arc<Fetch>> {
        self.by_key.remove(params)
    }

    pub(super) fn remove_all(&mut self) -> impl Iterator<Item = Arc<Fetch>> + use<> {
        std::mem::take(&mut self.by_key).into_values()
    }

    /// Takes out those that are late, and those that nobody awaits or drives if there may be any; without looking through all of
    /// them if there can be none.
    fn remove_useless(&mut self, now: SystemTime, may_be_abandoned: bool) -> Vec<Arc<Fetch>> {
        if now < self.none_late_before && !may_be_abandoned {
            return Vec::new();
        }
        let useless = |_: &_, flight: &mut Arc<Fetch>| flight.is_late(now) || flight.is_abandoned();
        let removed = self.by_key.extract_if(useless).map(|(_, flight)| flight).collect();
        self.none_late_before = self.by_key.values().map(|flight| flight.deadline).min().unwrap_or(now);
        removed
    }
}

impl Inner {
    pub(super) fn new(config: CacheConfig) -> Self {
        Self {
            source: config.source,
            clock: CorrectedClock::new(config.clock),
            freshness: config.freshness,
            fetch_timeout: config.fetch_timeout,
            max_concurrent_fetches: config.max_concurrent_fetches,
            store: store(config.max_tokens),
            flights: Mutex::new(InFlight { by_key: Map::default(), none_late_before: SystemTime::UNIX_EPOCH }),
            air: Arc::default(),
            rejected: store(config.max_tokens.min(MAX_REJECTED)),
            holds: Cooldowns::default(),
            counters: Counters::default(),
        }
    }

    /// A new flight, not yet in the map. Nothing of the source runs here.
    pub(super) fn take_off(&self, params: &AuthParams, saw: Saw<'_>, at: ClockReading) -> Arc<Fetch> {
        let request = TokenRequest::new(params.clone(), at.corrected());
        let (reason, request) = match (self.rejected.get(params), saw) {
            (Some(rejected), _) => (Reason::Rejected(rejected), request.with_force_refresh()),
            (None, Saw::RefreshDue(entry)) => (Reason::Refresh(Arc::clone(entry)), request),
            (None, Saw::NoneUsable(_)) => (Reason::Miss, request),
        };
        self.counters.fetches.add();
        let times = (at, at.raw + self.fetch_timeout);
        Fetch::new(params.clone(), reason, times, self.source.call(request), Arc::clone(&self.air))
    }

    /// Takes a flight out of the map, if it still is in it.
    pub(super) fn leave(&self, flight: &Arc<Fetch>) {
        self.publish(flight, |_| {});
    }

    /// Takes a flight out of the map and calls `with`, if it still is in it (rules C1, E1).
    fn publish(&self, flight: &Arc<Fetch>, with: impl FnOnce(&Self)) {
        let mut flights = lock(&self.flights);
        if flights.get(&flight.params).is_some_and(|current| Arc::ptr_eq(current, flight)) {
            flights.remove(&flight.params);
            with(self);
        }
    }

    /// The source has answered, or panicked (`Err(None)`).
    pub(super) fn landed(&self, flight: &Arc<Fetch>, result: Result<Jwt, Option<TokenError>>) {
        let now = self.clock.read();
        match result {
            Ok(jwt) => {
                let mut unusable = false;
                self.publish(flight, |inner| unusable = !inner.keep(flight, &jwt, now.corrected()));
                flight.finish(Outcome::Token(jwt), || {
                    if unusable {
                        refresh_failed(flight, now, None, None);
                    }
                });
            }
            Err(error) => {
                let error = error.map(Arc::new);
                let pause =
                    error.as_ref().and_then(|error| self.holds.begin(flight.params.partition(), now.raw, error));
                self.fail(flight, now, error.map_or_else(AuthError::source_panicked, AuthError::from_source), pause);
            }
        }
    }

    /// Ends a flight that is late (rule C6).
    pub(super) fn expire(&self, flight: &Arc<Fetch>) {
        self.fail(flight, self.clock.read(), AuthError::fetch_timeout(), None);
    }

    fn fail(&self, flight: &Arc<Fetch>, now: ClockReading, error: AuthError, pause: Option<Duration>) {
        self.leave(flight);
        let kind = error.kind();
        flight.finish(Outcome::Failed(error), || {
            self.counters.failures.add();
            refresh_failed(flight, now, Some(kind), pause);
        });
    }

    /// Puts a new token into the cache, unless it is no good for that; answers whether it is.
    fn keep(&self, flight: &Fetch, jwt: &Jwt, now: SystemTime) -> bool {
        let old = match &flight.reason {
            Reason::Miss => None,
            Reason::Refresh(entry) => Some(entry.jwt()),
            Reason::Rejected(rejected) => Some(rejected),
        };
        let refused = self.rejected.get(&flight.params);
        if old.into_iter().chain(&refused).any(|old| old.same_as(jwt)) {
            return false;
        }
        self.rejected.remove(&flight.params);
        let key_hash = flight.params.keyed_hash();
        let Some(entry) = Entry::new(jwt.clone(), flight.started.corrected(), now, &self.freshness, key_hash) else {
            return false;
        };
        self.store.insert(flight.params.clone(), Arc::new(entry));
        true
    }

    /// Makes room when `max_concurrent_fetches` are in the air, but never by a flight that is awaited (rule C5). Answers whether there is room now.
    pub(super) fn sweep(&self, now: SystemTime) -> bool {
        let useless = lock(&self.flights).remove_useless(now, self.air.may_be_abandoned());
        for flight in useless {
            if flight.is_late(now) { self.expire(&flight) } else { flight.abort() }
        }
        self.air.flights() < self.max_concurrent_fetches
    }
}

/// A flight that refreshes a token did not bring a better one: the next waits (rule D3).
fn refresh_failed(flight: &Fetch, now: ClockReading, error: Option<AuthErrorKind>, pause: Option<Duration>) {
    if let Reason::Refresh(entry) = &flight.reason {
        entry.refresh_failed(now.corrected(), pause);
        trace::refresh_failed(error);
    }
}

impl Drop for Inner {
    /// The last handle is gone, and with it everyone who awaited a flight (rule C4).
    fn drop(&mut self) {
        let flights = lock(&self.flights).remove_all();
        flights.for_each(|flight| flight.abort());
    }
}
