//! The results of a lookup in the cache: [`ResolvedToken`], [`Miss`].

use std::sync::Arc;
use std::time::SystemTime;

use super::clock::{ClockReading, Offset};
use super::entry::Entry;
use crate::jwt::Jwt;

/// A token for one request, with the data that is needed to evaluate the response.
pub(crate) struct ResolvedToken {
    pub(super) entry: Arc<Entry>,
    /// The reading of the clock when the token was found in the cache, or when its fetch started. The offset is the
    /// offset that the token was made with.
    pub(super) at: ClockReading,
    pub(super) origin: TokenOrigin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenOrigin {
    Cache,
    /// Fetched for this request.
    Fetch,
    /// Fetched for this request, and expired when it arrived (rule D4).
    ExpiredFetch,
    /// Fetched for this request, and known to be rejected when it arrived (rule D5).
    RejectedFetch,
    /// A token that was rejected before, because it is too early to fetch another one (rule E5).
    Stopgap,
}

impl ResolvedToken {
    pub(super) fn found(entry: Arc<Entry>, now: SystemTime, origin: TokenOrigin) -> Self {
        Self { at: entry.made.later(now), entry, origin }
    }

    pub(super) fn fetched(entry: Arc<Entry>, origin: TokenOrigin) -> Self {
        Self { at: entry.made, entry, origin }
    }

    pub(crate) fn jwt(&self) -> &Jwt {
        self.entry.jwt()
    }

    /// Returns whether a replay with this token may succeed after `rejected` was rejected.
    pub(crate) fn is_better_than(&self, rejected: &Self) -> bool {
        !matches!(self.origin, TokenOrigin::Stopgap | TokenOrigin::RejectedFetch) && !self.jwt().same_as(rejected.jwt())
    }
}

/// The cache has no usable token.
pub(crate) struct Miss {
    pub(super) expired: Option<Arc<Entry>>,
    pub(super) now: SystemTime,
    pub(super) offset: Option<Offset>,
}

/// Describes how to fetch the token that replaces a rejected one.
#[derive(Clone, Copy)]
pub(crate) struct Replacement {
    /// The clock offset for the new token, if the rejected token was made with the time of a wrong clock.
    pub(super) offset: Option<Offset>,
}

impl Replacement {
    pub(crate) fn tries_offset(self) -> bool {
        self.offset.is_some()
    }
}
