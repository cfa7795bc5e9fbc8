//! All spans and events of the layer, with the target `tower_aiuta_auth`. Without the feature `tracing`, the functions
//! here do nothing.
//!
//! | span or event | level | fields |
//! |---|---|---|
//! | span `token_fetch` | DEBUG | `reason`, `outcome`, `waiters` |
//! | event `token refresh failed` | WARN | `error` |
//! | event `request replayed with a new token` | DEBUG | |
//! | event `clock offset adopted` | WARN | `offset` |
//! | event `credential withheld from an untrusted origin` | DEBUG | `host` |
//! | event `credential withheld from a request that looks like a mistake` | WARN, once each | `reason`, `host` |
//!
//! | field | value |
//! |---|---|
//! | `reason` of a fetch | `miss`, `refresh` or `rejected` |
//! | `reason` of a withheld credential | `scheme`, `port` or `relative_uri`: what is not trusted |
//! | `outcome` | `Token`, `Failed` with the error's kind, or `Cancelled` |
//! | `waiters` | number of requests that awaited the fetch |
//! | `error` | the error's kind; `None` if the source returned the same token again, or an expired one |
//! | `offset` | seconds that are added to the clock from now on; 0 if the clock was correct again |
//! | `host` | host of the request's URI, if it has one |
//!
//! No field contains a secret, a token or the value of a param.

use std::fmt::Debug;

use crate::error::AuthErrorKind;

#[cfg(feature = "tracing")]
mod with_tracing {
    use super::{AuthErrorKind, Debug};

    const TARGET: &str = "tower_aiuta_auth";

    /// The span of one fetch. It is entered while the token source is polled.
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

    pub(crate) fn untrusted(host: Option<&str>) {
        tracing::debug!(target: TARGET, host, "credential withheld from an untrusted origin");
    }

    pub(crate) fn credential_withheld(reason: &'static str, host: Option<&str>) {
        tracing::warn!(target: TARGET, reason, host, "credential withheld from a request that looks like a mistake");
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
        #[allow(clippy::unused_self, reason = "same signature as with tracing")]
        pub(crate) fn within<T>(&self, f: impl FnOnce() -> T) -> T {
            f()
        }

        #[allow(clippy::unused_self, reason = "same signature as with tracing")]
        pub(crate) fn finished(&self, _outcome: &impl Debug, _waiters: usize) {}
    }

    pub(crate) fn refresh_failed(_error: Option<AuthErrorKind>) {}

    pub(crate) fn replayed() {}

    pub(crate) fn clock_offset_adopted(_offset: i64) {}

    pub(crate) fn untrusted(_host: Option<&str>) {}

    pub(crate) fn credential_withheld(_reason: &'static str, _host: Option<&str>) {}
}

#[cfg(feature = "tracing")]
pub(crate) use with_tracing::{
    FetchSpan, clock_offset_adopted, credential_withheld, fetch, refresh_failed, replayed, untrusted,
};
#[cfg(not(feature = "tracing"))]
pub(crate) use without_tracing::{
    FetchSpan, clock_offset_adopted, credential_withheld, fetch, refresh_failed, replayed, untrusted,
};
