//! Records the calls of the token source: which are open, how many there were, and whether two calls for the same
//! params are open without a reason.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tower_aiuta_auth::{AuthParams, TokenRequest};

use crate::call::Poll;
use crate::counts::Count;
use crate::invalidations::Invalidations;
use crate::invariants::{Invariant, Violations};
use crate::issued::{Fetch, Issued};

/// A tolerance for timers, which are rounded.
const ROUNDING: Duration = Duration::from_millis(1);

/// How long a call may stay open after the layer decided to cancel it: another thread may be polling it.
const CANCELLED_WITHIN: Duration = Duration::from_millis(100);

/// Number of keys after which those without an open call are forgotten.
const REMEMBERED: usize = 4_096;

pub(crate) struct SourceCalls {
    pub(crate) calls: Count,
    pub(crate) succeeded: Count,
    /// Second calls within a fetch, whose first call returned a token that can't be used.
    pub(crate) second_calls: Count,
    /// Calls of callers without a runtime, beside that of a task.
    pub(crate) beside: Count,
    /// Calls of fetches that were replaced since nobody drove their runtime.
    pub(crate) abandoned: Count,
    open: Mutex<HashMap<AuthParams, OfKey>>,
    fetch_timeout: Duration,
    issued: Arc<Issued>,
    invalidations: Arc<Invalidations>,
    violations: Arc<Violations>,
}

/// The calls for one key.
#[derive(Default)]
struct OfKey {
    open: Vec<Open>,
    /// When a caller without a runtime last began a call.
    without_runtime: Option<Instant>,
}

struct Open {
    number: u64,
    /// The fetch that the call belongs to. Its first call began in this poll.
    fetch: Fetch,
    began: Instant,
    /// Whether the fetch of a caller without a runtime has replaced this one, which only goes on for its waiters.
    replaced: bool,
    /// When another call began that is only allowed if this one is being cancelled, and what is wrong otherwise.
    overlapped: Option<(Instant, String)>,
}

impl SourceCalls {
    pub(crate) fn new(
        fetch_timeout: Duration,
        issued: Arc<Issued>,
        invalidations: Arc<Invalidations>,
        violations: Arc<Violations>,
    ) -> Self {
        let [calls, succeeded, second_calls, beside, abandoned] = [(); 5].map(|()| Count::default());
        let open = Mutex::default();
        Self {
            calls,
            succeeded,
            second_calls,
            beside,
            abandoned,
            open,
            fetch_timeout,
            issued,
            invalidations,
            violations,
        }
    }

    /// Returns the number of open calls.
    pub(crate) fn open(&self) -> usize {
        self.lock().values().map(|of_key| of_key.open.len()).sum()
    }

    /// Records that a call begins. It is open until the guard is dropped.
    ///
    /// Rule C1: if the previous call for the same params is still open, it was invalidated or has timed out. Its fetch
    /// cannot have started before the poll in which it began.
    pub(crate) fn begin(self: &Arc<Self>, request: &TokenRequest) -> OpenCall {
        let number = self.calls.next();
        let params = request.params();
        let first_call = self.first_call(request);
        if first_call.is_some_and(|(_, is_second)| is_second) {
            self.second_calls.add();
        }
        let first_call = first_call.map(|(fetch, _)| fetch);
        let fetch = first_call.or_else(|| {
            // A caller may be the first to poll a fetch that another has started.
            let on_runtime = request.deadline().is_some();
            Poll::current().map(|began_in| Fetch { began_in, on_runtime })
        });
        self.violations.check(Invariant::SingleFlight, fetch.is_some(), || {
            "the token source was first polled outside a caller's poll".to_owned()
        });
        let now = Instant::now();
        if let Some(fetch) = fetch {
            let mut open = self.lock();
            if open.len() >= REMEMBERED {
                open.retain(|_, of_key| !of_key.open.is_empty());
            }
            let of_key = open.entry(params.clone()).or_default();
            // Rule C4: a caller without a runtime may have replaced this fetch before it was polled.
            let mut replaced =
                fetch.on_runtime && of_key.without_runtime.is_some_and(|began| began >= fetch.began_in.began);
            if !fetch.on_runtime {
                of_key.without_runtime = Some(now);
            }
            let last = of_key.open.iter_mut().rfind(|call| !call.replaced);
            if let Some(last) = last.filter(|_| !replaced) {
                let details = format!(
                    "call {number} of the token source began while call {} for the same params was open; on a runtime: \
                     {} and {}",
                    last.number, fetch.on_runtime, last.fetch.on_runtime
                );
                replaced = self.check_overlap(last, fetch, now, details);
            }
            of_key.open.push(Open { number, fetch, began: now, replaced, overlapped: None });
        }
        let (source_calls, params) = (Arc::clone(self), params.clone());
        OpenCall { source_calls, params, number, fetch, is_second: first_call.is_some(), returned: false }
    }

    /// Returns the fetch whose first call returned the token that this call is to replace, if it may be the second call
    /// of that fetch (rule D4). Anyone who drives the fetch may poll it first. Also returns whether it certainly is.
    fn first_call(&self, request: &TokenRequest) -> Option<(Fetch, bool)> {
        let replaced = self.issued.get(request.replaces().filter(|_| request.force_refresh())?.expose())?;
        (replaced.returned().elapsed() < self.fetch_timeout).then_some((replaced.fetch, replaced.is_unusable))
    }

    /// Returns whether the fetch of the new call was replaced before the call began.
    fn check_overlap(&self, last: &mut Open, fetch: Fetch, now: Instant, details: String) -> bool {
        let (before, after) = (last.fetch.began_in, fetch.began_in);
        if self.invalidations.any_between(before, after) {
            return false;
        }
        if before.began.elapsed() + ROUNDING >= self.fetch_timeout {
            return false;
        }
        // Rule C4: a caller without a runtime does not join a fetch that a task drives. The fetch of the task may have
        // started first, and been polled last.
        let task_was_first = match (last.fetch.on_runtime, fetch.on_runtime) {
            (true, false) => true,
            (false, true) => after.began <= last.began,
            _ => false,
        };
        if task_was_first {
            self.beside.add();
            last.replaced = last.fetch.on_runtime;
            return fetch.on_runtime;
        }
        // A fetch that nobody drives or awaits any more is cancelled when there is no room for another one (rule C5).
        if !last.fetch.on_runtime {
            last.overlapped.get_or_insert((now, details));
        } else {
            self.violations.record(Invariant::SingleFlight, || details);
        }
        false
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AuthParams, OfKey>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct OpenCall {
    source_calls: Arc<SourceCalls>,
    params: AuthParams,
    number: u64,
    pub(crate) fetch: Option<Fetch>,
    /// Whether it may be the second call of its fetch.
    pub(crate) is_second: bool,
    returned: bool,
}

impl OpenCall {
    /// Records that the call returned, and whether it was a token.
    pub(crate) fn returned(&mut self, succeeded: bool) {
        self.returned = true;
        if succeeded {
            self.source_calls.succeeded.add();
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let mut open = self.source_calls.lock();
        let Some(of_key) = open.get_mut(&self.params) else { return };
        let calls = &mut of_key.open;
        let call = calls.iter().position(|call| call.number == self.number).map(|at| calls.remove(at));
        drop(open);
        let Some(call) = call else { return };
        let returned = self.returned || std::thread::panicking();
        // Its own timer would have ended it in a task. Here a caller has done so.
        let is_late = call.fetch.began_in.began.elapsed() > self.source_calls.fetch_timeout;
        if !returned && is_late && call.fetch.on_runtime && Poll::current().is_some() {
            self.source_calls.abandoned.add();
        }
        if let Some((at, details)) = call.overlapped {
            let was_cancelled = !returned && at.elapsed() < CANCELLED_WITHIN;
            self.source_calls.violations.check(Invariant::SingleFlight, was_cancelled, || details);
        }
    }
}
