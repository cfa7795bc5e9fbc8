//! Counters: written on the path of every request, read rarely.

use std::sync::atomic::{AtomicU64, Ordering};

/// What the cache of tokens has done so far, and how it stands: a snapshot, by [`TokenCache::stats`](super::TokenCache::stats).
///
/// The counters, all but the last two, only grow; they are read one after the other, not all at one instant.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenCacheStats {
    /// Tokens served from the cache.
    pub hits: u64,
    /// Times that a token was needed and none usable was in the cache.
    pub misses: u64,
    /// The misses among them that joined a fetch which was already running.
    pub coalesced: u64,
    /// Calls of the source.
    pub fetches: u64,
    /// The calls among them that ran ahead of a token's expiry.
    pub refreshes: u64,
    /// Calls of the source that brought no token: errors, panics, timeouts.
    pub failures: u64,
    /// Requests that Aiuta answered with 401 although they carried a token.
    pub rejected: u64,
    /// Requests sent a second time, with another token.
    pub replays: u64,
    /// Tokens in the cache now.
    pub entries: u64,
    /// What is added to the clock now, in seconds, since that is how far Aiuta's was found to be ahead of it; negative if it is behind.
    /// 0 is how it should be: another number means that this machine's clock wants to be set.
    pub clock_offset: i64,
}

/// One counter for events that happen on a cold path.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A counter in a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe(Counter);

/// A counter for the hot path: threads that use different keys seldom meet on one cache line.
#[derive(Debug, Default)]
pub(crate) struct StripedCounter([Stripe; 16]);

impl StripedCounter {
    pub(crate) fn add(&self, key_hash: u64) {
        self.0[(key_hash & 15) as usize].0.add();
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.iter().map(|stripe| stripe.0.get()).sum()
    }
}

/// All counters of one cache; their meaning stands at [`TokenCacheStats`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) hits: StripedCounter,
    pub(crate) misses: Counter,
    pub(crate) coalesced: Counter,
    pub(crate) fetches: Counter,
    pub(crate) refreshes: Counter,
    pub(crate) failures: Counter,
    pub(crate) rejected: Counter,
    pub(crate) replays: Counter,
}
