//! Waiting for a fetch. A [`FetchFuture`] belongs to a request that needs the outcome, and [`Lookup`] is such a future
//! or a token that is ready. A [`FetchTask`] drives the fetch.

use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use super::TokenCache;
use super::fetch::{Fetch, Outcome, WaiterGuard};
use super::lookup::ResolvedToken;
#[cfg(feature = "reqwest-middleware")]
use super::runtime::Instant;
use super::runtime::{self, Timer};
use super::shared_call::{Role, Step};
use super::state::CacheState;
use crate::error::AuthError;

/// The token for a request. Either it is ready, or the request waits for a fetch.
pub(crate) enum Lookup {
    Ready(Ready<Result<ResolvedToken, AuthError>>),
    Waiting(FetchFuture),
}

impl Lookup {
    pub(super) fn ready(result: Result<ResolvedToken, AuthError>) -> Self {
        Self::Ready(ready(result))
    }

    /// Sets the time at which the wait ends with `FetchTimeout`. The fetch goes on for others (rule G6).
    #[cfg(feature = "reqwest-middleware")]
    pub(crate) fn wait_until(self, limit: Option<Instant>) -> Self {
        match (self, limit) {
            (Self::Waiting(fetch), Some(limit)) => {
                Self::Waiting(FetchFuture { limit: Some(Box::new(Timer::at(limit))), ..fetch })
            }
            (lookup, _) => lookup,
        }
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

/// A future that returns the token of a fetch. The fetch does not end when this future is dropped.
///
/// This future drives the fetch if no task does. If a task on another runtime drives the fetch and does not end it at
/// its deadline, this future starts another fetch, once (rule C4).
pub(crate) struct FetchFuture {
    cache: TokenCache,
    guard: WaiterGuard,
    /// Created at the first poll on a runtime that is not the runtime of the fetch.
    timer: Option<Timer>,
    restarted: bool,
    /// The time at which this future ends, if that is before the end of the fetch.
    #[cfg(feature = "reqwest-middleware")]
    limit: Option<Box<Timer>>,
}

impl FetchFuture {
    pub(super) fn new(cache: TokenCache, fetch: Arc<Fetch>) -> Self {
        Self {
            cache,
            guard: WaiterGuard::join(fetch, Role::Waiter),
            timer: None,
            restarted: false,
            #[cfg(feature = "reqwest-middleware")]
            limit: None,
        }
    }

    pub(super) fn fetch(&self) -> &Arc<Fetch> {
        self.guard.fetch()
    }

    fn poll_outcome(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let (fetch, state) = (self.guard.fetch(), &self.cache.state);
        let drives = match self.guard.poll(cx.waker()) {
            Step::Finished(outcome) => return Poll::Ready(outcome),
            Step::Drive => true,
            Step::Wait => false,
        };
        if drives {
            state.drive(fetch);
        } else if !runtime::is_entered() {
            // A task drives the fetch, and its runtime may stop. This future has no timer to notice that, so it does
            // not wait.
            return Poll::Ready(Outcome::Cancelled);
        }
        if self.time_is_up(drives, cx) {
            let (fetch, state) = (self.guard.fetch(), &self.cache.state);
            if drives { state.time_out(fetch) } else { state.abandon(fetch) }
        }
        self.guard.fetch().outcome().map_or(Poll::Pending, Poll::Ready)
    }

    fn time_is_up(&mut self, drives: bool, cx: &mut Context<'_>) -> bool {
        let (fetch, state) = (self.guard.fetch(), &self.cache.state);
        if !runtime::is_entered() {
            return fetch.deadline.is_missed(state.clock.raw());
        }
        if !drives && fetch.runtime.is_current() {
            return false;
        }
        let timer = self.timer.get_or_insert_with(|| fetch.deadline.foreign_timer(state.fetch_timeout));
        timer.poll(cx).is_ready() || (drives && fetch.deadline.is_missed(state.clock.raw()))
    }

    fn poll_token(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResolvedToken, AuthError>> {
        loop {
            match ready!(self.poll_outcome(cx)) {
                Outcome::Token(entry, origin) => return Poll::Ready(Ok(ResolvedToken::fetched(entry, origin))),
                Outcome::Failed(error) => return Poll::Ready(Err(error)),
                Outcome::Cancelled if self.restarted => return Poll::Ready(Err(AuthError::runtime_gone())),
                Outcome::Cancelled => {
                    self.restarted = true;
                    self.timer = None;
                    match self.cache.get_or_fetch(&self.fetch().params.clone()) {
                        Lookup::Ready(result) => return Poll::Ready(result.into_inner()),
                        Lookup::Waiting(waiting) => self.guard = waiting.guard,
                    }
                }
            }
        }
    }
}

impl Future for FetchFuture {
    type Output = Result<ResolvedToken, AuthError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let polled = this.poll_token(cx);
        #[cfg(feature = "reqwest-middleware")]
        if let (Poll::Pending, Some(limit)) = (&polled, &mut this.limit) {
            return limit.poll(cx).map(|()| Err(AuthError::request_timeout()));
        }
        polled
    }
}

/// Drives a fetch to its end, even if its callers have gone (rule C3). Ends the fetch at its deadline (rule C6).
///
/// The task does not keep the cache alive. When the last handle of the cache is dropped, the fetch ends, and so does
/// the task (rule C4).
pub(super) struct FetchTask {
    state: Weak<CacheState>,
    guard: WaiterGuard,
    timer: Timer,
}

impl FetchTask {
    pub(super) fn new(state: &Arc<CacheState>, fetch: &Arc<Fetch>) -> Self {
        let timer = fetch.deadline.timer(state.fetch_timeout);
        Self { state: Arc::downgrade(state), guard: WaiterGuard::join(Arc::clone(fetch), Role::Driver), timer }
    }
}

impl Future for FetchTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(state) = this.state.upgrade() else { return Poll::Ready(()) };
        let fetch = this.guard.fetch();
        if let Step::Finished(_) = this.guard.poll(cx.waker()) {
            return Poll::Ready(());
        }
        let timed_out = this.timer.poll(cx).is_ready();
        // The fetch is also polled when it has timed out, because a result that is ready at the same moment counts.
        state.drive(fetch);
        if timed_out {
            state.time_out(fetch);
        }
        if fetch.outcome().is_some() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for FetchTask {
    /// Cancels a fetch that has not ended. A task is dropped before the end of its fetch only if its runtime shuts
    /// down.
    fn drop(&mut self) {
        let fetch = self.guard.fetch();
        if fetch.outcome().is_none() {
            if let Some(state) = self.state.upgrade() {
                state.remove_if_current(fetch, || {});
            }
            fetch.cancel();
        }
    }
}
