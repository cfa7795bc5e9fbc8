//! Seats in a flight: who awaits it, who drives it, and how to wake them.

use std::sync::Arc;
use std::task::Waker;

use super::fetch::{Fetch, Outcome};
use crate::cache::lock;
use crate::sync::atomic::Ordering;

/// Who has a seat in a flight.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// A request that awaits the outcome; it drives where no task does.
    Waiter,
    /// The task that drives.
    Task,
}

/// A place in a flight, given up when dropped.
pub(crate) struct Seat {
    flight: Arc<Fetch>,
    role: Role,
    number: usize,
}

impl Seat {
    pub(crate) fn take(flight: Arc<Fetch>, role: Role) -> Self {
        let mut state = lock(&flight.state);
        match role {
            Role::Waiter => {
                state.waiting += 1;
                state.waited += 1;
            }
            Role::Task => state.has_task = true,
        }
        let number = state.seats.add();
        drop(state);
        Self { flight, role, number }
    }

    pub(crate) fn flight(&self) -> &Arc<Fetch> {
        &self.flight
    }

    /// The outcome. Without one yet, `waker` is woken when there is; if this seat drives, also whenever the call wants to be polled.
    ///
    /// A waiter drives where no task does, and where it could not give up in time (`has_timer`) if the task's runtime stands still.
    pub(crate) fn look(&self, waker: &Waker, has_timer: bool) -> View {
        let waker = waker.clone();
        let mut state = lock(&self.flight.state);
        if let Some(outcome) = &state.outcome {
            return View::Over(outcome.clone());
        }
        let drives = self.role == Role::Task || !state.has_task || !has_timer;
        let unused = state.seats.set(self.number, waker, drives);
        drop(state);
        drop(unused);
        if drives { View::Drive } else { View::Wait }
    }
}

/// What somebody in a seat sees.
pub(crate) enum View {
    Over(Outcome),
    /// The flight goes on, and this seat drives it.
    Drive,
    Wait,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = lock(&self.flight.state);
        let waker = state.seats.remove(self.number);
        match self.role {
            Role::Waiter => state.waiting -= 1,
            Role::Task => state.has_task = false,
        }
        let unawaited = state.waiting == 0;
        let (has_task, detached) = (state.has_task, state.detached);
        drop(state);
        drop(waker);
        if unawaited && detached {
            self.flight.abort();
        } else if unawaited && !has_task {
            self.flight.air.abandoned.store(true, Ordering::Relaxed);
        }
    }
}

/// The wakers of all seats. Numbers of seats given up are used again, so that it is never larger than the most that sat at once.
///
/// Cloning or dropping a waker may run an executor's code, so wakers come and leave by value: cloned before the lock, dropped after it.
#[derive(Default)]
pub(crate) struct Seats {
    taken: Vec<Registered>,
    free: Vec<usize>,
}

#[derive(Default)]
struct Registered {
    waker: Option<Waker>,
    drives: bool,
}

impl Seats {
    pub(crate) fn add(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.taken.push(Registered::default());
            self.taken.len() - 1
        })
    }

    /// Answers the waker that is not needed any more.
    #[must_use]
    pub(crate) fn set(&mut self, number: usize, waker: Waker, drives: bool) -> Option<Waker> {
        let seat = &mut self.taken[number];
        seat.drives = drives;
        seat.waker.replace(waker)
    }

    #[must_use]
    pub(crate) fn remove(&mut self, number: usize) -> Option<Waker> {
        self.free.push(number);
        self.taken[number].waker.take()
    }

    pub(crate) fn drivers(&mut self) -> Vec<Waker> {
        self.take_wakers(|seat| seat.drives)
    }

    pub(crate) fn everyone(&mut self) -> Vec<Waker> {
        self.take_wakers(|_| true)
    }

    /// A waker is woken once for each time it registers.
    fn take_wakers(&mut self, which: impl Fn(&Registered) -> bool) -> Vec<Waker> {
        self.taken.iter_mut().filter(|seat| which(seat)).filter_map(|seat| seat.waker.take()).collect()
    }
}
