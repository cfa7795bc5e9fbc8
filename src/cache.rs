//! [`TokenCache`]: a cache of tokens by params, and the fetches that fill it.
//!
//! This module does not depend on HTTP. A cache hit looks the key up, reads the clock and clones a pointer to the
//! token. All other paths go through [`TokenCache::join_or_start`], under one lock. Foreign code, such as a source, a
//! clock or a waker, never runs under this lock.
//!
//! ```text
//! lookup ─┬─ Fresh ─────────────────────────────────▶ the token
//!         ├─ RefreshDue ─▶ refresh_ahead ───────────▶ the token          (a task drives the fetch)
//!         └─ missing or Expired ─▶ fetch ─▶ join_or_start
//!                                    ├─ Cached ─────▶ Lookup::Ready      (another fetch has just completed)
//!                                    ├─ Stopgap ────▶ Lookup::Ready      (a rejected token: too early for another)
//!                                    ├─ Joined ─────▶ Lookup::Waiting
//!                                    └─ Started ─▶ drive ─┬─ ready ───▶ Lookup::Ready
//!                                                         └─ pending ─▶ Lookup::Waiting   (a task drives the fetch)
//! ```

mod clock;
mod cooldown;
mod entry;
mod feedback;
mod fetch;
mod join;
mod lookup;
mod recursion;
mod rejection;
mod runtime;
mod shared_call;
mod state;
mod stats;
mod store;
mod wait;

/// Tries the possible schedules of the modules above. Needs the locks of the model checker (see docs/DESIGN.md, "How it
/// is tested").
#[cfg(tower_aiuta_auth_model)]
#[path = "../tests/model/model.rs"]
mod model;

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use self::entry::{Entry, Freshness};
use self::fetch::{Fetch, Outcome};
use self::join::{Demand, Join};
use self::lookup::{Miss, TokenOrigin};
use self::runtime::Pause;
use self::state::CacheState;
use crate::error::AuthError;
use crate::jwt::Jwt;
use crate::params::AuthParams;
use crate::source::FetchReason;
use crate::sync::{Mutex, MutexGuard};

pub(crate) use self::entry::ExpiryPolicy;
pub(crate) use self::lookup::ResolvedToken;
#[cfg(feature = "reqwest-middleware")]
pub(crate) use self::runtime::Instant;
pub(crate) use self::runtime::is_entered as is_on_runtime;
pub(crate) use self::state::CacheConfig;
pub use self::stats::TokenCacheStats;
pub(crate) use self::wait::{FetchFuture, Lookup};

/// A layer's token cache, keyed by params. See [`AiutaAuthLayer::token_cache`](crate::AiutaAuthLayer::token_cache).
///
/// The layer looks up its tokens in this cache. Use the cache directly to fetch a token before a request needs it, to
/// forget tokens that have been revoked, and to read [statistics](TokenCacheStats). Clones are handles to the same
/// cache.
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

impl TokenCache {
    pub(crate) fn new(config: CacheConfig) -> Self {
        Self { state: Arc::new(CacheState::new(config)) }
    }

    /// Returns the token that a request with `params` would carry. It comes from the cache or from the source.
    ///
    /// # Errors
    ///
    /// Fails in the same cases as a request, with the kind [`TokenSource`](crate::AuthErrorKind::TokenSource),
    /// [`InvalidToken`](crate::AuthErrorKind::InvalidToken), [`FetchTimeout`](crate::AuthErrorKind::FetchTimeout) or
    /// [`Overloaded`](crate::AuthErrorKind::Overloaded). If the params do not fit into a token, the kind is
    /// [`InvalidBody`](crate::AuthErrorKind::InvalidBody). If the token source of this cache calls this method, the
    /// kind is [`Recursive`](crate::AuthErrorKind::Recursive).
    pub async fn get(&self, params: &AuthParams) -> Result<Jwt, AuthError> {
        params.check_size()?;
        self.get_or_fetch(params).await.map(|token| token.jwt().clone())
    }

    /// Forgets the token for `params` and any running fetch of it. The next request asks the source.
    ///
    /// If the cache had a token, the next fetch has [`force_refresh`](crate::TokenRequest::force_refresh), and the
    /// cache does not accept the same token again. Requests that wait for a running fetch still get its result. Returns
    /// whether the cache had a token or a running fetch for `params`.
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

    /// Forgets all tokens and all running fetches. [`invalidate`](Self::invalidate) does the same for one token.
    pub fn clear(&self) {
        let state = &*self.state;
        let now = state.clock.raw();
        let fetches = {
            let mut in_flight = lock(&state.in_flight);
            state.rejections.reset_all();
            let mut longest = in_flight.forced_until.and_then(|pause| pause.left(now)).unwrap_or_default();
            for (number, (params, entry)) in state.store.iter().enumerate() {
                if number < rejection::MAX_KEYS {
                    state.rejections.invalidate(&params, &entry);
                }
                longest = longest.max(entry.usable_left(now));
            }
            // The cache may have more keys than `rejections` can remember. So every fetch is forced until the last
            // forgotten token would have expired.
            in_flight.forced_until = Some(Pause::new(longest, now));
            state.store.clear();
            in_flight.remove_all()
        };
        fetches.for_each(|fetch| fetch.detach());
    }

    /// Returns the statistics of the cache.
    #[must_use]
    pub fn stats(&self) -> TokenCacheStats {
        let counters = &self.state.counters;
        TokenCacheStats {
            hits: counters.hits.get(0),
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

    /// Looks up the token for `params`. If the cache has no usable token, fetches one.
    pub(crate) fn get_or_fetch(&self, params: &AuthParams) -> Lookup {
        match self.lookup(params) {
            Ok(token) => token.into(),
            Err(miss) => self.fetch(params, miss),
        }
    }

    /// Looks up the token for `params`. If a refresh of the token is due, starts the refresh.
    ///
    /// # Errors
    ///
    /// Returns a [`Miss`] if the cache has no usable token. Pass the `Miss` to [`fetch`](Self::fetch).
    pub(crate) fn lookup(&self, params: &AuthParams) -> Result<ResolvedToken, Miss> {
        if recursion::is_polling(&self.state) {
            return Err(Miss { expired: None, now: self.state.clock.raw(), offset: None });
        }
        // The clock is read after the lookup. Otherwise a fetch could start and complete between the two, and its token
        // would be newer than `now`. The new token would then look expired, as after a clock that was set back.
        let entry = self.state.store.get(params);
        let now = self.state.clock.raw();
        let Some(entry) = entry else { return Err(Miss { expired: None, now, offset: None }) };
        match entry.freshness(now) {
            Freshness::Fresh => {}
            Freshness::RefreshDue => self.refresh_ahead(params, &entry, now),
            Freshness::Expired => return Err(Miss { expired: Some(entry), now, offset: None }),
        }
        Ok(self.hit(entry, now))
    }

    fn hit(&self, entry: Arc<Entry>, now: SystemTime) -> ResolvedToken {
        self.state.counters.hits.add(0);
        ResolvedToken::found(entry, now, TokenOrigin::Cache)
    }

    /// Joins or starts the fetch of a token that is not in the cache (rule C1). Fails if the token source needs the
    /// token (rule C7).
    pub(crate) fn fetch(&self, params: &AuthParams, miss: Miss) -> Lookup {
        if recursion::is_polling(&self.state) {
            return Lookup::ready(Err(AuthError::recursive()));
        }
        let counters = &self.state.counters;
        let Miss { expired, now, offset } = miss;
        let demand = Demand { params, seen: expired.as_ref(), reason: FetchReason::Miss, now, offset };
        let join = |fetch: &Arc<Fetch>| FetchFuture::new(self.clone(), Arc::clone(fetch));
        let waiting = match self.join_or_start(demand, join) {
            Ok(Join::Cached(entry)) => return Lookup::ready(Ok(self.hit(entry, now))),
            Ok(Join::Stopgap(entry)) => {
                counters.misses.add();
                return Lookup::ready(Ok(ResolvedToken::found(entry, now, TokenOrigin::Stopgap)));
            }
            Ok(Join::Joined(waiting)) => {
                counters.misses.add();
                counters.coalesced.add();
                waiting
            }
            Ok(Join::Started(waiting)) => {
                counters.misses.add();
                waiting
            }
            Err(error) => {
                counters.misses.add();
                return Lookup::ready(Err(error));
            }
        };
        match waiting.fetch().outcome() {
            Some(Outcome::Token(entry, origin)) => Lookup::ready(Ok(ResolvedToken::fetched(entry, origin))),
            Some(Outcome::Failed(error)) => Lookup::ready(Err(error)),
            Some(Outcome::Cancelled) | None => Lookup::Waiting(waiting),
        }
    }

    /// Starts the refresh of a valid token, unless another caller has claimed the refresh (rule D2).
    ///
    /// Without a runtime, nothing would drive the fetch, so no refresh is started. The token is fetched again after it
    /// has expired (rule C3).
    fn refresh_ahead(&self, params: &AuthParams, entry: &Arc<Entry>, now: SystemTime) {
        if !runtime::is_entered() || !entry.claim_refresh(now, self.state.fetch_timeout) {
            return;
        }
        let demand = Demand { params, seen: Some(entry), reason: FetchReason::RefreshAhead, now, offset: None };
        match self.join_or_start(demand, |_| ()) {
            Ok(Join::Started(())) => self.state.counters.refreshes.add(),
            Ok(Join::Cached(_) | Join::Stopgap(_) | Join::Joined(())) => {}
            Err(error) if error.retry_after().is_some() => entry.refresh_failed(now, error.retry_after()),
            // Too many fetches are running. The refresh is due again after `fetch_timeout`.
            Err(_) => {}
        }
    }
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// Locks the mutex, and ignores poisoning, because no code that can panic runs under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
