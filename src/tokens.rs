//! [`Tokens`]: the cache of tokens, one for each set of params, and the flights that fill it.
//!
//! It knows nothing of HTTP. A hit reads the clock, looks the key up and clones the token; everything else goes through
//! [`Tokens::board`], under one lock that is never held while anybody's code runs.
//!
//! That lock is what makes a *generation* of a key: a flight publishes its token only while it is the one that stands in the map, and
//! forgetting a token takes the flight out of the map, both under the lock.

mod deadline;
mod entry;
mod flight;
mod holds;
mod stats;
mod waiter;

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, UnitWeighter};

use self::entry::{Entry, Standing};
use self::flight::{Flight, Reason, Turn};
use self::holds::Holds;
use self::stats::Counters;
use crate::clock::Clock;
use crate::error::AuthError;
use crate::jwt::Jwt;
use crate::params::AuthParams;
use crate::source::{BoxTokenSource, TokenError, TokenRequest};
use crate::trace;

pub(crate) use self::entry::Freshness;
pub(crate) use self::flight::Outcome;
pub use self::stats::TokenStats;
pub(crate) use self::waiter::Waiter;

/// Refused tokens are remembered for so many keys, until a new token is there; past it a source is not told
/// [`must_be_new`](TokenRequest::must_be_new) for the one that was seen longest ago.
const MAX_REJECTED: usize = 1024;

/// The tokens of a layer: a handle, cheap to clone, by [`AiutaAuthLayer::tokens`](crate::AiutaAuthLayer::tokens).
///
/// Requests need nothing of it; it is for warming the cache, for forgetting what is known to be revoked, and for watching.
///
/// ```
/// # use tower_aiuta_auth::{AiutaAuthLayer, AuthParams, BoxError, source_fn};
/// # async fn example(layer: AiutaAuthLayer) -> Result<(), BoxError> {
/// let tokens = layer.tokens().ok_or("an API key needs no tokens")?;
/// let params = AuthParams::new().with("uploaded_image_id", "user_image-06f5948c").with("sku_id", "dress-1");
///
/// tokens.get(&params).await?; // the request that follows finds its token in the cache
/// assert_eq!(tokens.stats().entries, 1);
///
/// tokens.invalidate(&params); // the next one for these params asks the source
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Tokens {
    inner: Arc<Inner>,
}

/// Everything that [`Tokens::new`] needs.
pub(crate) struct TokensConfig {
    pub(crate) source: BoxTokenSource,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) freshness: Freshness,
    pub(crate) fetch_timeout: Duration,
    pub(crate) max_tokens: usize,
    pub(crate) max_flights: usize,
}

type Store<T> = Cache<AuthParams, T, UnitWeighter, BuildHasherDefault<KeyHasher>>;
type Flights = HashMap<AuthParams, Arc<Flight>, BuildHasherDefault<KeyHasher>>;

struct Inner {
    source: BoxTokenSource,
    clock: Arc<dyn Clock>,
    freshness: Freshness,
    fetch_timeout: Duration,
    max_flights: usize,
    store: Store<Arc<Entry>>,
    /// The flights that may publish, one a key. Every change of `store` and `rejected` is made under this lock.
    flights: Mutex<Flights>,
    /// All flights that are not over, those that may not publish any more included.
    in_the_air: Arc<AtomicUsize>,
    /// The token that was refused last, for keys that have no new one yet.
    rejected: Store<Jwt>,
    holds: Holds,
    counters: Counters,
}

/// Where the token for a request comes from.
pub(crate) enum Found {
    /// Out of the cache. `beside` is a refresh that no task drives: to be polled while the request is under way.
    Cached { jwt: Jwt, beside: Option<Waiter> },
    /// From the source, at once.
    Fetched(Result<Jwt, AuthError>),
    /// From a flight that is not over.
    Awaited(Waiter),
}

/// The flight that serves a key, or why none is needed or possible.
enum Boarded {
    Cached(Jwt),
    Joined(Arc<Flight>, Option<Waiter>),
    Started(Arc<Flight>, Option<Waiter>),
    Refused(AuthError),
    /// `max_flights` are in the air.
    Full,
}

impl Tokens {
    pub(crate) fn new(config: TokensConfig) -> Self {
        Self {
            inner: Arc::new(Inner {
                source: config.source,
                clock: config.clock,
                freshness: config.freshness,
                fetch_timeout: config.fetch_timeout,
                max_flights: config.max_flights,
                store: store(config.max_tokens),
                flights: Mutex::default(),
                in_the_air: Arc::default(),
                rejected: store(config.max_tokens.min(MAX_REJECTED)),
                holds: Holds::default(),
                counters: Counters::default(),
            }),
        }
    }

    /// The token for `params`, out of the cache or from the source: what a request with these params carries.
    ///
    /// # Errors
    ///
    /// As a request's: [`TokenSource`](crate::AuthErrorKind::TokenSource), [`InvalidToken`](crate::AuthErrorKind::InvalidToken),
    /// [`FetchTimeout`](crate::AuthErrorKind::FetchTimeout), [`Overloaded`](crate::AuthErrorKind::Overloaded), and
    /// [`InvalidBody`](crate::AuthErrorKind::InvalidBody) for params over 4 KiB.
    pub async fn get(&self, params: &AuthParams) -> Result<Jwt, AuthError> {
        params.check_size()?;
        match self.find(params) {
            Found::Cached { jwt, .. } => Ok(jwt),
            Found::Fetched(result) => result,
            Found::Awaited(waiter) => waiter.await,
        }
    }

    /// Forgets the token for `params`, and what is being fetched for them: the next request asks the source.
    ///
    /// Requests that wait for a running fetch still get its result. Answers whether there was anything to forget.
    #[allow(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn invalidate(&self, params: &AuthParams) -> bool {
        let (token, flight) = {
            let mut flights = lock(&self.inner.flights);
            (self.inner.store.remove(params), flights.remove(params))
        };
        let forgotten = token.is_some() || flight.is_some();
        if let Some(flight) = flight {
            flight.detach();
        }
        forgotten
    }

    /// Forgets all tokens, and all that are being fetched, as [`invalidate`](Self::invalidate) does for one.
    pub fn clear(&self) {
        let flights = {
            let mut flights = lock(&self.inner.flights);
            self.inner.store.clear();
            std::mem::take(&mut *flights)
        };
        flights.into_values().for_each(|flight| flight.detach());
    }

    /// What the cache has done so far.
    #[must_use]
    pub fn stats(&self) -> TokenStats {
        let counters = &self.inner.counters;
        TokenStats {
            hits: counters.hits.get(),
            misses: counters.misses.get(),
            coalesced: counters.coalesced.get(),
            fetches: counters.fetches.get(),
            refreshes: counters.refreshes.get(),
            failures: counters.failures.get(),
            rejected: counters.rejected.get(),
            replays: counters.replays.get(),
            entries: self.inner.store.len() as u64,
        }
    }

    pub(crate) fn count_replay(&self) {
        self.inner.counters.replays.add();
    }

    /// A token for `params`: at once out of the cache, otherwise from the flight that fetches it (rule C1).
    pub(crate) fn find(&self, params: &AuthParams) -> Found {
        let now = self.inner.clock.now();
        if let Some(entry) = self.inner.store.get(params) {
            let beside = match entry.standing(now) {
                Standing::Stale => return self.fetch(params, now),
                Standing::Due => self.refresh(params, &entry, now),
                Standing::Fresh if entry.is_adrift() => self.adrift(params),
                Standing::Fresh => None,
            };
            self.inner.counters.hits.add(params.keyed_hash());
            return Found::Cached { jwt: entry.jwt().clone(), beside };
        }
        self.fetch(params, now)
    }

    fn fetch(&self, params: &AuthParams, now: SystemTime) -> Found {
        let counters = &self.inner.counters;
        let (flight, waiter) = match self.board(params, now, None) {
            Boarded::Cached(jwt) => {
                counters.hits.add(params.keyed_hash());
                return Found::Cached { jwt, beside: None };
            }
            Boarded::Joined(flight, waiter) => {
                counters.misses.add();
                counters.coalesced.add();
                (flight, waiter)
            }
            Boarded::Started(flight, waiter) => {
                counters.misses.add();
                self.launch(&flight);
                (flight, waiter)
            }
            Boarded::Refused(error) => {
                counters.misses.add();
                return Found::Fetched(Err(error));
            }
            Boarded::Full => {
                counters.misses.add();
                return Found::Fetched(Err(AuthError::overloaded()));
            }
        };
        match (flight.outcome(), waiter) {
            (Some(Outcome::Token(jwt)), _) => Found::Fetched(Ok(jwt)),
            (Some(Outcome::Failed(error)), _) => Found::Fetched(Err(error)),
            (_, Some(waiter)) => Found::Awaited(waiter),
            (_, None) => Found::Awaited(Waiter::new(self.clone(), flight)),
        }
    }

    /// Starts the refresh of a token that is still good, if this caller is the one to do so (rule D2).
    fn refresh(&self, params: &AuthParams, entry: &Arc<Entry>, now: SystemTime) -> Option<Waiter> {
        if !entry.claim_refresh(now, now + self.inner.fetch_timeout) {
            return None;
        }
        match self.board(params, now, Some(entry)) {
            Boarded::Started(flight, _) => {
                self.inner.counters.refreshes.add();
                self.launch(&flight);
                if flight.outcome().is_some() || flight.has_task() {
                    return None;
                }
                entry.set_adrift(true);
                Some(Waiter::new(self.clone(), flight))
            }
            Boarded::Refused(error) => {
                entry.refresh_failed(now, error.retry_after().map(|left| now + left));
                None
            }
            Boarded::Cached(_) | Boarded::Joined(..) | Boarded::Full => None,
        }
    }

    /// The refresh of `params` that no task drives.
    fn adrift(&self, params: &AuthParams) -> Option<Waiter> {
        let flight = lock(&self.inner.flights).get(params).cloned()?;
        (!flight.has_task()).then(|| Waiter::new(self.clone(), flight))
    }

    /// Finds or makes the flight for `params`, with a seat in it unless it is only to refresh an entry.
    fn board(&self, params: &AuthParams, now: SystemTime, refreshing: Option<&Arc<Entry>>) -> Boarded {
        let boarded = self.try_board(params, now, refreshing);
        if matches!(boarded, Boarded::Full) && self.inner.sweep(now) {
            return self.try_board(params, now, refreshing);
        }
        boarded
    }

    fn try_board(&self, params: &AuthParams, now: SystemTime, refreshing: Option<&Arc<Entry>>) -> Boarded {
        let inner = &*self.inner;
        let seat = |flight: &Arc<Flight>| refreshing.is_none().then(|| Waiter::new(self.clone(), Arc::clone(flight)));
        let late;
        let started = {
            let mut flights = lock(&inner.flights);
            // Another flight may have landed since this caller looked.
            if let Some(entry) = inner.store.get(params) {
                let known = refreshing.is_some_and(|refreshing| Arc::ptr_eq(refreshing, &entry));
                if !known && entry.standing(now) != Standing::Stale {
                    return Boarded::Cached(entry.jwt().clone());
                }
            }
            if let Some(flight) = flights.get(params).filter(|flight| !flight.is_late(now)) {
                return Boarded::Joined(Arc::clone(flight), seat(flight));
            }
            if let Err(error) = inner.holds.check(params.partition(), now) {
                return Boarded::Refused(error);
            }
            late = flights.remove(params);
            if late.is_none() && inner.in_the_air.load(Ordering::Relaxed) >= inner.max_flights {
                return Boarded::Full;
            }
            let flight = inner.take_off(params, now, refreshing);
            flights.insert(params.clone(), Arc::clone(&flight));
            let seat = seat(&flight);
            Boarded::Started(flight, seat)
        };
        if let Some(late) = late {
            inner.expire(&late);
        }
        started
    }

    /// Gives a new flight its first turn here and now: a source that need not wait is done with it. Otherwise a task goes on with it,
    /// where there is a runtime.
    fn launch(&self, flight: &Arc<Flight>) {
        match flight.drive() {
            Turn::Done(result) => self.inner.landed(flight, result.map_err(Some)),
            Turn::Panicked => self.inner.landed(flight, Err(None)),
            Turn::Pending => waiter::spawn(&self.inner, flight),
        }
    }

    /// Forgets the token that a request carried when it was answered with 401, and only that one (rule E1).
    pub(crate) fn reject(&self, params: &AuthParams, jwt: &Jwt) {
        let inner = &*self.inner;
        inner.counters.rejected.add();
        let flight = {
            let mut flights = lock(&inner.flights);
            match inner.store.get(params) {
                Some(entry) if entry.jwt().same_as(jwt) => drop(inner.store.remove(params)),
                // A newer one stays.
                Some(_) => return,
                // Another request was here first: the flight that replaces this token goes on (rule E4).
                None if flights.get(params).is_some_and(|flight| flight.replaces(jwt)) => return,
                None => {}
            }
            inner.rejected.insert(params.clone(), jwt.clone());
            flights.remove(params)
        };
        if let Some(flight) = flight {
            flight.detach();
        }
    }
}

impl Inner {
    fn take_off(&self, params: &AuthParams, now: SystemTime, refreshing: Option<&Arc<Entry>>) -> Arc<Flight> {
        let request = TokenRequest::new(params.clone(), now);
        let (reason, request) = match (self.rejected.get(params), refreshing) {
            (Some(rejected), _) => (Reason::Rejected(rejected), request.renewed()),
            (None, Some(entry)) => (Reason::Refresh(Arc::clone(entry)), request),
            (None, None) => (Reason::Miss, request),
        };
        self.counters.fetches.add();
        let times = (now, now + self.fetch_timeout);
        Flight::new(params.clone(), reason, times, self.source.call(request), Arc::clone(&self.in_the_air))
    }

    /// Takes a flight out of the map, if it still is in it.
    fn leave(&self, flight: &Arc<Flight>) {
        self.publish(flight, |_| {});
    }

    /// Takes a flight out of the map and calls `with`, if it still is in it (rules C1, E1).
    fn publish(&self, flight: &Arc<Flight>, with: impl FnOnce(&Self)) {
        let mut flights = lock(&self.flights);
        if flights.get(&flight.params).is_some_and(|current| Arc::ptr_eq(current, flight)) {
            flights.remove(&flight.params);
            with(self);
        }
    }

    /// The source has answered, or panicked (`Err(None)`).
    fn landed(&self, flight: &Arc<Flight>, result: Result<Jwt, Option<TokenError>>) {
        let now = self.clock.now();
        match result {
            Ok(jwt) => {
                let mut unusable = false;
                self.publish(flight, |inner| unusable = !inner.keep(flight, &jwt, now));
                flight.finish(Outcome::Token(jwt), || {
                    if unusable {
                        refresh_failed(flight, now, None, None);
                    }
                });
            }
            Err(error) => {
                let error = error.map(Arc::new);
                let hold = error.as_ref().and_then(|error| self.holds.begin(flight.params.partition(), now, error));
                self.fail(flight, now, error.map_or_else(AuthError::source_panicked, AuthError::from_source), hold);
            }
        }
    }

    /// Ends a flight that is late (rule C6).
    fn expire(&self, flight: &Arc<Flight>) {
        self.fail(flight, self.clock.now(), AuthError::fetch_timeout(), None);
    }

    fn fail(&self, flight: &Arc<Flight>, now: SystemTime, error: AuthError, hold: Option<SystemTime>) {
        self.leave(flight);
        let kind = error.kind();
        flight.finish(Outcome::Failed(error), || {
            self.counters.failures.add();
            refresh_failed(flight, now, Some(kind), hold);
        });
    }

    /// Puts a new token into the cache, unless it is no good for that; answers whether it is.
    fn keep(&self, flight: &Flight, jwt: &Jwt, now: SystemTime) -> bool {
        let old = match &flight.reason {
            Reason::Miss => None,
            Reason::Refresh(entry) => Some(entry.jwt()),
            Reason::Rejected(rejected) => Some(rejected),
        };
        if old.is_some_and(|old| old.same_as(jwt)) {
            return false;
        }
        self.rejected.remove(&flight.params);
        let key_hash = flight.params.keyed_hash();
        let Some(entry) = Entry::new(jwt.clone(), flight.started, now, &self.freshness, key_hash) else { return false };
        self.store.insert(flight.params.clone(), Arc::new(entry));
        true
    }

    /// Makes room when `max_flights` are in the air: flights that are late, or that nobody awaits or drives. Never one that is awaited
    /// (rule C5). Answers whether there is room now.
    fn sweep(&self, now: SystemTime) -> bool {
        let swept: Vec<_> = {
            let mut flights = lock(&self.flights);
            flights.extract_if(|_, flight| flight.is_late(now) || flight.is_abandoned()).collect()
        };
        for (_, flight) in swept {
            if flight.is_late(now) { self.expire(&flight) } else { flight.abort() }
        }
        self.in_the_air.load(Ordering::Relaxed) < self.max_flights
    }
}

/// A flight that refreshes a token did not bring a better one: the next waits (rule D3).
fn refresh_failed(
    flight: &Flight,
    now: SystemTime,
    error: Option<crate::error::AuthErrorKind>,
    not_before: Option<SystemTime>,
) {
    if let Reason::Refresh(entry) = &flight.reason {
        entry.refresh_failed(now, not_before);
        trace::refresh_failed(error);
    }
}

impl Drop for Inner {
    /// The last handle is gone, and with it everyone who awaited a flight (rule C4).
    fn drop(&mut self) {
        let flights = std::mem::take(&mut *lock(&self.flights));
        flights.into_values().for_each(|flight| flight.abort());
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// A store for at most `capacity` values. It evicts by how recently and how often a key was used.
fn store<T: Clone>(capacity: usize) -> Store<T> {
    // The store rounds up what each of its shards may hold, so the number of shards has to divide the capacity; and it wants 32 a shard.
    let shards = (capacity / 32).clamp(1, 16);
    let shards = if shards.is_power_of_two() { shards } else { shards.next_power_of_two() / 2 };
    let capacity = capacity / shards * shards;
    let options = OptionsBuilder::new()
        .shards(shards)
        .estimated_items_capacity(capacity)
        .weight_capacity(capacity as u64)
        .build()
        .expect("both capacities are set");
    Cache::with_options(options, UnitWeighter, BuildHasherDefault::default(), DefaultLifecycle::default())
}

/// Passes on the hash that [`AuthParams`] brings along: it is keyed already.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("the only key is AuthParams, which writes one u64");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// Locks, poisoned or not: no code that can panic runs under our locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
