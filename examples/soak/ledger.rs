//! The calls of the source: which are open, how many there were, and whether two for the same params are open without a reason.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tower_aiuta_auth::AuthParams;

use crate::counts::Count;
use crate::findings::{Findings, Invariant};
use crate::forgets::{Forgets, Poll};

pub(crate) struct Ledger {
    pub(crate) calls: Count,
    pub(crate) good: Count,
    open: Mutex<HashMap<AuthParams, Vec<Open>>>,
    fetch_timeout: Duration,
    forgets: Arc<Forgets>,
    findings: Arc<Findings>,
}

struct Open {
    number: u64,
    began_in: Poll,
}

impl Ledger {
    pub(crate) fn new(fetch_timeout: Duration, forgets: Arc<Forgets>, findings: Arc<Findings>) -> Self {
        let (calls, good, open) = (Count::default(), Count::default(), Mutex::default());
        Self { calls, good, open, fetch_timeout, forgets, findings }
    }

    /// How many calls are open.
    pub(crate) fn open(&self) -> usize {
        self.lock().values().map(Vec::len).sum()
    }

    /// A call begins; it is open until the guard is dropped.
    ///
    /// Rule C1: the one before it, if it is still open, was forgotten, or is late and has been given up. Its flight is no younger than the turn
    /// it began in.
    pub(crate) fn begin(self: &Arc<Self>, params: &AuthParams) -> OpenCall {
        let number = self.calls.next();
        let began_in = Poll::current();
        self.findings.check(Invariant::OneFlightForAKey, began_in.is_some(), || {
            "a source was called first where nobody waited for it".to_owned()
        });
        if let Some(began_in) = began_in {
            let mut open = self.lock();
            let of_key = open.entry(params.clone()).or_default();
            if let Some(last) = of_key.last() {
                // A millisecond for clocks that are rounded.
                let is_late = last.began_in.began().elapsed() + Duration::from_millis(1) >= self.fetch_timeout;
                let is_justified = is_late || self.forgets.any_between(last.began_in, began_in);
                self.findings.check(Invariant::OneFlightForAKey, is_justified, || {
                    format!("call {number} of the source began while call {} for the same params was open", last.number)
                });
            }
            of_key.push(Open { number, began_in });
        }
        OpenCall { ledger: Arc::clone(self), params: params.clone(), number }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AuthParams, Vec<Open>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct OpenCall {
    ledger: Arc<Ledger>,
    params: AuthParams,
    number: u64,
}

impl OpenCall {
    /// It brings a token.
    pub(crate) fn good(self) {
        self.ledger.good.add();
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let mut open = self.ledger.lock();
        if let Some(of_key) = open.get_mut(&self.params) {
            of_key.retain(|call| call.number != self.number);
            if of_key.is_empty() {
                open.remove(&self.params);
            }
        }
    }
}
