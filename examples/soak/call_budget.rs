//! An upper bound on the number of calls of the token source, derived from the events of a run.

use std::time::Duration;

use crate::invariants::{Invariant, Violations};
use crate::progress::Snapshot;

/// An upper bound on the number of calls of the token source.
///
/// The source may only be called for params that have no usable token and no running fetch, or whose token is about to
/// expire. Each such call has one of the reasons below. Each reason is counted where it occurs, not by the layer. With
/// K frequently used keys:
///
/// - **first**: the params have not been requested before. K, plus the keys of floods.
/// - **again**: the last call for these params failed.
/// - **rejected**: the token was answered with 401. One call for each such token: later requests find another token, or
///   join a fetch, or carry the rejected one.
/// - **unusable**: the source returned a token that has expired or was rejected, so it is called a second time, and
///   that token is not cached.
/// - **cached**: the source returned a token from its own cache, which has less time left.
/// - **beside**: a caller without a runtime does not join a fetch that a task drives.
/// - **invalidated**: the params were invalidated, one call each; or the cache was cleared, one call for each of the K
///   keys and for each flood key that a caller is requesting at that moment.
/// - **time**: a token is refreshed once 0.4 of its lifetime has passed, or shortly afterwards. After a clock step, the
///   tokens of all keys may have expired or lie in the future, and so may those that are being fetched.
/// - **evicted**: each key of a flood may evict another token. (A frequently used key that comes back evicts one that
///   is no longer used.)
///
/// The bound is not tight: it detects a layer that calls the source without need. That no two calls for the same params
/// are open at once is checked for each call, in [`SourceCalls`](crate::source_calls::SourceCalls).
pub(crate) struct CallBudget {
    pub(crate) calls: u64,
    terms: [(&'static str, u64); 9],
}

/// Shortest time between two refreshes of a token. A token of 4 s can lose up to 1 s, because `exp` is in whole
/// seconds. A tenth of the rest is margin, and 0.4 of the remainder is slightly more than this.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

impl CallBudget {
    pub(crate) fn of(seen: &Snapshot, keys: u64, callers: u64, elapsed: Duration) -> Self {
        let refreshes = elapsed.as_secs() / REFRESH_INTERVAL.as_secs() + 1;
        let all_keys = keys + callers;
        Self {
            calls: seen.source_calls,
            terms: [
                ("first", keys + seen.flood_keys),
                ("again", seen.source_calls - seen.successful_calls),
                ("rejected", seen.rejected_tokens),
                ("unusable", 2 * seen.unusable),
                ("cached", seen.out_of_cache),
                ("beside", seen.beside),
                ("invalidated", seen.invalidations + seen.clears * all_keys),
                ("time", refreshes * keys + 2 * seen.clock_steps * all_keys),
                ("evicted", seen.flood_keys),
            ],
        }
    }

    pub(crate) fn sum(&self) -> u64 {
        self.terms.iter().map(|(_, calls)| calls).sum()
    }

    /// `first 10 + again 2 + …`
    pub(crate) fn terms(&self) -> String {
        let terms: Vec<_> = self.terms.iter().map(|(name, calls)| format!("{name} {calls}")).collect();
        terms.join(" + ")
    }

    pub(crate) fn check(&self, violations: &Violations) {
        violations.check(Invariant::SourceCallBudget, self.calls <= self.sum(), || {
            format!("{} calls; allowed: {} = {}", self.calls, self.terms(), self.sum())
        });
    }
}
