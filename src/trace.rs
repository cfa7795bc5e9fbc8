//! Every span, event and field that the layer emits, under the target `tower_aiuta_auth`; nothing without the feature `tracing`.
//!
//! | what | level | fields |
//! |---|---|---|
//! | span `token_flight` | DEBUG | `reason` (`miss`, `refresh`, `rejected`), `outcome` (`token`, an error's kind, `cut off`), `waiters` |
//! | event `token refresh failed` | WARN | `error` (its kind) |
//! | event `request replayed with a new token` | DEBUG | |
//! | event `credential withheld from an untrusted origin` | DEBUG | `host` |
//!
//! No field is ever a secret, a token or a param's value.

use crate::error::AuthErrorKind;
use crate::tokens::Outcome;

#[cfg(feature = "tracing")]
mod with_tracing {
    use super::{AuthErrorKind, Outcome, outcome_name};

    const TARGET: &str = "tower_aiuta_auth";

    /// The span of one flight; it is entered while the source runs.
    pub(crate) struct FlightSpan(tracing::Span);

    pub(crate) fn flight(reason: &'static str) -> FlightSpan {
        FlightSpan(tracing::debug_span!(
            target: TARGET,
            "token_flight",
            reason,
            outcome = tracing::field::Empty,
            waiters = tracing::field::Empty,
        ))
    }

    impl FlightSpan {
        pub(crate) fn within<T>(&self, f: impl FnOnce() -> T) -> T {
            self.0.in_scope(f)
        }

        pub(crate) fn finished(&self, outcome: &Outcome, waiters: usize) {
            self.0.record("outcome", outcome_name(outcome));
            self.0.record("waiters", waiters);
        }
    }

    pub(crate) fn refresh_failed(error: Option<AuthErrorKind>) {
        let error = error.map_or("ExpiredOnArrival", super::kind_name);
        tracing::warn!(target: TARGET, error, "token refresh failed");
    }

    pub(crate) fn replayed() {
        tracing::debug!(target: TARGET, "request replayed with a new token");
    }

    pub(crate) fn withheld(host: Option<&str>) {
        tracing::debug!(target: TARGET, host, "credential withheld from an untrusted origin");
    }
}

#[cfg(not(feature = "tracing"))]
mod without_tracing {
    use super::{AuthErrorKind, Outcome};

    pub(crate) struct FlightSpan;

    pub(crate) fn flight(_reason: &'static str) -> FlightSpan {
        FlightSpan
    }

    impl FlightSpan {
        #[allow(clippy::unused_self, reason = "the same face as with tracing")]
        pub(crate) fn within<T>(&self, f: impl FnOnce() -> T) -> T {
            f()
        }

        #[allow(clippy::unused_self, reason = "the same face as with tracing")]
        pub(crate) fn finished(&self, _outcome: &Outcome, _waiters: usize) {}
    }

    pub(crate) fn refresh_failed(_error: Option<AuthErrorKind>) {}

    pub(crate) fn replayed() {}

    pub(crate) fn withheld(_host: Option<&str>) {}
}

#[cfg(feature = "tracing")]
pub(crate) use with_tracing::{FlightSpan, flight, refresh_failed, replayed, withheld};
#[cfg(not(feature = "tracing"))]
pub(crate) use without_tracing::{FlightSpan, flight, refresh_failed, replayed, withheld};

#[cfg(feature = "tracing")]
fn outcome_name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Token(_) => "token",
        Outcome::Failed(error) => kind_name(error.kind()),
        Outcome::Dead => "cut off",
    }
}

#[cfg(feature = "tracing")]
fn kind_name(kind: AuthErrorKind) -> &'static str {
    match kind {
        AuthErrorKind::TokenSource => "TokenSource",
        AuthErrorKind::InvalidToken => "InvalidToken",
        AuthErrorKind::FetchTimeout => "FetchTimeout",
        AuthErrorKind::Overloaded => "Overloaded",
        AuthErrorKind::MissingParams => "MissingParams",
        AuthErrorKind::InvalidBody => "InvalidBody",
        AuthErrorKind::BodyTooLarge => "BodyTooLarge",
    }
}
