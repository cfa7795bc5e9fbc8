//! Getting on a flight: the one that flies already, or a new one (rule C1).

use std::sync::Arc;
use std::time::SystemTime;

use super::entry::Entry;
use super::fetch::{Fetch, Reason, Turn};
use super::wait::{self, Waiter};
use super::{TokenCache, lock};
use crate::error::AuthError;
use crate::jwt::Jwt;
use crate::params::AuthParams;

/// What a caller saw in the cache before it asked for a flight.
#[derive(Clone, Copy)]
pub(super) enum Saw<'a> {
    /// Nothing, or a token that is no good any more.
    NoneUsable(Option<&'a Arc<Entry>>),
    /// A token that is good, and to be refreshed.
    RefreshDue(&'a Arc<Entry>),
}

impl<'a> Saw<'a> {
    fn entry(self) -> Option<&'a Arc<Entry>> {
        match self {
            Self::NoneUsable(entry) => entry,
            Self::RefreshDue(entry) => Some(entry),
        }
    }
}

/// The flight that serves a key, or why none is needed or possible.
pub(super) enum Boarded {
    Cached(Jwt),
    /// The one that flies; for a refresh it may just have ended.
    Joined(Arc<Fetch>, Option<Waiter>),
    Started(Arc<Fetch>, Option<Waiter>),
    Refused(AuthError),
    /// `max_concurrent_fetches` are in the air.
    Full,
}

impl TokenCache {
    /// Finds or makes the flight for `params`, with a seat in it unless it is only to refresh an entry. `now` is the clock's, not corrected.
    pub(super) fn board(&self, params: &AuthParams, saw: Saw<'_>, now: SystemTime) -> Boarded {
        let boarded = self.try_board(params, saw, now);
        if matches!(boarded, Boarded::Full) && self.inner.sweep(now) {
            return self.try_board(params, saw, now);
        }
        boarded
    }

    fn try_board(&self, params: &AuthParams, saw: Saw<'_>, now: SystemTime) -> Boarded {
        let inner = &*self.inner;
        let seat = |flight: &Arc<Fetch>| {
            matches!(saw, Saw::NoneUsable(_)).then(|| Waiter::new(self.clone(), Arc::clone(flight)))
        };
        let late;
        let started = {
            let mut flights = lock(&inner.flights);
            // The offset is read under the lock: if a token of this key was refused for a wrong clock since `now`, what is fetched from
            // here on is made by the right one (rule H1).
            let at = inner.clock.reading_at(now);
            // Another flight may have landed since this caller looked, and may have begun after this caller's `now`.
            if let Some(entry) = inner.store.get(params) {
                let known = saw.entry().is_some_and(|seen| Arc::ptr_eq(seen, &entry));
                if !known && !entry.is_over(at.corrected()) {
                    return Boarded::Cached(entry.jwt().clone());
                }
            }
            if let Some(flight) = flights.get(params).filter(|flight| !flight.is_late(now)) {
                return Boarded::Joined(Arc::clone(flight), seat(flight));
            }
            if let Err(error) = inner.holds.check(params.partition(), now) {
                return Boarded::Refused(error);
            }
            late = flights.remove(params);
            match (&late, saw) {
                (None, _) if inner.air.flights() >= inner.max_concurrent_fetches => return Boarded::Full,
                // A refresh that is late has failed, so the next one waits (rule D3).
                (Some(late), Saw::RefreshDue(_)) if matches!(late.reason, Reason::Refresh(_)) => {
                    Boarded::Joined(Arc::clone(late), None)
                }
                _ => {
                    let flight = inner.take_off(params, saw, at);
                    flights.insert(Arc::clone(&flight));
                    let seat = seat(&flight);
                    Boarded::Started(flight, seat)
                }
            }
        };
        if let Some(late) = late {
            inner.expire(&late);
        }
        started
    }

    /// Gives a new flight its first turn here and now: a source that need not wait is done with it. Otherwise a task goes on with it,
    /// where there is a runtime.
    pub(super) fn launch(&self, flight: &Arc<Fetch>) {
        match flight.drive() {
            Turn::Done(result) => self.inner.landed(flight, result.map_err(Some)),
            Turn::Panicked => self.inner.landed(flight, Err(None)),
            Turn::Pending => wait::spawn(&self.inner, flight),
        }
    }
}
