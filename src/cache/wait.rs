//! Those who sit in a flight: [`Waiter`], a request that needs its outcome, and [`spawn`]'s task, which drives it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::fetch::{Fetch, Outcome, Role, Seat, Turn, View};
use super::runtime::Deadline;
use super::{Found, Inner, Served, TokenCache};
use crate::error::AuthError;

/// A seat and a deadline: what waiters and the task have in common.
struct Watch {
    seat: Seat,
    deadline: Deadline,
}

impl Watch {
    fn new(inner: &Inner, flight: Arc<Fetch>, role: Role) -> Self {
        Self { seat: Seat::take(flight, role), deadline: Deadline::new(inner.fetch_timeout) }
    }

    /// Waits for the outcome; drives the flight if it is this one's to drive; ends the flight when it is late (rule C6).
    fn poll(&mut self, inner: &Inner, cx: &mut Context<'_>) -> Poll<Outcome> {
        let timer = self.deadline.poll(cx);
        let flight = self.seat.flight();
        let late = match timer {
            Some(timer) => timer.is_ready(),
            None => flight.is_late(inner.clock.raw()),
        };
        match self.seat.look(cx.waker(), timer.is_some()) {
            View::Over(outcome) => return Poll::Ready(outcome),
            View::Wait => {}
            // Also when it is late: what is ready in the same moment counts.
            View::Drive => match flight.drive() {
                Turn::Done(result) => inner.landed(flight, result.map_err(Some)),
                Turn::Panicked => inner.landed(flight, Err(None)),
                Turn::Pending => {}
            },
        }
        if late {
            inner.expire(flight);
        }
        flight.outcome().map_or(Poll::Pending, Poll::Ready)
    }
}

/// The outcome of a flight, as a future. Dropping it does no harm to the flight.
pub(crate) struct Waiter {
    tokens: TokenCache,
    watch: Watch,
    restarted: bool,
}

impl Waiter {
    pub(crate) fn new(tokens: TokenCache, flight: Arc<Fetch>) -> Self {
        let watch = Watch::new(&tokens.inner, flight, Role::Waiter);
        Self { tokens, watch, restarted: false }
    }

    pub(crate) fn flight(&self) -> &Arc<Fetch> {
        self.watch.seat.flight()
    }
}

impl Future for Waiter {
    type Output = Result<Served, AuthError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match ready!(this.watch.poll(&this.tokens.inner, cx)) {
                Outcome::Token(jwt) => return Poll::Ready(Ok(Served::by(this.flight(), jwt))),
                Outcome::Failed(error) => return Poll::Ready(Err(error)),
                Outcome::Cancelled if this.restarted => return Poll::Ready(Err(AuthError::runtime_gone())),
                // The runtime of the flight's task was shut down: start over, once and in silence (rule C4).
                Outcome::Cancelled => {
                    this.restarted = true;
                    match this.tokens.find(&this.flight().params.clone()) {
                        Found::Cached { served, .. } => return Poll::Ready(Ok(served)),
                        Found::Fetched(result) => return Poll::Ready(result),
                        Found::Awaited(waiter) => this.watch = waiter.watch,
                    }
                }
            }
        }
    }
}

/// Has a task drive the flight, if there is a runtime to spawn it on.
#[cfg(all(feature = "tokio", not(tower_aiuta_auth_model)))]
pub(crate) fn spawn(inner: &Arc<Inner>, flight: &Arc<Fetch>) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    flight.home.set(&runtime);
    drop(runtime.spawn(Task::new(inner, flight)));
}

#[cfg(tower_aiuta_auth_model)]
pub(crate) use super::model::spawn;

#[cfg(not(any(feature = "tokio", tower_aiuta_auth_model)))]
pub(crate) fn spawn(_inner: &Arc<Inner>, _flight: &Arc<Fetch>) {}

/// Drives a flight to its end, whether or not its callers are still there (rule C3). It does not keep the cache alive: when the last
/// handle goes, the flight ends and the task with it (rule C4).
#[cfg(any(feature = "tokio", tower_aiuta_auth_model))]
pub(super) struct Task {
    inner: std::sync::Weak<Inner>,
    watch: Watch,
}

#[cfg(any(feature = "tokio", tower_aiuta_auth_model))]
impl Task {
    pub(super) fn new(inner: &Arc<Inner>, flight: &Arc<Fetch>) -> Self {
        Self { inner: Arc::downgrade(inner), watch: Watch::new(inner, Arc::clone(flight), Role::Task) }
    }
}

#[cfg(any(feature = "tokio", tower_aiuta_auth_model))]
impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        match this.inner.upgrade() {
            Some(inner) => this.watch.poll(&inner, cx).map(drop),
            None => Poll::Ready(()),
        }
    }
}

#[cfg(any(feature = "tokio", tower_aiuta_auth_model))]
impl Drop for Task {
    /// Dropped before the end, the task's runtime was shut down.
    fn drop(&mut self) {
        let flight = self.watch.seat.flight();
        if flight.outcome().is_none() {
            if let Some(inner) = self.inner.upgrade() {
                inner.leave(flight);
            }
            flight.abort();
        }
    }
}
