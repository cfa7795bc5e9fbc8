//! How many calls of the source the events justify.

use std::time::Duration;

use crate::findings::{Findings, Invariant};
use crate::meter::Reading;

/// Every call of the source is for params of which there is no usable token and no flight, or whose token nears its end. Each has one of these
/// reasons, and each reason is counted where it happens, not by the layer (N callers, K keys that are asked for all the time):
///
/// - **first**: nobody has asked for these params before. K, and the keys of floods.
/// - **again**: the last call for them brought nothing.
/// - **refused**: their token was answered with 401. Once for each 401: those that come later find another token, or a flight.
/// - **forgotten**: they were invalidated, one for each time; or all was cleared, which is one for each of K, and one for each flood's key
///   that somebody is just asking for.
/// - **time**: a token is renewed when 0.4 of its time is over, or soon afterwards. If a clock is set, the tokens of all keys may be
///   over, or from the future. Where the layer makes up for clocks that differ, its own idea of time changes with that, and twice more if an
///   answer from before comes after one from now.
/// - **evicted**: each key of a flood may push out another token. (One of K that comes back pushes out one that is not asked for any more;
///   a cache that does otherwise is none.)
///
/// It is an upper bound, and no tight one: it finds a layer that calls the source where it need not. That two calls for the same params are never
/// open at once is looked at by [`Ledger`](crate::ledger::Ledger), call by call.
pub(crate) struct Bound {
    pub(crate) calls: u64,
    terms: [(&'static str, u64); 6],
}

/// A token of 4 s may lack the last of them, since `exp` is in whole seconds; a tenth of the rest is margin, and 0.4 of what is left then are a little
/// more than this.
const RENEWAL: Duration = Duration::from_secs(1);

impl Bound {
    pub(crate) fn of(seen: &Reading, keys: u64, callers: u64, elapsed: Duration) -> Self {
        let renewals = elapsed.as_secs() / RENEWAL.as_secs() + 1;
        let all_keys = keys + callers;
        Self {
            calls: seen.source_calls,
            terms: [
                ("first", keys + seen.flood_keys),
                ("again", seen.source_calls - seen.good_calls),
                ("refused", seen.unauthorized),
                ("forgotten", seen.invalidations + seen.clears * all_keys),
                ("time", renewals * keys + 4 * seen.clock_steps * all_keys),
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

    pub(crate) fn check(&self, findings: &Findings) {
        findings.check(Invariant::CallsAreJustified, self.calls <= self.sum(), || {
            format!("{} calls, where {} give reason for {}", self.calls, self.terms(), self.sum())
        });
    }
}
