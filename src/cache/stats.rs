//! The counters of the cache. Every lookup of a token increments at least one of them. [`TokenCacheStats`] contains
//! their values.

use crate::metrics::{Counter, StripedCounters};

/// Statistics of a token cache, from [`TokenCache::stats`](super::TokenCache::stats).
///
/// All fields are counters since the cache was created, except for [`entries`](Self::entries) and
/// [`clock_offset`](Self::clock_offset). The counters are read one after the other, so counters that belong together
/// can differ slightly while requests are running.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenCacheStats {
    /// Number of times that a token was served from the cache.
    pub hits: u64,
    /// Number of times that a token was needed and the cache had none that could be used.
    pub misses: u64,
    /// Number of misses that joined a fetch that was already running.
    pub coalesced: u64,
    /// Number of calls of the token source.
    pub fetches: u64,
    /// Number of fetches that started to refresh a valid token.
    pub refreshes: u64,
    /// Number of fetches that returned no token: errors, panics and timeouts.
    pub failures: u64,
    /// Number of times that Aiuta answered 401 to a token.
    pub rejected: u64,
    /// Number of requests that were sent a second time, with another token.
    pub replays: u64,
    /// Number of tokens in the cache now.
    pub entries: u64,
    /// Number of seconds that the layer adds to its clock now, because Aiuta's clock is ahead. Negative if Aiuta's
    /// clock is behind. Anything but 0 means that this machine's clock should be fixed.
    pub clock_offset: i64,
}

/// The counters of one cache. [`TokenCacheStats`] describes them.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) hits: StripedCounters<1>,
    pub(crate) misses: Counter,
    pub(crate) coalesced: Counter,
    pub(crate) fetches: Counter,
    pub(crate) refreshes: Counter,
    pub(crate) failures: Counter,
    pub(crate) rejected: Counter,
    pub(crate) replays: Counter,
}
