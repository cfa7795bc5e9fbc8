//! Records the calls of the token source: which are open, how many there were, and whether two calls for the same
//! params are open without a reason.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tower_aiuta_auth::AuthParams;

use crate::counts::Count;
use crate::invalidations::{Invalidations, Poll};
use crate::invariants::{Invariant, Violations};

pub(crate) struct SourceCalls {
    pub(crate) calls: Count,
    pub(crate) succeeded: Count,
    open: Mutex<HashMap<AuthParams, Vec<Open>>>,
    fetch_timeout: Duration,
    invalidations: Arc<Invalidations>,
    violations: Arc<Violations>,
}

struct Open {
    number: u64,
    began_in: Poll,
}

impl SourceCalls {
    pub(crate) fn new(fetch_timeout: Duration, invalidations: Arc<Invalidations>, violations: Arc<Violations>) -> Self {
        let (calls, succeeded, open) = (Count::default(), Count::default(), Mutex::default());
        Self { calls, succeeded, open, fetch_timeout, invalidations, violations }
    }

    /// Returns the number of open calls.
    pub(crate) fn open(&self) -> usize {
        self.lock().values().map(Vec::len).sum()
    }

    /// Records that a call begins. It is open until the guard is dropped.
    ///
    /// Rule C1: if the previous call for the same params is still open, it was invalidated or has timed out. Its fetch
    /// cannot have started before the poll in which it began.
    pub(crate) fn begin(self: &Arc<Self>, params: &AuthParams) -> OpenCall {
        let number = self.calls.next();
        let began_in = Poll::current();
        self.violations.check(Invariant::SingleFlight, began_in.is_some(), || {
            "the token source was first polled outside a caller's poll".to_owned()
        });
        if let Some(began_in) = began_in {
            let mut open = self.lock();
            let of_key = open.entry(params.clone()).or_default();
            if let Some(last) = of_key.last() {
                // A tolerance of one millisecond, because timers are rounded.
                let timed_out = last.began_in.began().elapsed() + Duration::from_millis(1) >= self.fetch_timeout;
                let is_justified = timed_out || self.invalidations.any_between(last.began_in, began_in);
                self.violations.check(Invariant::SingleFlight, is_justified, || {
                    format!(
                        "call {number} of the token source began while call {} for the same params was open",
                        last.number
                    )
                });
            }
            of_key.push(Open { number, began_in });
        }
        OpenCall { source_calls: Arc::clone(self), params: params.clone(), number }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AuthParams, Vec<Open>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct OpenCall {
    source_calls: Arc<SourceCalls>,
    params: AuthParams,
    number: u64,
}

impl OpenCall {
    /// Records that the call returned a token.
    pub(crate) fn succeeded(self) {
        self.source_calls.succeeded.add();
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let mut open = self.source_calls.lock();
        if let Some(of_key) = open.get_mut(&self.params) {
            of_key.retain(|call| call.number != self.number);
            if of_key.is_empty() {
                open.remove(&self.params);
            }
        }
    }
}
