//! What a look-up in the cache returns: [`Lookup`], [`ResolvedToken`], [`Miss`].

use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use super::clock::{ClockReading, Offset};
use super::entry::Entry;
#[cfg(tower_aiuta_auth_model)]
use super::entry::ExpiryPolicy;
use super::wait::FetchFuture;
use crate::error::AuthError;
use crate::jwt::Jwt;

/// The token for a request: ready, or being fetched.
pub(crate) enum Lookup {
    Ready(Ready<Result<ResolvedToken, AuthError>>),
    Waiting(FetchFuture),
}

impl Lookup {
    pub(super) fn ready(result: Result<ResolvedToken, AuthError>) -> Self {
        Self::Ready(ready(result))
    }
}

impl From<ResolvedToken> for Lookup {
    fn from(token: ResolvedToken) -> Self {
        Self::ready(Ok(token))
    }
}

impl Future for Lookup {
    type Output = Result<ResolvedToken, AuthError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Ready(ready) => Pin::new(ready).poll(cx),
            Self::Waiting(fetch) => Pin::new(fetch).poll(cx),
        }
    }
}

/// A token for one request, and what is needed to judge the response to it.
pub(crate) struct ResolvedToken {
    pub(super) entry: Arc<Entry>,
    /// When the token was found or its fetch started, with the token's clock offset.
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
    /// A token that was rejected before, since it is too early to fetch another (rule E5).
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

    /// Returns whether a request with this token may be answered differently than the one that carried `rejected`.
    pub(crate) fn is_better_than(&self, rejected: &Self) -> bool {
        !matches!(self.origin, TokenOrigin::Stopgap | TokenOrigin::RejectedFetch) && !self.jwt().same_as(rejected.jwt())
    }

    #[cfg(tower_aiuta_auth_model)]
    pub(crate) fn for_model(jwt: Jwt, policy: &ExpiryPolicy) -> Self {
        let made = ClockReading::uncorrected(SystemTime::UNIX_EPOCH);
        Self::found(Arc::new(Entry::new(jwt, made, false, policy, 0)), made.raw, TokenOrigin::Cache)
    }
}

/// There is no token in the cache that can be used.
pub(crate) struct Miss {
    pub(super) expired: Option<Arc<Entry>>,
    pub(super) now: SystemTime,
    pub(super) offset: Option<Offset>,
}

/// The token that replaces a rejected one.
#[derive(Clone, Copy)]
pub(crate) struct Replacement {
    /// The offset to make it by, if the rejected one was made by a wrong clock.
    pub(super) offset: Option<Offset>,
}

impl Replacement {
    pub(crate) fn tries_offset(self) -> bool {
        self.offset.is_some()
    }
}
