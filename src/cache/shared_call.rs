//! [`SharedCall`]: a future that many participants await together.
//!
//! ```text
//! Idle (the call is in its slot) ⇄ Polling (a driver has taken it out) ⇒ Finished (there is an outcome, for good)
//! ```
//!
//! Any participant that *drives* may poll the call: it takes the call out of its slot under the lock, polls it without
//! the lock, and puts it back. A task drives if there is one; otherwise every waiter does. The first outcome wins.
//!
//! No wake-up is lost. A wake-up of the call wakes all registered drivers, and a driver that registers later polls the
//! call at once. So it does no harm if a woken driver is dropped instead of polled. A driver that finds the call taken
//! out has nothing to poll: a wake-up that arrives meanwhile is remembered (`woken`), and the drivers are woken again
//! when the call is put back.
//!
//! This module knows neither tokens nor keys, and runs no foreign code under its lock: not the call, not its
//! destructor, and no waker's clone, wake or drop.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::lock;
use crate::sync::Mutex;

/// A future that returns `R`. The driver that gets `R` makes the outcome `T` for all participants.
pub(crate) struct SharedCall<R, T> {
    state: Mutex<State<R, T>>,
}

pub(crate) type Call<R> = Pin<Box<dyn Future<Output = R> + Send>>;

struct State<R, T> {
    /// `None` while a driver polls it, and once there is an outcome.
    call: Option<Call<R>>,
    outcome: Option<T>,
    /// Whether the call was woken since a driver last took it.
    woken: bool,
    /// Whether a task drives.
    has_driver: bool,
    /// Whether nobody but the waiters needs the outcome: when the last one leaves, the call may end.
    detached: bool,
    /// Number of waiters now, and of all there ever were.
    waiting: usize,
    waited: usize,
    waiters: Waiters,
}

/// How a participant takes part in a call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Awaits the outcome, and drives only where no task does.
    Waiter,
    /// The task that drives.
    Driver,
}

/// The call panicked.
#[derive(Debug)]
pub(crate) struct Panicked;

/// What a participant does next.
pub(crate) enum Step<T> {
    Finished(T),
    /// Poll the call.
    Drive,
    Wait,
}

/// What remains of a call after a participant left it.
#[derive(PartialEq, Eq)]
pub(crate) enum Remaining {
    /// Other participants.
    InUse,
    /// Nobody who would poll it. A later participant can go on with it.
    Abandoned,
    /// Nobody, and it was detached: it should be cancelled.
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

    /// Returns whether nobody awaits or drives the call, so that it can be dropped without harm.
    pub(crate) fn is_abandoned(&self) -> bool {
        let state = lock(&self.state);
        state.waiting == 0 && !state.has_driver
    }

    /// Polls the call with `waker`, which has to call [`wake_drivers`](Self::wake_drivers). Pending if another driver
    /// is polling it.
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

    /// Puts another call in the place of one that has returned, unless there is an outcome. To be polled next.
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

    /// Sets the outcome, unless there is one. `before_wake` gets the number of waiters that there ever were, and runs
    /// before any of them is woken.
    ///
    /// Must be called for each call in the end. A call that owns its own waker is not dropped otherwise.
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

    /// Notes that only waiters need the outcome from now on. Returns whether there is none.
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

    /// Returns the outcome, or registers `waker` for it. A participant that drives is also woken when the call is.
    ///
    /// A waiter drives only where no task does.
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

/// Wakers of all participants. Slots are used again, so that there are never more of them than participants at one time.
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

    /// Returns the waker that was replaced, to be dropped without the lock.
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

    /// Takes the wakers out: one registration wakes once.
    fn take(&mut self, which: impl Fn(&WaiterSlot) -> bool) -> Vec<Waker> {
        self.slots.iter_mut().filter(|slot| which(slot)).filter_map(|slot| slot.waker.take()).collect()
    }
}

/// Wakes everyone, also if one of the wakers panics.
fn wake_all(wakers: Vec<Waker>) {
    for waker in wakers {
        quietly(|| waker.wake());
    }
}

/// Drops a foreign value, whose destructor may panic.
fn drop_quietly<V>(value: V) {
    quietly(|| drop(value));
}

/// Runs foreign code that may panic where that would lose wake-ups. The panic hook has told of it.
fn quietly(f: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(f)) {
        // The destructor of a panic's payload may panic as well. The payload of that one is leaked.
        std::mem::forget(catch_unwind(AssertUnwindSafe(|| drop(payload))));
    }
}
