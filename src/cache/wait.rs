//! Participants of a fetch: [`FetchFuture`], a request that needs the outcome, and [`FetchTask`], which drives it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::fetch::{Fetch, Outcome, WaiterGuard};
use super::runtime::Timer;
use super::shared_call::{Role, Step};
use super::state::CacheState;
use super::{Lookup, ResolvedToken, TokenCache};
use crate::error::AuthError;

/// A place in a fetch and a timeout: what waiters and the task have in common.
struct Participant {
    guard: WaiterGuard,
    timer: Timer,
}

impl Participant {
    fn new(state: &CacheState, fetch: Arc<Fetch>, role: Role) -> Self {
        Self { guard: WaiterGuard::join(fetch, role), timer: Timer::new(state.fetch_timeout) }
    }

    /// Waits for the outcome, drives the fetch if that is this participant's to do, and ends it when it has taken too
    /// long (rule C6).
    fn poll(&mut self, state: &CacheState, cx: &mut Context<'_>) -> Poll<Outcome> {
        let timer = self.timer.poll(cx);
        let fetch = self.guard.fetch();
        let timed_out = match timer {
            Some(timer) => timer.is_ready(),
            None => fetch.timed_out(state.clock.raw()),
        };
        match self.guard.poll(timer.is_none(), cx.waker()) {
            Step::Finished(outcome) => return Poll::Ready(outcome),
            Step::Wait => {}
            // Also when it has timed out: a result that is ready in the same moment counts.
            Step::Drive => state.drive(fetch),
        }
        if timed_out {
            state.time_out(fetch);
        }
        fetch.outcome().map_or(Poll::Pending, Poll::Ready)
    }
}

/// The token of a fetch, as a future. Dropping it does not end the fetch.
pub(crate) struct FetchFuture {
    cache: TokenCache,
    participant: Participant,
    restarted: bool,
}

impl FetchFuture {
    pub(super) fn new(cache: TokenCache, fetch: Arc<Fetch>) -> Self {
        let participant = Participant::new(&cache.state, fetch, Role::Waiter);
        Self { cache, participant, restarted: false }
    }

    pub(super) fn fetch(&self) -> &Arc<Fetch> {
        self.participant.guard.fetch()
    }
}

impl Future for FetchFuture {
    type Output = Result<ResolvedToken, AuthError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match ready!(this.participant.poll(&this.cache.state, cx)) {
                Outcome::Token(entry) => return Poll::Ready(Ok(ResolvedToken::fetched(this.fetch(), entry))),
                Outcome::Failed(error) => return Poll::Ready(Err(error)),
                Outcome::Cancelled if this.restarted => return Poll::Ready(Err(AuthError::runtime_gone())),
                // The runtime of the task was shut down: start over, once (rule C4).
                Outcome::Cancelled => {
                    this.restarted = true;
                    match this.cache.get_or_fetch(&this.fetch().params.clone()) {
                        Lookup::Ready(result) => return Poll::Ready(result.into_inner()),
                        Lookup::Waiting(waiting) => this.participant = waiting.participant,
                    }
                }
            }
        }
    }
}

/// Drives a fetch to its end, whether or not its callers are still there (rule C3).
///
/// It does not keep the cache alive: when the last handle goes, the fetch ends, and the task with it (rule C4).
#[cfg(any(feature = "tokio", tower_aiuta_auth_model))]
pub(super) struct FetchTask {
    state: std::sync::Weak<CacheState>,
    participant: Participant,
}

#[cfg(any(feature = "tokio", tower_aiuta_auth_model))]
impl FetchTask {
    pub(super) fn new(state: &Arc<CacheState>, fetch: &Arc<Fetch>) -> Self {
        let participant = Participant::new(state, Arc::clone(fetch), Role::Driver);
        Self { state: Arc::downgrade(state), participant }
    }
}

#[cfg(any(feature = "tokio", tower_aiuta_auth_model))]
impl Future for FetchTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        match this.state.upgrade() {
            Some(state) => this.participant.poll(&state, cx).map(drop),
            None => Poll::Ready(()),
        }
    }
}

#[cfg(any(feature = "tokio", tower_aiuta_auth_model))]
impl Drop for FetchTask {
    /// A task that is dropped before the end belonged to a runtime that was shut down.
    fn drop(&mut self) {
        let fetch = self.participant.guard.fetch();
        if fetch.outcome().is_none() {
            if let Some(state) = self.state.upgrade() {
                state.remove_if_current(fetch, || {});
            }
            fetch.cancel();
        }
    }
}
