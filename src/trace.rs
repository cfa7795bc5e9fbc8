//! Every span, event and field that the layer emits, under the target `tower_aiuta_auth`; nothing without the feature `tracing`.
//!
//! | what | level | fields |
//! |---|---|---|
//! | span `token_fetch` | DEBUG | `reason` (`miss`, `refresh`, `rejected`), `outcome` (`Token`, `Failed` with the error's kind, `Dead`: cut off), `waiters` |
//! | event `token refresh failed` | WARN | `error` (its kind; none if what came is no better than what is there) |
//! | event `request replayed with a new token` | DEBUG | |
//! | event `clock offset adopted` | WARN | `offset`: seconds that are added to the clock from now on, 0 if it was set right |
//! | event `credential withheld from an untrusted origin` | DEBUG | `host` |
//!
//! No field is ever a secret, a token or a param's value.

use std::fmt::Debug;

use crate::error::AuthErrorKind;

#[cfg(feature = "tracing")]
mod with_tracing {
    use super::{AuthErrorKind, Debug};

    const TARGET: &str = "tower_aiuta_auth";

    /// The span of one fetch; it is entered while the source runs.
    pub(crate) struct FetchSpan(tracing::Span);

    pub(crate) fn fetch(reason: &'static str) -> FetchSpan {
        FetchSpan(tracing::debug_span!(
            target: TARGET,
            "token_fetch",
            reason,
            outcome = tracing::field::Empty,
            waiters = tracing::field::Empty,
        ))
    }

    impl FetchSpan {
        pub(crate) fn within<T>(&self, f: impl FnOnce() -> T) -> T {
            self.0.in_scope(f)
        }

        pub(crate) fn finished(&self, outcome: &impl Debug, waiters: usize) {
            self.0.record("outcome", tracing::field::debug(outcome));
            self.0.record("waiters", waiters);
        }
    }

    pub(crate) fn refresh_failed(error: Option<AuthErrorKind>) {
        tracing::warn!(target: TARGET, ?error, "token refresh failed");
    }

    pub(crate) fn replayed() {
        tracing::debug!(target: TARGET, "request replayed with a new token");
    }

    pub(crate) fn clock_offset_adopted(offset: i64) {
        tracing::warn!(target: TARGET, offset, "clock offset adopted");
    }

    pub(crate) fn withheld(host: Option<&str>) {
        tracing::debug!(target: TARGET, host, "credential withheld from an untrusted origin");
    }
}

#[cfg(not(feature = "tracing"))]
mod without_tracing {
    use super::{AuthErrorKind, Debug};

    pub(crate) struct FetchSpan;

    pub(crate) fn fetch(_reason: &'static str) -> FetchSpan {
        FetchSpan
    }

    impl FetchSpan {
        #[allow(clippy::unused_self, reason = "the same face as with tracing")]
        pub(crate) fn within<T>(&self, f: impl FnOnce() -> T) -> T {
            f()
        }

        #[allow(clippy::unused_self, reason = "the same face as with tracing")]
        pub(crate) fn finished(&self, _outcome: &impl Debug, _waiters: usize) {}
    }

    pub(crate) fn refresh_failed(_error: Option<AuthErrorKind>) {}

    pub(crate) fn replayed() {}

    pub(crate) fn clock_offset_adopted(_offset: i64) {}

    pub(crate) fn withheld(_host: Option<&str>) {}
}

#[cfg(feature = "tracing")]
pub(crate) use with_tracing::{FetchSpan, clock_offset_adopted, fetch, refresh_failed, replayed, withheld};
#[cfg(not(feature = "tracing"))]
pub(crate) use without_tracing::{FetchSpan, clock_offset_adopted, fetch, refresh_failed, replayed, withheld};
