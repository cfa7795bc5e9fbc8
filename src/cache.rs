//! [`TokenCache`]: a cache of tokens by params, and the fetches that fill it.
//!
//! It knows nothing of HTTP. A hit reads the clock, looks the key up and clones a pointer to the token. Everything else
//! goes through [`TokenCache::join_or_start`], under one lock that is never held while foreign code runs.
//!
//! ```text
//! get_or_fetch ─┬─ Fresh ──────────────────────────────▶ Lookup::Ready
//!               ├─ RefreshDue ─▶ refresh_ahead ────────▶ Lookup::Ready    (a task drives the fetch)
//!               └─ missing or Expired ─▶ join_or_start
//!                                          ├─ Cached ──▶ Lookup::Ready    (another fetch has just completed)
//!                                          ├─ Joined ──▶ Lookup::Waiting
//!                                          └─ Started ─▶ poll_first ─┬─ the source was ready ─▶ Lookup::Ready
//!                                                                    └─ Lookup::Waiting
//! ```

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

/// Tries the schedules of all the above, with the checker's locks only (see docs/DESIGN.md, "How it is tested").
#[cfg(tower_aiuta_auth_model)]
#[path = "../tests/model/model.rs"]
mod model;

use std::fmt;
use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::SystemTime;

use self::clock::ClockReading;
use self::entry::{Entry, Freshness};
use self::fetch::{Fetch, Outcome};
use self::join::Join;
use self::state::CacheState;
use crate::error::AuthError;
use crate::jwt::Jwt;
use crate::params::AuthParams;
use crate::source::FetchReason;
use crate::sync::{Mutex, MutexGuard};

pub(crate) use self::entry::ExpiryPolicy;
pub(crate) use self::state::CacheConfig;
pub use self::stats::TokenCacheStats;
pub(crate) use self::wait::FetchFuture;

/// The tokens of a layer, by params: from [`AiutaAuthLayer::token_cache`](crate::AiutaAuthLayer::token_cache).
///
/// Requests use it by themselves. Use it directly to fetch a token before it is needed, to forget tokens that are known
/// to be revoked, and to read [statistics](TokenCacheStats). Clones are handles to the same cache.
///
/// ```
/// # use tower_aiuta_auth::{AiutaAuthLayer, AuthParams, BoxError, source_fn};
/// # async fn example(layer: AiutaAuthLayer) -> Result<(), BoxError> {
/// let tokens = layer.token_cache().ok_or("an API key needs no tokens")?;
/// let params = AuthParams::new().with("uploaded_image_id", "user_image-06f5948c").with("sku_id", "dress-1");
///
/// tokens.get(&params).await?; // the next request with these params finds its token in the cache
/// assert_eq!(tokens.stats().entries, 1);
///
/// tokens.invalidate(&params); // the next one asks the source again
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TokenCache {
    state: Arc<CacheState>,
}

/// The token for a request: ready, or being fetched.
pub(crate) enum Lookup {
    Ready(Ready<Result<ResolvedToken, AuthError>>),
    Waiting(FetchFuture),
}

impl Lookup {
    fn ready(result: Result<ResolvedToken, AuthError>) -> Self {
        Self::Ready(ready(result))
    }
}

impl Future for Lookup {
    type Output = Result<ResolvedToken, AuthError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Ready(ready) => Pin::new(ready).poll(cx),
            Self::Waiting(fetch) => Pin::new(fetch).poll(cx),
        }
    }
}

/// A token for one request, and what is needed to judge a 401 to it.
pub(crate) struct ResolvedToken {
    entry: Arc<Entry>,
    /// Whether it was in the cache. Otherwise it was fetched for this request.
    pub(crate) from_cache: bool,
    /// What the clock said when it was found in the cache, or when its fetch started.
    at: ClockReading,
}

impl ResolvedToken {
    fn cached(entry: Arc<Entry>, at: ClockReading) -> Self {
        Self { entry, from_cache: true, at }
    }

    fn fetched(fetch: &Fetch, entry: Arc<Entry>) -> Self {
        Self { entry, from_cache: false, at: fetch.started }
    }

    pub(crate) fn jwt(&self) -> &Jwt {
        self.entry.jwt()
    }

    #[cfg(tower_aiuta_auth_model)]
    pub(crate) fn for_model(jwt: Jwt, policy: &ExpiryPolicy) -> Self {
        let at = ClockReading::at(SystemTime::UNIX_EPOCH);
        Self::cached(Arc::new(Entry::new(jwt, at.raw, policy, 0)), at)
    }
}

impl TokenCache {
    pub(crate) fn new(config: CacheConfig) -> Self {
        Self { state: Arc::new(CacheState::new(config)) }
    }

    /// Returns the token for `params`, from the cache or from the source: the one that a request with these params
    /// would carry.
    ///
    /// # Errors
    ///
    /// Those of a request: [`TokenSource`](crate::AuthErrorKind::TokenSource),
    /// [`InvalidToken`](crate::AuthErrorKind::InvalidToken), [`FetchTimeout`](crate::AuthErrorKind::FetchTimeout),
    /// [`Overloaded`](crate::AuthErrorKind::Overloaded), and [`InvalidBody`](crate::AuthErrorKind::InvalidBody) for
    /// params over 4 KiB.
    pub async fn get(&self, params: &AuthParams) -> Result<Jwt, AuthError> {
        params.check_size()?;
        self.get_or_fetch(params).await.map(|token| token.jwt().clone())
    }

    /// Forgets the token for `params` and any fetch of it, so that the next request asks the source.
    ///
    /// Requests that wait for a running fetch still get its result. Returns whether there was anything to forget.
    #[allow(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn invalidate(&self, params: &AuthParams) -> bool {
        let (token, fetch) = {
            let mut in_flight = lock(&self.state.in_flight);
            (self.state.store.remove(params), in_flight.remove(params))
        };
        let forgotten = token.is_some() || fetch.is_some();
        if let Some(fetch) = fetch {
            fetch.detach();
        }
        forgotten
    }

    /// Forgets all tokens and all running fetches, as [`invalidate`](Self::invalidate) does for one.
    pub fn clear(&self) {
        let fetches = {
            let mut in_flight = lock(&self.state.in_flight);
            self.state.store.clear();
            in_flight.remove_all()
        };
        fetches.for_each(|fetch| fetch.detach());
    }

    /// Returns what the cache has done so far.
    #[must_use]
    pub fn stats(&self) -> TokenCacheStats {
        let counters = &self.state.counters;
        TokenCacheStats {
            hits: counters.hits.get(),
            misses: counters.misses.get(),
            coalesced: counters.coalesced.get(),
            fetches: counters.fetches.get(),
            refreshes: counters.refreshes.get(),
            failures: counters.failures.get(),
            rejected: counters.rejected.get(),
            replays: counters.replays.get(),
            entries: self.state.store.len() as u64,
            clock_offset: self.state.clock.offset(),
        }
    }

    pub(crate) fn count_replay(&self) {
        self.state.counters.replays.add();
    }

    /// Looks up the token for `params`. If there is none that can be used, joins or starts the fetch of one (rule C1).
    pub(crate) fn get_or_fetch(&self, params: &AuthParams) -> Lookup {
        // The clock is read after the lookup. Read before, it could be behind the start of a fetch that completes in
        // between, and the newest token would look as if the clock had gone back.
        let entry = self.state.store.get(params);
        let at = self.state.clock.read();
        let Some(entry) = entry else { return self.fetch(params, None, at) };
        match entry.freshness(at.corrected()) {
            Freshness::Fresh => {}
            Freshness::RefreshDue => self.refresh_ahead(params, &entry, at),
            Freshness::Expired => return self.fetch(params, Some(&entry), at),
        }
        self.state.counters.hits.add(params.keyed_hash());
        Lookup::ready(Ok(ResolvedToken::cached(entry, at)))
    }

    fn fetch(&self, params: &AuthParams, expired: Option<&Arc<Entry>>, at: ClockReading) -> Lookup {
        let counters = &self.state.counters;
        let join = |fetch: &Arc<Fetch>| FetchFuture::new(self.clone(), Arc::clone(fetch));
        let waiting = match self.join_or_start(params, expired, FetchReason::Miss, at.raw, join) {
            Ok(Join::Cached(entry)) => {
                counters.hits.add(params.keyed_hash());
                return Lookup::ready(Ok(ResolvedToken::cached(entry, at)));
            }
            Ok(Join::Joined(waiting)) => {
                counters.misses.add();
                counters.coalesced.add();
                waiting
            }
            Ok(Join::Started(fetch, waiting)) => {
                counters.misses.add();
                self.poll_first(&fetch);
                waiting
            }
            Err(error) => {
                counters.misses.add();
                return Lookup::ready(Err(error));
            }
        };
        match waiting.fetch().outcome() {
            Some(Outcome::Token(entry)) => Lookup::ready(Ok(ResolvedToken::fetched(waiting.fetch(), entry))),
            Some(Outcome::Failed(error)) => Lookup::ready(Err(error)),
            Some(Outcome::Cancelled) | None => Lookup::Waiting(waiting),
        }
    }

    /// Starts the refresh of a token that can still be used, if this caller is the one to do so (rule D2).
    ///
    /// Without a runtime nothing would drive that fetch, so there is none: the token is fetched again once it has
    /// expired (rule C3).
    fn refresh_ahead(&self, params: &AuthParams, entry: &Arc<Entry>, at: ClockReading) {
        let now = at.corrected();
        if !runtime::is_entered() || !entry.claim_refresh(now, now + self.state.fetch_timeout) {
            return;
        }
        match self.join_or_start(params, Some(entry), FetchReason::RefreshAhead, at.raw, |_| ()) {
            Ok(Join::Started(fetch, ())) => {
                self.state.counters.refreshes.add();
                self.poll_first(&fetch);
            }
            Ok(Join::Cached(_) | Join::Joined(())) => {}
            Err(error) if error.retry_after().is_some() => entry.refresh_failed(now, error.retry_after()),
            // Too many fetches are running. The claim lapses.
            Err(_) => {}
        }
    }

    /// Compares the clock with Aiuta's, which showed `date` when it rejected `token`. Returns whether that token was made
    /// by a wrong clock (rule H1).
    ///
    /// To be called before [`reject`](Self::reject), so that the next token is made by the corrected clock.
    pub(crate) fn compare_clocks(&self, token: &ResolvedToken, date: SystemTime) -> bool {
        self.state.clock.compare(token.at, date)
    }

    /// Forgets the token that a request carried when it was answered with 401, and only that one (rule E1).
    pub(crate) fn reject(&self, params: &AuthParams, token: &ResolvedToken) {
        let state = &*self.state;
        let is_rejected = |entry: &Arc<Entry>| entry.jwt().same_as(token.jwt());
        state.counters.rejected.add();
        let fetch = {
            let mut in_flight = lock(&state.in_flight);
            match state.store.get(params) {
                Some(entry) if is_rejected(&entry) => drop(state.store.remove(params)),
                // A newer one stays.
                Some(_) => return,
                None => {
                    let replacing = in_flight.get(params).filter(|fetch| fetch.reason == FetchReason::Rejected);
                    match replacing.and_then(|fetch| fetch.replaces.as_ref()) {
                        // Another request was rejected first, and this fetch replaces the token (rule E4).
                        Some(replaced) if is_rejected(replaced) => return,
                        // The token was in use beside the one being replaced. `admit` takes neither back.
                        Some(_) => return state.rejected.insert(params.clone(), Arc::clone(&token.entry)),
                        None => {}
                    }
                }
            }
            state.rejected.insert(params.clone(), Arc::clone(&token.entry));
            in_flight.remove(params)
        };
        if let Some(fetch) = fetch {
            fetch.detach();
        }
    }
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// Locks, poisoned or not: nothing that can panic runs under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
