//! The invariants of a run, and the violations found.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Invariant {
    /// A request's token was made for the params and the partition of that request.
    TokenMatchesRequest,
    OneCredential,
    NoCredentialLeaked,
    StartedOnce,
    SentAtMostTwice,
    BodyUnchanged,
    /// By the layer's clock, and as old as the source says (rules D1, C2).
    TokenInTime,
    /// Rule H1.
    OffsetOnTrial,
    /// Rule E5.
    WaitsAfterRejections,
    /// Rules C2, C4 and C6.
    WaitsAreShort,
    SingleFlight,
    SourceCallBudget,
    CacheLimits,
    EveryCallEnds,
    NothingLeaked,
    /// Checked because a run without some kind of event says nothing about that kind.
    FullCoverage,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::TokenMatchesRequest => "each token was made for the params and the partition of its request",
            Self::OneCredential => "each request to Aiuta carried exactly one credential",
            Self::NoCredentialLeaked => "no credential reached an untrusted host",
            Self::StartedOnce => "no operation was started twice for one call",
            Self::SentAtMostTwice => "no request was sent more than twice",
            Self::BodyUnchanged => "each body arrived unchanged",
            Self::TokenInTime => "no token was sent after its time",
            Self::OffsetOnTrial => {
                "a clock offset was used for one request until it had helped, and not kept if it was wrong"
            }
            Self::WaitsAfterRejections => {
                "the token source was called ever more rarely for keys whose tokens are rejected"
            }
            Self::WaitsAreShort => "no request waited longer for a token than a new fetch takes",
            Self::SingleFlight => {
                "at most one open call of the token source for the same params, unless they were invalidated"
            }
            Self::SourceCallBudget => "the token source was not called more often than the events require",
            Self::CacheLimits => "tokens and fetches stayed within the limits",
            Self::EveryCallEnds => "every call ended",
            Self::NothingLeaked => "no task, memory or fetch was leaked",
            Self::FullCoverage => "every kind of event occurred",
        })
    }
}

impl Invariant {
    pub(crate) const ALL: [Self; 16] = [
        Self::TokenMatchesRequest,
        Self::OneCredential,
        Self::NoCredentialLeaked,
        Self::StartedOnce,
        Self::SentAtMostTwice,
        Self::BodyUnchanged,
        Self::TokenInTime,
        Self::OffsetOnTrial,
        Self::WaitsAfterRejections,
        Self::WaitsAreShort,
        Self::SingleFlight,
        Self::SourceCallBudget,
        Self::CacheLimits,
        Self::EveryCallEnds,
        Self::NothingLeaked,
        Self::FullCoverage,
    ];
}

/// The number of violations of each invariant, and a description of the first one.
#[derive(Default)]
pub(crate) struct Violations(Mutex<BTreeMap<Invariant, (u64, String)>>);

impl Violations {
    /// `details` must not contain a secret.
    pub(crate) fn record(&self, invariant: Invariant, details: impl FnOnce() -> String) {
        let mut violations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        violations.entry(invariant).or_insert_with(|| (0, details())).0 += 1;
    }

    pub(crate) fn check(&self, invariant: Invariant, holds: bool, details: impl FnOnce() -> String) {
        if !holds {
            self.record(invariant, details);
        }
    }

    pub(crate) fn all(&self) -> BTreeMap<Invariant, (u64, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}
