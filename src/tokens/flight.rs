//! A flight: one running call of the source, awaited by every request that needs its result.
//!
//! ```text
//! Flying (the call is in its slot) ⇄ Polled (a driver has taken it out) => Over (with an outcome, for good)
//! ```
//!
//! Anyone registered as a *driver* may poll the call: it is taken out of the slot under the lock, polled without it, and put back. With a
//! runtime the driver is a task, so that the fetch goes on when its callers are gone; without one, every waiter is a driver, and
//! whoever is polled next goes on with it.
//!
//! No wake-up is lost: one that arrives is remembered (`woken`) until a driver takes the call. If meanwhile the call is put back,
//! or a driver leaves who may have been the one that was woken, the other drivers are woken again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::SystemTime;

use super::entry::Entry;
use super::lock;
use crate::error::AuthError;
use crate::jwt::Jwt;
use crate::params::AuthParams;
use crate::source::{SourceCall, TokenError};
use crate::trace;

/// Why a flight began.
pub(crate) enum Reason {
    /// No usable token was in the cache.
    Miss,
    /// The token in the cache nears its end (rule D2).
    Refresh(Arc<Entry>),
    /// The last token was answered with 401; the source must not return it again (rule D5).
    Rejected(Jwt),
}

impl Reason {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Miss => "miss",
            Self::Refresh(_) => "refresh",
            Self::Rejected(_) => "rejected",
        }
    }
}

/// How a flight ended.
#[derive(Clone)]
pub(crate) enum Outcome {
    Token(Jwt),
    Failed(AuthError),
    /// Cut off: its runtime was shut down, or nobody needs it any more. Whoever still does starts another.
    Dead,
}

/// What a driver's turn with the call brought.
pub(crate) enum Turn {
    /// Nothing yet, or another driver has the call.
    Pending,
    Done(Result<Jwt, TokenError>),
    Panicked,
}

pub(crate) struct Flight {
    pub(crate) params: AuthParams,
    pub(crate) reason: Reason,
    pub(crate) started: SystemTime,
    /// When it is late (rule C6).
    deadline: SystemTime,
    /// Opened at the first turn, which is never under a lock: a subscriber is somebody else's code.
    span: OnceLock<trace::FlightSpan>,
    state: Mutex<State>,
    /// Flights of this cache that are not over, this one included.
    in_the_air: Arc<AtomicUsize>,
}

struct State {
    /// `None` while a driver polls it, and once the flight is over.
    call: Option<SourceCall>,
    outcome: Option<Outcome>,
    /// A wake-up came since a driver last took the call.
    woken: bool,
    /// A task drives the flight.
    has_task: bool,
    /// The cache does not want the result any more: the flight lives as long as somebody awaits it.
    detached: bool,
    /// Requests that await the outcome now, and that ever did.
    waiting: usize,
    waited: usize,
    seats: Seats,
}

impl Flight {
    pub(crate) fn new(
        params: AuthParams,
        reason: Reason,
        (started, deadline): (SystemTime, SystemTime),
        call: SourceCall,
        in_the_air: Arc<AtomicUsize>,
    ) -> Arc<Self> {
        in_the_air.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self {
            span: OnceLock::new(),
            params,
            reason,
            started,
            deadline,
            state: Mutex::new(State {
                call: Some(call),
                outcome: None,
                woken: false,
                has_task: false,
                detached: false,
                waiting: 0,
                waited: 0,
                seats: Seats::default(),
            }),
            in_the_air,
        })
    }

    /// Whether the token `jwt` was known to be refused when this flight began.
    pub(crate) fn replaces(&self, jwt: &Jwt) -> bool {
        matches!(&self.reason, Reason::Rejected(rejected) if rejected.same_as(jwt))
    }

    pub(crate) fn outcome(&self) -> Option<Outcome> {
        lock(&self.state).outcome.clone()
    }

    pub(crate) fn is_late(&self, now: SystemTime) -> bool {
        now >= self.deadline
    }

    pub(crate) fn has_task(&self) -> bool {
        lock(&self.state).has_task
    }

    /// Whether nobody awaits or drives it, so that it would be dropped unfinished without harm.
    pub(crate) fn is_abandoned(&self) -> bool {
        let state = lock(&self.state);
        state.waiting == 0 && !state.has_task
    }

    /// Polls the call, unless another driver is at it. Nothing is locked meanwhile (rule C2); a panic is caught (rule G1).
    pub(crate) fn drive(self: &Arc<Self>) -> Turn {
        let Some(mut call) = self.take_call() else { return Turn::Pending };
        let waker = Waker::from(Arc::clone(self));
        let polled = self
            .span
            .get_or_init(|| trace::flight(self.reason.name()))
            .within(|| catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(&mut Context::from_waker(&waker)))));
        match polled {
            Ok(Poll::Pending) => {
                self.put_back(call);
                Turn::Pending
            }
            Ok(Poll::Ready(result)) => {
                drop_call(call);
                Turn::Done(result)
            }
            Err(_panic) => {
                drop_call(call);
                Turn::Panicked
            }
        }
    }

    fn take_call(&self) -> Option<SourceCall> {
        let mut state = lock(&self.state);
        let call = state.call.take()?;
        state.woken = false;
        Some(call)
    }

    fn put_back(&self, call: SourceCall) {
        let mut state = lock(&self.state);
        if state.outcome.is_some() {
            drop(state);
            drop_call(call);
            return;
        }
        state.call = Some(call);
        let wakers = if state.woken { state.seats.drivers() } else { Vec::new() };
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Ends the flight, unless it is over: tells the books, then wakes everyone.
    ///
    /// Every flight has to come here in the end. Its call may hold the call's waker, which is the flight: only when the call is dropped
    /// can the flight be.
    pub(crate) fn finish(&self, outcome: Outcome, books: impl FnOnce()) {
        let mut state = lock(&self.state);
        if state.outcome.is_some() {
            return;
        }
        state.outcome = Some(outcome.clone());
        let (call, waited, wakers) = (state.call.take(), state.waited, state.seats.everyone());
        drop(state);
        self.in_the_air.fetch_sub(1, Ordering::Relaxed);
        if let Some(span) = self.span.get() {
            span.finished(&outcome, waited);
        }
        books();
        if let Some(call) = call {
            drop_call(call);
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Ends the flight without a result.
    pub(crate) fn abort(&self) {
        self.finish(Outcome::Dead, || {});
    }

    /// Tells the flight that the cache does not want its result any more; if nobody awaits it either, it ends here (rule C1).
    pub(crate) fn detach(&self) {
        let unwanted = {
            let mut state = lock(&self.state);
            state.detached = true;
            state.waiting == 0
        };
        if unwanted {
            self.abort();
        }
    }
}

/// The call's waker: whoever can drive is asked to.
impl Wake for Flight {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        state.woken = true;
        let wakers = state.seats.drivers();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// The source's code may panic while it is dropped, too.
fn drop_call(call: SourceCall) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(call)));
}

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
    flight: Arc<Flight>,
    role: Role,
    number: usize,
}

impl Seat {
    pub(crate) fn take(flight: Arc<Flight>, role: Role) -> Self {
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

    pub(crate) fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    /// The outcome. Without one yet, `waker` is woken when there is; if this seat drives, also whenever the call wants to be polled.
    ///
    /// A waiter drives where no task does, and where it could not give up in time (`has_timer`) if the task's runtime stands still.
    pub(crate) fn look(&self, waker: &Waker, has_timer: bool) -> View {
        let mut state = lock(&self.flight.state);
        if let Some(outcome) = &state.outcome {
            return View::Over(outcome.clone());
        }
        let drives = self.role == Role::Task || !state.has_task || !has_timer;
        let replaced = state.seats.set(self.number, waker, drives);
        drop(state);
        drop(replaced);
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
        let unwanted = state.waiting == 0 && state.detached;
        // This driver may be the one that was woken: let another take its turn.
        let wakers = if state.woken { state.seats.drivers() } else { Vec::new() };
        drop(state);
        drop(waker);
        if unwanted {
            self.flight.abort();
        }
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// The wakers of all seats. Numbers of seats given up are used again, so that it is never larger than the most that sat at once.
///
/// Dropping a waker may run an executor's code, so wakers leave by value and are dropped after the lock.
#[derive(Default)]
struct Seats {
    taken: Vec<Registered>,
    free: Vec<usize>,
}

#[derive(Default)]
struct Registered {
    waker: Option<Waker>,
    drives: bool,
}

impl Seats {
    fn add(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.taken.push(Registered::default());
            self.taken.len() - 1
        })
    }

    #[must_use]
    fn set(&mut self, number: usize, waker: &Waker, drives: bool) -> Option<Waker> {
        let seat = &mut self.taken[number];
        seat.drives = drives;
        match &seat.waker {
            Some(known) if known.will_wake(waker) => None,
            _ => seat.waker.replace(waker.clone()),
        }
    }

    #[must_use]
    fn remove(&mut self, number: usize) -> Option<Waker> {
        self.free.push(number);
        self.taken[number].waker.take()
    }

    fn drivers(&mut self) -> Vec<Waker> {
        self.take_wakers(|seat| seat.drives)
    }

    fn everyone(&mut self) -> Vec<Waker> {
        self.take_wakers(|_| true)
    }

    /// A waker is woken once for each time it registers.
    fn take_wakers(&mut self, which: impl Fn(&Registered) -> bool) -> Vec<Waker> {
        self.taken.iter_mut().filter(|seat| which(seat)).filter_map(|seat| seat.waker.take()).collect()
    }
}
