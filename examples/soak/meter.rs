//! What happened, second by second.

use tokio::runtime::Handle;
use tower_aiuta_auth::TokenCacheStats;

use crate::MEMORY;
use crate::findings::{Findings, Invariant};
use crate::ledger::Ledger;
use crate::world::{FLOOD_ASKS, World};

/// All counts at one moment.
#[derive(Clone, Default)]
pub(crate) struct Reading {
    pub(crate) stats: TokenCacheStats,
    pub(crate) requests: u64,
    pub(crate) try_ons: u64,
    pub(crate) starts: u64,
    pub(crate) uploads: u64,
    pub(crate) redirects: u64,
    pub(crate) foreign: u64,
    pub(crate) unauthorized: u64,
    pub(crate) failed: u64,
    pub(crate) given_up: u64,
    pub(crate) cut: u64,
    pub(crate) disconnected: u64,
    pub(crate) flood_keys: u64,
    pub(crate) revocations: u64,
    pub(crate) invalidations: u64,
    pub(crate) clears: u64,
    pub(crate) rotations: u64,
    pub(crate) clock_steps: u64,
    pub(crate) offsets: u64,
    /// Of the source, as the source counts them.
    pub(crate) source_calls: u64,
    pub(crate) good_calls: u64,
    pub(crate) open: usize,
    memory: usize,
}

impl Reading {
    pub(crate) fn take(world: &World, stats: &TokenCacheStats, ledger: &Ledger) -> Self {
        let counts = &world.counts;
        Self {
            stats: *stats,
            requests: counts.requests.get(),
            try_ons: counts.try_ons.get(),
            starts: counts.accepted_starts.get(),
            uploads: counts.accepted_uploads.get(),
            redirects: counts.redirects.get(),
            foreign: counts.foreign.get(),
            unauthorized: counts.unauthorized.get(),
            failed: counts.failed.get(),
            given_up: counts.given_up.get(),
            cut: counts.cut.get(),
            disconnected: counts.disconnected.get(),
            flood_keys: counts.flood_asks.get().div_ceil(FLOOD_ASKS),
            revocations: counts.revocations.get(),
            invalidations: counts.invalidations.get(),
            clears: counts.clears.get(),
            rotations: counts.rotations.get(),
            clock_steps: counts.clock_steps.get(),
            offsets: counts.offsets.get(),
            source_calls: ledger.calls.get(),
            good_calls: ledger.good.get(),
            open: ledger.open(),
            memory: MEMORY.current_usage(),
        }
    }

    pub(crate) fn check_bounds(&self, findings: &Findings, max_tokens: usize, max_concurrent_fetches: usize) {
        let tokens = self.stats.entries;
        findings.check(Invariant::Bounds, tokens <= max_tokens as u64, || format!("{tokens} tokens of {max_tokens}"));
        // A flight is over a moment before its call is dropped, if a thread is just polling that.
        let most = max_concurrent_fetches + Handle::current().metrics().num_workers();
        findings.check(Invariant::Bounds, self.open <= most, || {
            format!("{} flights of {max_concurrent_fetches}", self.open)
        });
    }

    /// Everything that has to happen in a storm that is to prove something.
    pub(crate) fn happenings(&self) -> [(&'static str, u64); 20] {
        [
            ("hits", self.stats.hits),
            ("misses", self.stats.misses),
            ("coalesced", self.stats.coalesced),
            ("refreshes", self.stats.refreshes),
            ("failures of the source", self.stats.failures),
            ("401s", self.unauthorized),
            ("replays", self.stats.replays),
            ("operations started", self.starts),
            ("uploads", self.uploads),
            ("redirects", self.redirects),
            ("requests to the foreign host", self.foreign),
            ("calls given up", self.given_up),
            ("connections cut", self.cut),
            ("keys of floods", self.flood_keys),
            ("revocations", self.revocations),
            ("invalidations", self.invalidations),
            ("clears", self.clears),
            ("rotations", self.rotations),
            ("clock steps", self.clock_steps),
            ("clocks made up for", self.offsets),
        ]
    }
}

/// Prints a line for each reading: what came to pass since the one before.
pub(crate) struct Meter {
    lines: u64,
    last: Reading,
    quiet: bool,
}

impl Meter {
    pub(crate) fn new(quiet: bool) -> Self {
        Self { lines: 0, last: Reading::default(), quiet }
    }

    pub(crate) fn line(&mut self, now: &Reading) {
        let last = std::mem::replace(&mut self.last, now.clone());
        self.lines += 1;
        if self.quiet {
            return;
        }
        if self.lines % 20 == 1 {
            println!(
                "{:>4} {:>6} {:>6} {:>6} {:>7} {:>7} {:>5} {:>7} {:>6} {:>8} {:>4} {:>6} {:>7} {:>8}",
                "s",
                "req/s",
                "hits",
                "misses",
                "fetches",
                "refresh",
                "401s",
                "replays",
                "failed",
                "given up",
                "cut",
                "floods",
                "flights",
                "memory"
            );
        }
        println!(
            "{:>4} {:>6} {:>6} {:>6} {:>7} {:>7} {:>5} {:>7} {:>6} {:>8} {:>4} {:>6} {:>7} {:>4} MiB",
            self.lines,
            now.requests - last.requests,
            now.stats.hits - last.stats.hits,
            now.stats.misses - last.stats.misses,
            now.stats.fetches - last.stats.fetches,
            now.stats.refreshes - last.stats.refreshes,
            now.unauthorized - last.unauthorized,
            now.stats.replays - last.stats.replays,
            now.failed - last.failed,
            now.given_up - last.given_up,
            now.cut - last.cut,
            now.flood_keys - last.flood_keys,
            now.open,
            now.memory >> 20,
        );
    }
}
