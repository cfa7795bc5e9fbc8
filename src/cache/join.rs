//! Joining the fetch that runs for a key, or starting one (rule C1).

use std::sync::Arc;
use std::time::SystemTime;

use super::clock::{ClockReading, Offset};
use super::entry::Entry;
use super::fetch::Fetch;
use super::{TokenCache, lock, runtime};
use crate::error::{AuthError, AuthErrorKind};
use crate::params::AuthParams;
use crate::source::FetchReason;

/// Why a caller asks for a token, and what it knows.
#[derive(Clone, Copy)]
pub(super) struct Demand<'a> {
    pub(super) params: &'a AuthParams,
    /// The token that the caller found in the cache.
    pub(super) seen: Option<&'a Arc<Entry>>,
    pub(super) reason: FetchReason,
    /// The clock's time, not corrected.
    pub(super) now: SystemTime,
    /// The offset that a new token is to be made by, instead of the one in force (rule H1).
    pub(super) offset: Option<Offset>,
}

/// The fetch that serves a key, as `J`, or the token that makes it needless.
pub(super) enum Join<J> {
    Cached(Arc<Entry>),
    /// A rejected token, since it is too early to fetch another (rule E5).
    Stopgap(Arc<Entry>),
    Joined(J),
    Started(Arc<Fetch>, J),
}

impl TokenCache {
    /// Joins the fetch for a key by `join`, or starts one.
    ///
    /// # Errors
    ///
    /// If the source asked for a pause, or `max_concurrent_fetches` are running.
    pub(super) fn join_or_start<J>(
        &self,
        demand: Demand<'_>,
        join: impl Fn(&Arc<Fetch>) -> J,
    ) -> Result<Join<J>, AuthError> {
        let joined = self.try_join_or_start(demand, &join);
        let is_full = matches!(&joined, Err(error) if error.kind() == AuthErrorKind::Overloaded);
        if is_full && self.state.sweep(demand.now) {
            return self.try_join_or_start(demand, &join);
        }
        joined
    }

    fn try_join_or_start<J>(&self, demand: Demand<'_>, join: &impl Fn(&Arc<Fetch>) -> J) -> Result<Join<J>, AuthError> {
        let Demand { params, seen, reason, now, offset } = demand;
        let state = &*self.state;
        let late;
        let mut replaced = None;
        let joined = {
            let mut in_flight = lock(&state.in_flight);
            // The offset is read under the lock: if one was adopted since `now`, the new token is made by it (rule H1).
            let at = offset.map_or_else(|| state.clock.reading_at(now), |offset| ClockReading::new(now, offset));
            // Another fetch may have completed since this caller looked, and may have started after its `now`.
            if let Some(entry) = state.store.get(params) {
                let is_seen = seen.is_some_and(|seen| Arc::ptr_eq(seen, &entry));
                if !is_seen && (now < entry.made.raw || !entry.is_expired(now)) {
                    return Ok(Join::Cached(entry));
                }
            }
            let current = in_flight.get(params);
            if let Some(fetch) = current.filter(|fetch| !fetch.deadline.is_missed(now) && may_join(fetch)) {
                return Ok(Join::Joined(join(fetch)));
            }
            if let Some(entry) = state.rejections.get(params).and_then(|rejected| rejected.stopgap(now).cloned()) {
                return Ok(Join::Stopgap(entry));
            }
            state.cooldowns.check(params.partition(), now)?;
            late = current.filter(|fetch| fetch.deadline.is_missed(now)).cloned();
            if late.is_none() && state.counter.running() >= state.max_concurrent_fetches {
                return Err(AuthError::overloaded());
            }
            match &late {
                // A refresh that timed out has failed, so the next one waits (rule D3).
                Some(late) if reason == FetchReason::RefreshAhead && late.reason == reason => Join::Joined(join(late)),
                _ => {
                    let forced = in_flight.forced_until.is_some_and(|pause| pause.left(now).is_some());
                    let fetch = state.start_fetch(params, seen, reason, at, forced);
                    replaced = in_flight.insert(Arc::clone(&fetch));
                    let joined = join(&fetch);
                    Join::Started(fetch, joined)
                }
            }
        };
        if let Some(late) = late {
            state.abandon(&late);
        } else if let Some(replaced) = replaced {
            // It can't publish any more, so it goes on for its waiters only.
            replaced.detach();
        }
        Ok(joined)
    }

    /// Polls a new fetch for the first time, in the caller's context: a source that need not wait is done with it.
    /// Otherwise a task drives the fetch from here on, if a runtime is entered.
    pub(super) fn poll_first(&self, fetch: &Arc<Fetch>) {
        self.state.drive(fetch);
        if fetch.outcome().is_none() {
            runtime::spawn(&self.state, fetch);
        }
    }
}

/// A caller without a runtime has no timer in case the task's runtime stops, so it does not join what a task drives (rule
/// C4). It starts a fetch of its own, which publishes instead of the other.
fn may_join(fetch: &Fetch) -> bool {
    !fetch.deadline.has_timer() || runtime::is_entered()
}
