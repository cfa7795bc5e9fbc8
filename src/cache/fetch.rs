//! [`Fetch`]: one call of the token source for one key, shared by every request that needs its result.
//!
//! ```text
//! start_fetch ─▶ drive ─┬─ ready ─────────────────────────────────────────▶ complete ─▶ Token | Failed
//!                       └─ pending: a task or the waiters drive it
//!                            ├─ ready ────────────────────────────────────▶ complete ─▶ Token | Failed
//!                            ├─ past its deadline ────────────────────────▶ time_out ─▶ Failed
//!                            └─ nobody needs it, or its runtime is gone ──▶ cancel ───▶ Cancelled
//! ```
//!
//! [`SharedCall`] is the mechanism. This module adds the data of one key: params, reason, deadline, span and runtime.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::task::{Poll, Wake, Waker};
use std::time::SystemTime;

use super::clock::ClockReading;
use super::entry::Entry;
use super::lock;
use super::lookup::TokenOrigin;
use super::recursion;
use super::runtime::{Deadline, HomeRuntime};
use super::shared_call::{Panicked, Remaining, Role, SharedCall, Step};
use crate::error::{AuthError, TokenError};
use crate::jwt::Jwt;
use crate::params::AuthParams;
use crate::source::{FetchReason, SourceCall};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::trace;

/// How a fetch ended.
#[derive(Clone)]
pub(crate) enum Outcome {
    Token(Arc<Entry>, TokenOrigin),
    Failed(AuthError),
    /// The fetch ended without a result, because its runtime was shut down or nobody needed the result any more. If
    /// there is still a waiter, it starts another fetch.
    Cancelled,
}

/// The span of the fetch records this text, so it does not contain the token.
impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(..) => f.write_str("Token"),
            Self::Failed(error) => write!(f, "Failed({:?})", error.kind()),
            Self::Cancelled => f.write_str("Cancelled"),
        }
    }
}

/// The result of the source's call. `Err(None)` means that the source panicked.
pub(crate) type FetchResult = Result<Jwt, Option<TokenError>>;

pub(crate) struct Fetch {
    pub(crate) params: AuthParams,
    pub(crate) reason: FetchReason,
    /// The token that this fetch replaces, if that token expires soon or was rejected.
    pub(crate) replaces: Option<Arc<Entry>>,
    pub(crate) started: ClockReading,
    pub(crate) deadline: Deadline,
    /// The time of the second call of the source. The source is called again if the first token can't be used (rule
    /// D4).
    second_call: OnceLock<ClockReading>,
    /// Created at the first poll. No lock is held at that time, because a tracing subscriber is foreign code.
    span: OnceLock<trace::FetchSpan>,
    pub(crate) runtime: HomeRuntime,
    call: SharedCall<Result<Jwt, TokenError>, Outcome>,
    counter: Arc<FetchCounter>,
}

impl Fetch {
    pub(crate) fn new(
        params: AuthParams,
        (reason, replaces): (FetchReason, Option<Arc<Entry>>),
        (started, deadline): (ClockReading, Deadline),
        call: SourceCall,
        counter: Arc<FetchCounter>,
    ) -> Arc<Self> {
        counter.add(params.partition());
        Arc::new(Self {
            params,
            reason,
            replaces,
            started,
            deadline,
            second_call: OnceLock::new(),
            span: OnceLock::new(),
            runtime: HomeRuntime::default(),
            call: SharedCall::new(call),
            counter,
        })
    }

    pub(crate) fn outcome(&self) -> Option<Outcome> {
        self.call.outcome()
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.call.is_abandoned()
    }

    /// Polls the call of the source.
    pub(crate) fn poll(self: &Arc<Self>) -> Poll<FetchResult> {
        let waker = Waker::from(Arc::clone(self));
        let span = self.span.get_or_init(|| trace::fetch(self.reason.name()));
        let polled = span.within(|| self.call.poll(&waker));
        polled.map(|polled| match polled {
            Ok(result) => result.map_err(Some),
            Err(Panicked) => Err(None),
        })
    }

    /// Returns when the current or last call of the source started.
    pub(crate) fn call_started(&self) -> ClockReading {
        self.second_call.get().copied().unwrap_or(self.started)
    }

    /// Claims the second call of the source, which starts at `now`. Returns the reading of the clock for this call.
    /// Returns `None` if the second call was claimed before.
    pub(crate) fn claim_second_call(&self, now: SystemTime) -> Option<ClockReading> {
        let at = self.started.later(now);
        self.second_call.set(at).ok().map(|()| at)
    }

    /// Continues the fetch with the second call. The caller must poll the fetch next.
    pub(crate) fn restart(&self, call: SourceCall) {
        self.call.restart(call);
    }

    /// Ends the fetch, unless it has ended already. `before_wake` runs before any waiter is woken.
    pub(crate) fn finish(&self, outcome: Outcome, before_wake: impl FnOnce()) {
        self.call.finish(outcome.clone(), |waited| {
            self.counter.remove(self.params.partition());
            if let Some(span) = self.span.get() {
                span.finished(&outcome, waited);
            }
            before_wake();
        });
    }

    /// Ends the fetch without a result.
    pub(crate) fn cancel(&self) {
        self.finish(Outcome::Cancelled, || {});
    }

    /// Records that the cache does not need the result any more. If there is no waiter, cancels the fetch (rule C1).
    pub(crate) fn detach(&self) {
        if self.call.detach() {
            self.cancel();
        }
    }
}

/// The waker that the source gets.
impl Wake for Fetch {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        recursion::outside(|| self.call.wake_drivers());
    }
}

/// Counts the running fetches of a cache, including those that may not publish their token any more. Decides whether
/// another fetch may start (rule C5).
pub(crate) struct FetchCounter {
    /// Maximum number of running fetches.
    places: usize,
    running: AtomicUsize,
    /// The number of running fetches of each partition that has any.
    by_partition: Mutex<HashMap<String, usize>>,
    /// Whether a fetch was abandoned since the last call of [`take_abandoned`](Self::take_abandoned). An abandoned
    /// fetch has no waiter and no task.
    abandoned: AtomicBool,
}

impl FetchCounter {
    pub(crate) fn new(places: usize) -> Self {
        Self {
            places,
            running: AtomicUsize::default(),
            by_partition: Mutex::default(),
            abandoned: AtomicBool::default(),
        }
    }

    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// Returns whether another fetch for a partition may start.
    ///
    /// Once half the places are taken, a partition gets at most a quarter of them. So the hung fetches of one user or
    /// tenant leave places for the others.
    pub(crate) fn has_place(&self, partition: Option<&str>) -> bool {
        let running = self.running();
        let Some(partition) = partition.filter(|_| running >= self.places.div_ceil(2)) else {
            return running < self.places;
        };
        let of_partition = lock(&self.by_partition).get(partition).copied().unwrap_or_default();
        running < self.places && of_partition < (self.places / 4).max(1)
    }

    fn add(&self, partition: Option<&str>) {
        self.running.fetch_add(1, Ordering::Relaxed);
        if let Some(partition) = partition {
            *lock(&self.by_partition).entry(partition.to_owned()).or_default() += 1;
        }
    }

    fn remove(&self, partition: Option<&str>) {
        self.running.fetch_sub(1, Ordering::Relaxed);
        if let Some(partition) = partition {
            let mut by_partition = lock(&self.by_partition);
            if let Some(running) = by_partition.get_mut(partition) {
                *running -= 1;
                if *running == 0 {
                    by_partition.remove(partition);
                }
            }
        }
    }

    /// Returns whether there may be an abandoned fetch, and clears the flag.
    pub(crate) fn take_abandoned(&self) -> bool {
        self.abandoned.swap(false, Ordering::Relaxed)
    }
}

/// Keeps a participant of a fetch registered until this guard is dropped.
pub(crate) struct WaiterGuard {
    fetch: Arc<Fetch>,
    role: Role,
    slot: usize,
}

impl WaiterGuard {
    pub(crate) fn join(fetch: Arc<Fetch>, role: Role) -> Self {
        let slot = fetch.call.join(role);
        Self { fetch, role, slot }
    }

    pub(crate) fn fetch(&self) -> &Arc<Fetch> {
        &self.fetch
    }

    pub(crate) fn poll(&self, waker: &Waker) -> Step<Outcome> {
        self.fetch.call.poll_outcome(self.slot, self.role, waker)
    }
}

impl Drop for WaiterGuard {
    fn drop(&mut self) {
        match self.fetch.call.leave(self.slot, self.role) {
            Remaining::InUse => {}
            Remaining::Abandoned => self.fetch.counter.abandoned.store(true, Ordering::Relaxed),
            Remaining::Unwanted => self.fetch.cancel(),
        }
    }
}
