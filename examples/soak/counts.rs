//! How often everything happened.

use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self) {
        self.next();
    }

    /// Counts, and answers how many there were before.
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst)
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

#[derive(Default)]
pub(crate) struct Counts {
    /// Try-ons that callers wanted started: also the number of the next one.
    pub(crate) try_ons: Count,
    /// Requests that arrived, replays and hops included.
    pub(crate) requests: Count,
    pub(crate) accepted_starts: Count,
    pub(crate) accepted_uploads: Count,
    pub(crate) redirects: Count,
    pub(crate) foreign: Count,
    /// Connections that were cut.
    pub(crate) cut: Count,
    /// Answers with 401, as the layer saw them.
    pub(crate) unauthorized: Count,
    /// Calls that were dropped by whoever made them.
    pub(crate) given_up: Count,
    /// Calls that ended in an error of the layer, because there was no token.
    pub(crate) failed: Count,
    /// Calls that ended in an error of the connection.
    pub(crate) disconnected: Count,
    /// Requests of floods: a key comes from a few of them.
    pub(crate) flood_asks: Count,
    pub(crate) revocations: Count,
    pub(crate) invalidations: Count,
    pub(crate) clears: Count,
    pub(crate) rotations: Count,
    /// How often either clock was set.
    pub(crate) clock_steps: Count,
    /// How often the layer was seen to have made up for a clock that differs.
    pub(crate) offsets: Count,
}
