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
//! No wake-up is lost. One that arrives wakes every driver that is registered, and whoever registers later takes the call at once; so it does
//! no harm if one of them is dropped instead of polled. Only a driver that finds the call taken out has to wait for nothing: a wake-up that
//! arrives meanwhile is remembered (`woken`), and the drivers are woken again when the call is put back.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::SystemTime;

use super::clock::ClockReading;
use super::entry::Entry;
use super::lock;
use super::runtime::Home;
use super::shared_call::Seats;
pub(crate) use super::shared_call::{Role, Seat, View};
use crate::error::{AuthError, TokenError};
use crate::jwt::Jwt;
use crate::params::AuthParams;
use crate::source::SourceCall;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
    Cancelled,
}

/// For the flight's span: no token.
impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(_) => f.write_str("Token"),
            Self::Failed(error) => write!(f, "Failed({:?})", error.kind()),
            Self::Cancelled => f.write_str("Cancelled"),
        }
    }
}

/// What a driver's turn with the call brought.
pub(crate) enum Turn {
    /// Nothing yet, or another driver has the call.
    Pending,
    Done(Result<Jwt, TokenError>),
    Panicked,
}

pub(crate) struct Fetch {
    pub(crate) params: AuthParams,
    pub(crate) reason: Reason,
    pub(crate) started: ClockReading,
    /// When it is late, by the clock as it is (rule C6).
    pub(crate) deadline: SystemTime,
    /// Opened at the first turn, which is never under a lock: a subscriber is somebody else's code.
    span: OnceLock<trace::FetchSpan>,
    pub(crate) home: Home,
    pub(super) state: Mutex<State>,
    pub(super) air: Arc<FetchCounter>,
}

/// What is known of all flights of a cache together.
#[derive(Default)]
pub(crate) struct FetchCounter {
    /// How many are not over.
    flights: AtomicUsize,
    /// Somebody left one that nobody else awaits or drives, since this was last asked.
    pub(super) abandoned: AtomicBool,
}

impl FetchCounter {
    pub(crate) fn flights(&self) -> usize {
        self.flights.load(Ordering::Relaxed)
    }

    /// Whether there may be a flight that nobody awaits or drives; false until there may be another.
    pub(crate) fn may_be_abandoned(&self) -> bool {
        self.abandoned.swap(false, Ordering::Relaxed)
    }
}

pub(super) struct State {
    /// `None` while a driver polls it, and once the flight is over.
    pub(super) call: Option<SourceCall>,
    pub(super) outcome: Option<Outcome>,
    /// A wake-up came since a driver last took the call.
    pub(super) woken: bool,
    /// A task drives the flight.
    pub(super) has_task: bool,
    /// The cache does not want the result any more: the flight lives as long as somebody awaits it.
    pub(super) detached: bool,
    /// Requests that await the outcome now, and that ever did.
    pub(super) waiting: usize,
    pub(super) waited: usize,
    pub(super) seats: Seats,
}

impl Fetch {
    pub(crate) fn new(
        params: AuthParams,
        reason: Reason,
        (started, deadline): (ClockReading, SystemTime),
        call: SourceCall,
        air: Arc<FetchCounter>,
    ) -> Arc<Self> {
        air.flights.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self {
            span: OnceLock::new(),
            home: Home::default(),
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
            air,
        })
    }

    /// The token that was known to be refused when this flight began.
    pub(crate) fn replaces(&self) -> Option<&Jwt> {
        match &self.reason {
            Reason::Rejected(rejected) => Some(rejected),
            Reason::Miss | Reason::Refresh(_) => None,
        }
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
        let polled = self.span.get_or_init(|| trace::fetch(self.reason.name())).within(|| {
            let poll = || call.as_mut().poll(&mut Context::from_waker(&waker));
            catch_unwind(AssertUnwindSafe(|| self.home.within(poll)))
        });
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
        self.air.flights.fetch_sub(1, Ordering::Relaxed);
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
        self.finish(Outcome::Cancelled, || {});
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
impl Wake for Fetch {
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
