//! [`TokenCache`]: a cache of tokens by params, and the fetches that fill it.
//!
//! It knows nothing of HTTP. A hit reads the clock, looks the key up and clones a pointer to the token. Everything else
//! goes through [`TokenCache::join_or_start`], under one lock that is never held while foreign code runs.
//!
//! ```text
//! lookup ─┬─ Fresh ─────────────────────────────────▶ the token
//!         ├─ RefreshDue ─▶ refresh_ahead ───────────▶ the token          (a task drives the fetch)
//!         └─ missing or Expired ─▶ fetch ─▶ join_or_start
//!                                    ├─ Cached ─────▶ Lookup::Ready      (another fetch has just completed)
//!                                    ├─ Stopgap ────▶ Lookup::Ready      (a rejected token: too early for another)
//!                                    ├─ Joined ─────▶ Lookup::Waiting
//!                                    └─ Started ─▶ poll_first ─┬─ the source was ready ─▶ Lookup::Ready
//!                                                              └─ pending ──────────────▶ Lookup::Waiting
//! ```

mod clock;
mod cooldown;
mod entry;
mod fetch;
mod join;
mod rejection;
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
use std::time::{Duration, SystemTime};

use self::clock::ClockReading;
use self::entry::{Entry, Freshness};
use self::fetch::{Fetch, Outcome};
use self::join::{Demand, Join};
use self::runtime::Pause;
use self::state::CacheState;
use crate::error::AuthError;
use crate::jwt::Jwt;
use crate::params::AuthParams;
use crate::source::FetchReason;
use crate::sync::{Mutex, MutexGuard};

pub(crate) use self::clock::Offset;
pub(crate) use self::entry::ExpiryPolicy;
pub(crate) use self::runtime::is_entered as is_on_runtime;
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

/// A token for one request, and what is needed to judge the response to it.
pub(crate) struct ResolvedToken {
    entry: Arc<Entry>,
    /// When it was found in the cache, or its fetch started, by the clock that it was made by.
    at: ClockReading,
    origin: TokenOrigin,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum TokenOrigin {
    Cache,
    /// Fetched for this request.
    Fetch,
    /// Fetched for this request, and expired when it arrived (rule D4).
    ExpiredFetch,
    /// A token that was rejected before, since it is too early to fetch another (rule E5).
    Stopgap,
}

impl ResolvedToken {
    fn found(entry: Arc<Entry>, now: SystemTime, origin: TokenOrigin) -> Self {
        Self { at: entry.made.later(now), entry, origin }
    }

    pub(crate) fn jwt(&self) -> &Jwt {
        self.entry.jwt()
    }

    /// Returns whether another request may be answered differently than the one that carried `rejected`.
    pub(crate) fn is_better_than(&self, rejected: &Self) -> bool {
        self.origin != TokenOrigin::Stopgap && !self.jwt().same_as(rejected.jwt())
    }
}

/// There is no token in the cache that can be used.
pub(crate) struct Miss {
    expired: Option<Arc<Entry>>,
    now: SystemTime,
    offset: Option<Offset>,
}

/// The token that replaces a rejected one.
#[derive(Clone, Copy)]
pub(crate) struct Replacement {
    /// The offset to make it by, if the rejected one was made by a wrong clock.
    pub(crate) offset: Option<Offset>,
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
    /// If there was a token, the source is asked with [`force_refresh`](crate::TokenRequest::force_refresh), and can't
    /// bring that token back. Requests that wait for a running fetch still get its result. Returns whether there was
    /// anything to forget.
    #[allow(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn invalidate(&self, params: &AuthParams) -> bool {
        let state = &*self.state;
        let (token, fetch) = {
            let mut in_flight = lock(&state.in_flight);
            state.rejections.reset(params);
            let token = state.store.remove(params).map(|(_, entry)| entry);
            if let Some(entry) = &token {
                state.rejections.invalidate(params, entry);
            }
            (token, in_flight.remove(params))
        };
        let forgotten = token.is_some() || fetch.is_some();
        if let Some(fetch) = fetch {
            fetch.detach();
        }
        forgotten
    }

    /// Forgets all tokens and all running fetches, as [`invalidate`](Self::invalidate) does for one.
    pub fn clear(&self) {
        let state = &*self.state;
        let now = state.clock.raw();
        let fetches = {
            let mut in_flight = lock(&state.in_flight);
            state.rejections.reset_all();
            let mut longest = Duration::ZERO;
            for (params, entry) in state.store.iter() {
                state.rejections.invalidate(&params, &entry);
                longest = longest.max(entry.usable_left(now));
            }
            // More keys than the rejections remember: until the tokens would have expired, every fetch is a forced one.
            in_flight.forced_until = Some(Pause::new(longest, now));
            state.store.clear();
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

    /// Looks up the token for `params`, and fetches one if there is none that can be used.
    pub(crate) fn get_or_fetch(&self, params: &AuthParams) -> Lookup {
        match self.lookup(params) {
            Ok(token) => Lookup::ready(Ok(token)),
            Err(miss) => self.fetch(params, miss),
        }
    }

    /// Looks up the token for `params`, and has a task refresh it if that is due.
    ///
    /// # Errors
    ///
    /// A [`Miss`] if there is no token that can be used, to be given to [`fetch`](Self::fetch).
    pub(crate) fn lookup(&self, params: &AuthParams) -> Result<ResolvedToken, Miss> {
        // The clock is read after the lookup. Read before, it could be behind the start of a fetch that completes in
        // between, and the newest token would look as if the clock had gone back.
        let entry = self.state.store.get(params);
        let now = self.state.clock.raw();
        let Some(entry) = entry else { return Err(Miss { expired: None, now, offset: None }) };
        match entry.freshness(now) {
            Freshness::Fresh => {}
            Freshness::RefreshDue => self.refresh_ahead(params, &entry, now),
            Freshness::Expired => return Err(Miss { expired: Some(entry), now, offset: None }),
        }
        Ok(self.hit(params, entry, now))
    }

    fn hit(&self, params: &AuthParams, entry: Arc<Entry>, now: SystemTime) -> ResolvedToken {
        self.state.counters.hits.add(params.keyed_hash());
        ResolvedToken::found(entry, now, TokenOrigin::Cache)
    }

    /// Joins or starts the fetch of a token that is not in the cache (rule C1).
    pub(crate) fn fetch(&self, params: &AuthParams, miss: Miss) -> Lookup {
        let counters = &self.state.counters;
        let Miss { expired, now, offset } = miss;
        let demand = Demand { params, seen: expired.as_ref(), reason: FetchReason::Miss, now, offset };
        let join = |fetch: &Arc<Fetch>| FetchFuture::new(self.clone(), Arc::clone(fetch));
        let waiting = match self.join_or_start(demand, join) {
            Ok(Join::Cached(entry)) => return Lookup::ready(Ok(self.hit(params, entry, now))),
            Ok(Join::Stopgap(entry)) => {
                counters.misses.add();
                return Lookup::ready(Ok(ResolvedToken::found(entry, now, TokenOrigin::Stopgap)));
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
            Some(Outcome::Token(entry)) => Lookup::ready(Ok(self.fetched(entry))),
            Some(Outcome::Failed(error)) => Lookup::ready(Err(error)),
            Some(Outcome::Cancelled) | None => Lookup::Waiting(waiting),
        }
    }

    fn fetched(&self, entry: Arc<Entry>) -> ResolvedToken {
        let is_expired = entry.is_expired(self.state.clock.raw());
        let origin = if is_expired { TokenOrigin::ExpiredFetch } else { TokenOrigin::Fetch };
        ResolvedToken { at: entry.made, entry, origin }
    }

    /// Starts the refresh of a token that can still be used, if this caller is the one to do so (rule D2).
    ///
    /// Without a runtime nothing would drive that fetch, so there is none: the token is fetched again once it has
    /// expired (rule C3).
    fn refresh_ahead(&self, params: &AuthParams, entry: &Arc<Entry>, now: SystemTime) {
        if !runtime::is_entered() || !entry.claim_refresh(now, self.state.fetch_timeout) {
            return;
        }
        let demand = Demand { params, seen: Some(entry), reason: FetchReason::RefreshAhead, now, offset: None };
        match self.join_or_start(demand, |_| ()) {
            Ok(Join::Started(fetch, ())) => {
                self.state.counters.refreshes.add();
                self.poll_first(&fetch);
            }
            Ok(Join::Cached(_) | Join::Stopgap(_) | Join::Joined(())) => {}
            Err(error) if error.retry_after().is_some() => entry.refresh_failed(now, error.retry_after()),
            // Too many fetches are running. The claim lapses.
            Err(_) => {}
        }
    }

    /// Returns whether the time of a token is over that could be used when it was resolved: it should be replaced before
    /// it is sent (rule C2).
    pub(crate) fn has_expired_since(&self, token: &ResolvedToken) -> bool {
        matches!(token.origin, TokenOrigin::Cache | TokenOrigin::Fetch)
            && token.entry.is_expired(self.state.clock.raw())
    }

    /// Returns whether a response other than 401 to `token` has to be reported by [`on_accepted`](Self::on_accepted) and
    /// [`on_date`](Self::on_date). Most need not.
    pub(crate) fn is_watching(&self, token: &ResolvedToken) -> bool {
        token.entry.is_on_trial() || token.origin == TokenOrigin::Stopgap || self.state.clock.is_corrected()
    }

    /// Notes that the API accepted a token, which ends the waits after rejections (rule E5). `offset` is one that was to
    /// be tried: if the token was made by it, it has helped, and is adopted (rule H1).
    pub(crate) fn on_accepted(&self, params: &AuthParams, token: &ResolvedToken, offset: Option<Offset>) {
        if token.entry.end_trial() || token.origin == TokenOrigin::Stopgap {
            let _in_flight = lock(&self.state.in_flight);
            self.state.rejections.reset(params);
        }
        if let Some(offset) = offset.filter(|offset| token.entry.made.is_by(*offset)) {
            self.state.clock.adopt(offset);
        }
    }

    /// Notes the time of Aiuta's clock: an offset in force that it contradicts is void (rule H1).
    pub(crate) fn on_date(&self, date: SystemTime) {
        if self.state.clock.is_corrected() {
            self.state.clock.void_if_contradicted(date);
        }
    }

    /// Forgets the token that a request carried when it was answered with 401, and only that one (rule E1). `date` is
    /// that of the response. Returns how to fetch another one, if that can be expected to fare better (rules E2, H1):
    /// not if this one was fetched for this request by a right clock.
    pub(crate) fn on_rejected(
        &self,
        params: &AuthParams,
        token: &ResolvedToken,
        date: Option<SystemTime>,
    ) -> Option<Replacement> {
        self.state.counters.rejected.add();
        if token.origin == TokenOrigin::Stopgap {
            return None;
        }
        let offset = date.and_then(|date| self.state.clock.offset_to_try(token.at, date));
        self.reject(params, token);
        let was_old = token.origin == TokenOrigin::Cache || token.jwt().is_out_of_cache();
        let replace = offset.is_some() || was_old || token.entry.is_expired(self.state.clock.raw());
        replace.then_some(Replacement { offset })
    }

    /// Looks up the token for a replay.
    pub(crate) fn replace(&self, params: &AuthParams, replacement: Replacement) -> Lookup {
        match self.lookup(params) {
            Ok(token) => Lookup::ready(Ok(token)),
            Err(miss) => self.fetch(params, Miss { offset: replacement.offset, ..miss }),
        }
    }

    fn reject(&self, params: &AuthParams, token: &ResolvedToken) {
        let state = &*self.state;
        let (rejections, now) = (&state.rejections, state.clock.raw());
        let is_rejected = |entry: &Arc<Entry>| entry.jwt().same_as(token.jwt());
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
                        // The token was in use beside the one being replaced. Neither comes back into the cache.
                        Some(_) => return rejections.remember(params, &token.entry),
                        None => {}
                    }
                    // Another request was rejected first, and no other token could be fetched.
                    if rejections.get(params).is_some_and(|rejected| rejected.contains(token.jwt())) {
                        return;
                    }
                }
            }
            rejections.reject(params, &token.entry, now);
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
