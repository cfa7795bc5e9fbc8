//! Snapshots of all counters, printed once a second.

use tokio::runtime::Handle;
use tower_aiuta_auth::TokenCacheStats;

use crate::MEMORY;
use crate::invariants::{Invariant, Violations};
use crate::runtimes::THREADS;
use crate::shared::{REQUESTS_PER_FLOOD_KEY, Shared};
use crate::source::SourceCounts;
use crate::source_calls::SourceCalls;

/// The value of every counter at one moment.
#[derive(Clone, Default)]
pub(crate) struct Snapshot {
    pub(crate) stats: TokenCacheStats,
    pub(crate) requests: u64,
    pub(crate) try_ons: u64,
    pub(crate) starts: u64,
    pub(crate) uploads: u64,
    pub(crate) redirects: u64,
    pub(crate) untrusted_requests: u64,
    pub(crate) unauthorized: u64,
    pub(crate) rejected_tokens: u64,
    pub(crate) stopgaps: u64,
    pub(crate) false_dates: u64,
    pub(crate) trials: u64,
    pub(crate) voided_offsets: u64,
    pub(crate) slow: u64,
    pub(crate) calls_on_undriven: u64,
    pub(crate) calls_without_runtime: u64,
    pub(crate) shutdowns: u64,
    pub(crate) out_of_cache: u64,
    pub(crate) unusable: u64,
    pub(crate) without_age: u64,
    pub(crate) second_calls: u64,
    pub(crate) beside: u64,
    pub(crate) abandoned: u64,
    pub(crate) failed: u64,
    pub(crate) dropped: u64,
    pub(crate) cut: u64,
    pub(crate) disconnected: u64,
    pub(crate) flood_keys: u64,
    pub(crate) revocations: u64,
    pub(crate) invalidations: u64,
    pub(crate) clears: u64,
    pub(crate) rotations: u64,
    pub(crate) clock_steps: u64,
    pub(crate) offsets: u64,
    /// Calls of the token source, as the source counts them.
    pub(crate) source_calls: u64,
    pub(crate) successful_calls: u64,
    pub(crate) open: usize,
    memory: usize,
}

impl Snapshot {
    pub(crate) fn take(
        shared: &Shared,
        stats: &TokenCacheStats,
        source_calls: &SourceCalls,
        source: &SourceCounts,
    ) -> Self {
        let counts = &shared.counts;
        Self {
            stats: *stats,
            requests: counts.requests.get(),
            try_ons: counts.try_ons.get(),
            starts: counts.accepted_starts.get(),
            uploads: counts.accepted_uploads.get(),
            redirects: counts.redirects.get(),
            untrusted_requests: counts.untrusted_requests.get(),
            unauthorized: counts.unauthorized.get(),
            rejected_tokens: counts.rejected_tokens.get(),
            stopgaps: counts.stopgaps.get(),
            false_dates: counts.false_dates.get(),
            trials: source.trials.get(),
            voided_offsets: counts.voided_offsets.get(),
            slow: counts.slow.get(),
            calls_on_undriven: counts.calls_on_undriven.get(),
            calls_without_runtime: counts.calls_without_runtime.get(),
            shutdowns: counts.shutdowns.get(),
            out_of_cache: source.out_of_cache.get(),
            unusable: source.unusable.get(),
            without_age: source.without_age.get(),
            second_calls: source_calls.second_calls.get(),
            beside: source_calls.beside.get(),
            abandoned: source_calls.abandoned.get(),
            failed: counts.failed.get(),
            dropped: counts.dropped.get(),
            cut: counts.cut.get(),
            disconnected: counts.disconnected.get(),
            flood_keys: counts.flood_requests.get().div_ceil(REQUESTS_PER_FLOOD_KEY),
            revocations: counts.revocations.get(),
            invalidations: counts.invalidations.get(),
            clears: counts.clears.get(),
            rotations: counts.rotations.get(),
            clock_steps: counts.clock_steps.get(),
            offsets: counts.offsets.get(),
            source_calls: source_calls.calls.get(),
            successful_calls: source_calls.succeeded.get(),
            open: source_calls.open(),
            memory: MEMORY.current_usage(),
        }
    }

    pub(crate) fn check_limits(&self, violations: &Violations, max_tokens: usize, max_concurrent_fetches: usize) {
        let tokens = self.stats.entries;
        violations.check(Invariant::CacheLimits, tokens <= max_tokens as u64, || {
            format!("{tokens} tokens, limit {max_tokens}")
        });
        // A fetch can end a moment before its call is dropped, while a thread still polls that call. A thread that
        // replaces a fetch that is past its deadline ends that one a moment later.
        let most = max_concurrent_fetches + 2 * (Handle::current().metrics().num_workers() + THREADS);
        violations.check(Invariant::CacheLimits, self.open <= most, || {
            format!("{} open calls of the token source, limit {max_concurrent_fetches}", self.open)
        });
    }

    /// Returns the events that must occur in a full run.
    pub(crate) fn events(&self) -> [(&'static str, u64); 34] {
        [
            ("hits", self.stats.hits),
            ("misses", self.stats.misses),
            ("coalesced", self.stats.coalesced),
            ("refreshes", self.stats.refreshes),
            ("failed fetches", self.stats.failures),
            ("401s", self.unauthorized),
            ("replays", self.stats.replays),
            ("operations started", self.starts),
            ("uploads", self.uploads),
            ("redirects", self.redirects),
            ("requests to the untrusted host", self.untrusted_requests),
            ("calls dropped", self.dropped),
            ("connections cut", self.cut),
            ("flood keys", self.flood_keys),
            ("revocations", self.revocations),
            ("invalidations", self.invalidations),
            ("clears", self.clears),
            ("rotations", self.rotations),
            ("clock steps", self.clock_steps),
            ("401s with a false date", self.false_dates),
            ("offsets tried", self.trials),
            ("offsets adopted", self.offsets),
            ("offsets voided", self.voided_offsets),
            ("rejected tokens sent again", self.stopgaps),
            ("tokens without an age", self.without_age),
            ("tokens from the source's cache", self.out_of_cache),
            ("unusable tokens", self.unusable),
            ("second calls of the source", self.second_calls),
            ("calls beside a task's", self.beside),
            ("abandoned fetches", self.abandoned),
            ("slow services", self.slow),
            ("calls on undriven runtimes", self.calls_on_undriven),
            ("calls without a runtime", self.calls_without_runtime),
            ("runtimes shut down", self.shutdowns),
        ]
    }
}

/// Prints a line for each snapshot: the difference from the previous one.
pub(crate) struct Progress {
    lines: u64,
    last: Snapshot,
    quiet: bool,
}

impl Progress {
    pub(crate) fn new(quiet: bool) -> Self {
        Self { lines: 0, last: Snapshot::default(), quiet }
    }

    pub(crate) fn line(&mut self, now: &Snapshot) {
        let last = std::mem::replace(&mut self.last, now.clone());
        self.lines += 1;
        if self.quiet {
            return;
        }
        if self.lines % 20 == 1 {
            println!(
                "{:>4} {:>6} {:>6} {:>6} {:>7} {:>7} {:>5} {:>7} {:>6} {:>7} {:>4} {:>6} {:>4} {:>8}",
                "s",
                "req/s",
                "hits",
                "misses",
                "fetches",
                "refresh",
                "401s",
                "replays",
                "failed",
                "dropped",
                "cut",
                "floods",
                "open",
                "memory"
            );
        }
        println!(
            "{:>4} {:>6} {:>6} {:>6} {:>7} {:>7} {:>5} {:>7} {:>6} {:>7} {:>4} {:>6} {:>4} {:>4} MiB",
            self.lines,
            now.requests - last.requests,
            now.stats.hits - last.stats.hits,
            now.stats.misses - last.stats.misses,
            now.stats.fetches - last.stats.fetches,
            now.stats.refreshes - last.stats.refreshes,
            now.unauthorized - last.unauthorized,
            now.stats.replays - last.stats.replays,
            now.failed - last.failed,
            now.dropped - last.dropped,
            now.cut - last.cut,
            now.flood_keys - last.flood_keys,
            now.open,
            now.memory >> 20,
        );
    }
}
