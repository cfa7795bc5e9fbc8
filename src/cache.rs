//! [`TokenCache`]: the cache of tokens, one for each set of params, and the flights that fill it.
//!
//! It knows nothing of HTTP. A hit reads the clock, looks the key up and clones the token; everything else goes through
//! [`TokenCache::board`], under one lock that is never held while anybody's code runs.
//!
//! That lock is what makes a *generation* of a key: a flight publishes its token only while it is the one that stands in the map, and
//! forgetting a token takes the flight out of the map, both under the lock.

mod clock;
mod cooldown;
mod entry;
mod fetch;
mod join;
mod runtime;
mod shared_call;
mod state;
mod stats;
mod store;
mod wait;

/// Tries the schedules of all the above; with the checker's locks only (see docs/DESIGN.md, "How it is tested").
#[cfg(tower_aiuta_auth_model)]
#[path = "../tests/model/model.rs"]
mod model;

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use self::clock::ClockReading;
use self::entry::{Entry, Freshness};
use self::fetch::{Fetch, Outcome};
use self::join::{Boarded, Saw};
use self::state::Inner;
use crate::error::AuthError;
use crate::jwt::Jwt;
use crate::params::AuthParams;
use crate::sync::{Mutex, MutexGuard};

pub(crate) use self::entry::ExpiryPolicy;
pub(crate) use self::state::CacheConfig;
pub use self::stats::TokenCacheStats;
pub(crate) use self::wait::Waiter;

/// The tokens of a layer: a handle, cheap to clone, by [`AiutaAuthLayer::tokens`](crate::AiutaAuthLayer::tokens).
///
/// Requests need nothing of it; it is for warming the cache, for forgetting what is known to be revoked, and for watching.
///
/// ```
/// # use tower_aiuta_auth::{AiutaAuthLayer, AuthParams, BoxError, source_fn};
/// # async fn example(layer: AiutaAuthLayer) -> Result<(), BoxError> {
/// let tokens = layer.token_cache().ok_or("an API key needs no tokens")?;
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
pub struct TokenCache {
    inner: Arc<Inner>,
}

/// Where the token for a request comes from.
pub(crate) enum Found {
    /// Out of the cache. `beside` is a refresh that no task drives: to be polled while the request is under way.
    Cached { served: Served, beside: Option<Waiter> },
    /// From the source, at once.
    Fetched(Result<Served, AuthError>),
    /// From a flight that is not over.
    Awaited(Waiter),
}

/// A token for one request, and what a 401 to it is judged by.
pub(crate) struct Served {
    pub(crate) jwt: Jwt,
    /// Otherwise a flight has just brought it.
    pub(crate) from_cache: bool,
    /// What the clock said when it was found in the cache, or its flight began.
    at: ClockReading,
}

impl Served {
    fn from_cache(jwt: Jwt, at: ClockReading) -> Self {
        Self { jwt, from_cache: true, at }
    }

    fn by(flight: &Fetch, jwt: Jwt) -> Self {
        Self { jwt, from_cache: false, at: flight.started }
    }
}

impl TokenCache {
    pub(crate) fn new(config: CacheConfig) -> Self {
        Self { inner: Arc::new(Inner::new(config)) }
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
            Found::Cached { served, .. } => Ok(served),
            Found::Fetched(result) => result,
            Found::Awaited(waiter) => waiter.await,
        }
        .map(|served| served.jwt)
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
            flights.remove_all()
        };
        flights.for_each(|flight| flight.detach());
    }

    /// What the cache has done so far.
    #[must_use]
    pub fn stats(&self) -> TokenCacheStats {
        let counters = &self.inner.counters;
        TokenCacheStats {
            hits: counters.hits.get(),
            misses: counters.misses.get(),
            coalesced: counters.coalesced.get(),
            fetches: counters.fetches.get(),
            refreshes: counters.refreshes.get(),
            failures: counters.failures.get(),
            rejected: counters.rejected.get(),
            replays: counters.replays.get(),
            entries: self.inner.store.len() as u64,
            clock_offset: self.inner.clock.offset(),
        }
    }

    pub(crate) fn count_replay(&self) {
        self.inner.counters.replays.add();
    }

    /// A token for `params`: at once out of the cache, otherwise from the flight that fetches it (rule C1).
    pub(crate) fn find(&self, params: &AuthParams) -> Found {
        // The clock is read after the entry is had: read before, it could be behind the start of a flight that landed in between, and
        // the newest of tokens would look as if the clock had gone back.
        let entry = self.inner.store.get(params);
        let at = self.inner.clock.read();
        if let Some(entry) = entry {
            let beside = match entry.standing(at.corrected()) {
                Freshness::Expired => return self.fetch(params, Some(&entry), at),
                Freshness::RefreshDue => self.refresh(params, &entry, at),
                Freshness::Fresh if entry.is_adrift() => self.adrift(params),
                Freshness::Fresh => None,
            };
            self.inner.counters.hits.add(params.keyed_hash());
            return Found::Cached { served: Served::from_cache(entry.jwt().clone(), at), beside };
        }
        self.fetch(params, None, at)
    }

    fn fetch(&self, params: &AuthParams, stale: Option<&Arc<Entry>>, at: ClockReading) -> Found {
        let counters = &self.inner.counters;
        let (flight, waiter) = match self.board(params, Saw::NoneUsable(stale), at.raw) {
            Boarded::Cached(jwt) => {
                counters.hits.add(params.keyed_hash());
                return Found::Cached { served: Served::from_cache(jwt, at), beside: None };
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
            (Some(Outcome::Token(jwt)), _) => Found::Fetched(Ok(Served::by(&flight, jwt))),
            (Some(Outcome::Failed(error)), _) => Found::Fetched(Err(error)),
            (_, Some(waiter)) => Found::Awaited(waiter),
            (_, None) => Found::Awaited(Waiter::new(self.clone(), flight)),
        }
    }

    /// Starts the refresh of a token that is still good, if this caller is the one to do so (rule D2).
    fn refresh(&self, params: &AuthParams, entry: &Arc<Entry>, at: ClockReading) -> Option<Waiter> {
        let now = at.corrected();
        if !entry.claim_refresh(now, now + self.inner.fetch_timeout) {
            return None;
        }
        match self.board(params, Saw::RefreshDue(entry), at.raw) {
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
                entry.refresh_failed(now, error.retry_after());
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

    /// Compares the clock with Aiuta's, which showed `date` when it refused `served`, and answers whether that token was made by a wrong
    /// clock (rule H1).
    ///
    /// To be called before [`reject`](Self::reject): whatever is fetched once the token is forgotten is made by the right clock.
    pub(crate) fn compare_clocks(&self, served: &Served, date: SystemTime) -> bool {
        self.inner.clock.compare(served.at, date)
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
                // Another request was here first: the flight that replaces this token, or one that was in use beside it, goes on
                // (rule E4). It may bring back neither: `keep` sees to that.
                None => match flights.get(params).and_then(|flight| flight.replaces()) {
                    Some(replaced) if replaced.same_as(jwt) => return,
                    Some(_) => return inner.rejected.insert(params.clone(), jwt.clone()),
                    None => {}
                },
            }
            inner.rejected.insert(params.clone(), jwt.clone());
            flights.remove(params)
        };
        if let Some(flight) = flight {
            flight.detach();
        }
    }
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// Locks, poisoned or not: no code that can panic runs under our locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
