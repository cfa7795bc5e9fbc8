//! Counters of everything that happens in a run.

use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self) {
        self.next();
    }

    /// Increments the counter and returns its previous value.
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

#[derive(Default)]
pub(crate) struct Counts {
    /// Try-ons that callers requested. The value is also the number of the next call.
    pub(crate) try_ons: Count,
    /// Requests that arrived, replays and redirected requests included.
    pub(crate) requests: Count,
    pub(crate) accepted_starts: Count,
    pub(crate) accepted_uploads: Count,
    pub(crate) redirects: Count,
    pub(crate) untrusted_requests: Count,
    /// Connections that were cut on purpose.
    pub(crate) cut: Count,
    /// 401 responses, as the layer received them.
    pub(crate) unauthorized: Count,
    /// Tokens that were answered with 401.
    pub(crate) rejected_tokens: Count,
    /// 401 responses with a false date.
    pub(crate) false_dates: Count,
    /// Services that were slow to become ready.
    pub(crate) slow: Count,
    /// Calls on a runtime that is driven only during calls, and calls without a runtime.
    pub(crate) calls_on_undriven: Count,
    pub(crate) calls_without_runtime: Count,
    /// Runtimes that were shut down.
    pub(crate) shutdowns: Count,
    /// Rejected tokens that were sent again.
    pub(crate) stopgaps: Count,
    /// Number of times that the layer was seen to void an offset.
    pub(crate) voided_offsets: Count,
    /// Calls that their caller dropped before they ended.
    pub(crate) dropped: Count,
    /// Calls that ended in an error of the layer, because no token was available.
    pub(crate) failed: Count,
    /// Calls that ended in a connection error.
    pub(crate) disconnected: Count,
    /// Requests of floods. Each key has several of them.
    pub(crate) flood_requests: Count,
    pub(crate) revocations: Count,
    pub(crate) invalidations: Count,
    pub(crate) clears: Count,
    pub(crate) rotations: Count,
    /// Number of steps of either clock.
    pub(crate) clock_steps: Count,
    /// Number of times that the layer was seen to have corrected its clock.
    pub(crate) offsets: Count,
}
