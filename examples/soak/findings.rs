//! What must hold, and what was found not to.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Invariant {
    /// What came with a token is what the token was made for, and for whom.
    TokenOfOtherParams,
    OneCredential,
    NothingToOthers,
    StartedOnce,
    SentTwiceAtMost,
    ByteForByte,
    OneFlightForAKey,
    CallsAreJustified,
    Bounds,
    EveryCallEnds,
    NothingIsLeft,
    /// A storm in which something never happened proves nothing about it.
    AllOfItHappened,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::TokenOfOtherParams => "no request carried a token of other params or of another partition",
            Self::OneCredential => "each request to Aiuta carried exactly one credential",
            Self::NothingToOthers => "no credential reached a foreign host",
            Self::StartedOnce => "no operation was started twice for one call",
            Self::SentTwiceAtMost => "no request was sent more than twice",
            Self::ByteForByte => "each body arrived byte for byte",
            Self::OneFlightForAKey => {
                "one call of the source at a time for the same params, unless something was forgotten"
            }
            Self::CallsAreJustified => "no more calls of the source than the events justify",
            Self::Bounds => "no more tokens and flights than the limits allow",
            Self::EveryCallEnds => "every call ended",
            Self::NothingIsLeft => "tasks, memory and flights are back where they began",
            Self::AllOfItHappened => "everything that can go wrong did",
        })
    }
}

impl Invariant {
    pub(crate) const ALL: [Self; 12] = [
        Self::TokenOfOtherParams,
        Self::OneCredential,
        Self::NothingToOthers,
        Self::StartedOnce,
        Self::SentTwiceAtMost,
        Self::ByteForByte,
        Self::OneFlightForAKey,
        Self::CallsAreJustified,
        Self::Bounds,
        Self::EveryCallEnds,
        Self::NothingIsLeft,
        Self::AllOfItHappened,
    ];
}

/// How often each was broken, and how it was the first time.
#[derive(Default)]
pub(crate) struct Findings(Mutex<BTreeMap<Invariant, (u64, String)>>);

impl Findings {
    /// No secret belongs into `how`.
    pub(crate) fn broken(&self, invariant: Invariant, how: impl FnOnce() -> String) {
        let mut findings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        findings.entry(invariant).or_insert_with(|| (0, how())).0 += 1;
    }

    pub(crate) fn check(&self, invariant: Invariant, holds: bool, how: impl FnOnce() -> String) {
        if !holds {
            self.broken(invariant, how);
        }
    }

    pub(crate) fn all(&self) -> BTreeMap<Invariant, (u64, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}
