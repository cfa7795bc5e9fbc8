//! [`SharedCall`]: a future that many participants await together.
//!
//! ```text
//! Idle (the call is in its slot) ⇄ Polling (a driver has taken it out) ⇒ Finished (there is an outcome, for good)
//! ```
//!
//! A participant that *drives* may poll the call. It takes the call out of its slot under the lock, polls the call
//! without the lock, and puts the call back. If there is a task, only the task drives. Otherwise every waiter drives.
//! The first outcome wins.
//!
//! No wake-up is lost. A wake-up of the call wakes all registered drivers, and a driver that registers later polls the
//! call at once. So a woken driver may be dropped before it polls the call. If a driver finds the slot empty, another
//! driver is polling the call. A wake-up during that poll is remembered (`woken`), and wakes the drivers again when the
//! call is put back.
//!
//! This module does not depend on tokens or keys. It runs no foreign code under its lock. The call, its destructor, and
//! the clone, wake and drop of a waker are foreign code.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::lock;
use crate::sync::Mutex;

/// A future that returns `R`. The driver that gets `R` turns it into the outcome `T` for all participants.
pub(crate) struct SharedCall<R, T> {
    state: Mutex<State<R, T>>,
}

pub(crate) type Call<R> = Pin<Box<dyn Future<Output = R> + Send>>;

struct State<R, T> {
    /// `None` while a driver polls the call, and after the outcome was set.
    call: Option<Call<R>>,
    outcome: Option<T>,
    /// Whether the call was woken since a driver last took it.
    woken: bool,
    /// Whether a task drives the call.
    has_driver: bool,
    /// Whether only the waiters need the outcome. If so, the call may end when the last waiter leaves.
    detached: bool,
    /// Number of waiters now.
    waiting: usize,
    /// Number of all waiters so far.
    waited: usize,
    waiters: Waiters,
}

/// How a participant takes part in a call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Awaits the outcome. Drives the call only if there is no task.
    Waiter,
    /// The task that drives the call.
    Driver,
}

/// The call panicked.
#[derive(Debug)]
pub(crate) struct Panicked;

/// The next step of a participant.
pub(crate) enum Step<T> {
    Finished(T),
    /// Poll the call.
    Drive,
    Wait,
}

/// The state of a call after a participant has left.
#[derive(PartialEq, Eq)]
pub(crate) enum Remaining {
    /// The call has other participants, or an outcome.
    InUse,
    /// No participant is left to poll the call. A later participant can continue it.
    Abandoned,
    /// No waiter is left, and the call was detached. It should be cancelled.
    Unwanted,
}

impl<R, T: Clone> SharedCall<R, T> {
    pub(crate) fn new(call: Call<R>) -> Self {
        let state = State {
            call: Some(call),
            outcome: None,
            woken: false,
            has_driver: false,
            detached: false,
            waiting: 0,
            waited: 0,
            waiters: Waiters::default(),
        };
        Self { state: Mutex::new(state) }
    }

    pub(crate) fn outcome(&self) -> Option<T> {
        lock(&self.state).outcome.clone()
    }

    /// Returns whether the call has no waiter and no task. Such a call can be dropped without harm.
    pub(crate) fn is_abandoned(&self) -> bool {
        let state = lock(&self.state);
        state.waiting == 0 && !state.has_driver
    }

    /// Polls the call with `waker`, which must call [`wake_drivers`](Self::wake_drivers). Returns `Pending` if another
    /// driver is polling the call.
    pub(crate) fn poll(&self, waker: &Waker) -> Poll<Result<R, Panicked>> {
        let Some(mut call) = self.take_call() else { return Poll::Pending };
        match catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(&mut Context::from_waker(waker)))) {
            Ok(Poll::Pending) => {
                self.put_back(call);
                Poll::Pending
            }
            Ok(Poll::Ready(output)) => {
                drop_quietly(call);
                Poll::Ready(Ok(output))
            }
            Err(payload) => {
                drop_quietly(payload);
                drop_quietly(call);
                Poll::Ready(Err(Panicked))
            }
        }
    }

    /// Continues with a new call after the last call has returned, unless there is an outcome. The caller must poll the
    /// new call next.
    pub(crate) fn restart(&self, call: Call<R>) {
        self.put_back(call);
    }

    fn take_call(&self) -> Option<Call<R>> {
        let mut state = lock(&self.state);
        let call = state.call.take()?;
        state.woken = false;
        Some(call)
    }

    fn put_back(&self, call: Call<R>) {
        let mut state = lock(&self.state);
        if state.outcome.is_some() {
            drop(state);
            drop_quietly(call);
            return;
        }
        state.call = Some(call);
        let wakers = if state.woken { state.waiters.take_drivers() } else { Vec::new() };
        drop(state);
        wake_all(wakers);
    }

    pub(crate) fn wake_drivers(&self) {
        let mut state = lock(&self.state);
        state.woken = true;
        let wakers = state.waiters.take_drivers();
        drop(state);
        wake_all(wakers);
    }

    /// Sets the outcome, unless there is one already. `before_wake` gets the number of all waiters so far. It runs
    /// before any waiter is woken.
    ///
    /// This must be called at the end of every call. Otherwise a call that owns its own waker is never dropped.
    pub(crate) fn finish(&self, outcome: T, before_wake: impl FnOnce(usize)) {
        let mut state = lock(&self.state);
        if state.outcome.is_some() {
            return;
        }
        state.outcome = Some(outcome);
        let (call, waited, wakers) = (state.call.take(), state.waited, state.waiters.take_all());
        drop(state);
        quietly(|| before_wake(waited));
        drop_quietly(call);
        wake_all(wakers);
    }

    /// Records that only waiters need the outcome from now on. Returns whether there is no waiter.
    pub(crate) fn detach(&self) -> bool {
        let mut state = lock(&self.state);
        state.detached = true;
        state.waiting == 0
    }

    /// Adds a participant. Returns its slot.
    pub(crate) fn join(&self, role: Role) -> usize {
        let mut state = lock(&self.state);
        match role {
            Role::Waiter => {
                state.waiting += 1;
                state.waited += 1;
            }
            Role::Driver => state.has_driver = true,
        }
        state.waiters.add()
    }

    /// Returns the outcome, or registers `waker`, which is woken when there is an outcome. If the participant drives,
    /// `waker` is also woken when the call is woken.
    ///
    /// A waiter drives only if there is no task.
    pub(crate) fn poll_outcome(&self, slot: usize, role: Role, waker: &Waker) -> Step<T> {
        let waker = waker.clone();
        let mut state = lock(&self.state);
        if let Some(outcome) = &state.outcome {
            return Step::Finished(outcome.clone());
        }
        let drives = role == Role::Driver || !state.has_driver;
        let replaced = state.waiters.set(slot, waker, drives);
        drop(state);
        drop(replaced);
        if drives { Step::Drive } else { Step::Wait }
    }

    /// Removes a participant.
    pub(crate) fn leave(&self, slot: usize, role: Role) -> Remaining {
        let mut state = lock(&self.state);
        let waker = state.waiters.remove(slot);
        match role {
            Role::Waiter => state.waiting -= 1,
            Role::Driver => state.has_driver = false,
        }
        let remaining = match (state.waiting, state.detached, state.has_driver) {
            (0, true, _) => Remaining::Unwanted,
            (0, false, false) if state.outcome.is_none() => Remaining::Abandoned,
            _ => Remaining::InUse,
        };
        drop(state);
        drop_quietly(waker);
        remaining
    }
}

/// The wakers of all participants. Slots are used again, so there are never more slots than there were participants at
/// one time.
#[derive(Default)]
struct Waiters {
    slots: Vec<WaiterSlot>,
    free: Vec<usize>,
}

#[derive(Default)]
struct WaiterSlot {
    waker: Option<Waker>,
    drives: bool,
}

impl Waiters {
    fn add(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.slots.push(WaiterSlot::default());
            self.slots.len() - 1
        })
    }

    /// Returns the replaced waker. The caller must drop it without holding the lock.
    #[must_use]
    fn set(&mut self, slot: usize, waker: Waker, drives: bool) -> Option<Waker> {
        let slot = &mut self.slots[slot];
        slot.drives = drives;
        slot.waker.replace(waker)
    }

    #[must_use]
    fn remove(&mut self, slot: usize) -> Option<Waker> {
        self.free.push(slot);
        self.slots[slot].waker.take()
    }

    fn take_drivers(&mut self) -> Vec<Waker> {
        self.take(|slot| slot.drives)
    }

    fn take_all(&mut self) -> Vec<Waker> {
        self.take(|_| true)
    }

    /// Takes the wakers out of their slots, so that each registration wakes only once.
    fn take(&mut self, which: impl Fn(&WaiterSlot) -> bool) -> Vec<Waker> {
        self.slots.iter_mut().filter(|slot| which(slot)).filter_map(|slot| slot.waker.take()).collect()
    }
}

/// Wakes all wakers, even if one of them panics.
fn wake_all(wakers: Vec<Waker>) {
    for waker in wakers {
        quietly(|| waker.wake());
    }
}

/// Drops a foreign value, whose destructor may panic.
fn drop_quietly<V>(value: V) {
    quietly(|| drop(value));
}

/// Runs foreign code, and catches its panics, because a panic here would lose wake-ups. The panic hook has already
/// reported the panic.
fn quietly(f: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(f)) {
        // The destructor of the payload may panic as well. The payload of this second panic is leaked.
        std::mem::forget(catch_unwind(AssertUnwindSafe(|| drop(payload))));
    }
}
