//! Joining the fetch that runs for a key, or starting one (rule C1).

use std::sync::Arc;
use std::time::SystemTime;

use super::clock::{ClockReading, Offset};
use super::entry::Entry;
use super::fetch::Fetch;
use super::wait::FetchTask;
use super::{TokenCache, lock, runtime};
use crate::error::AuthError;
use crate::params::AuthParams;
use crate::source::FetchReason;

/// Why a caller asks for a token, and what it knows.
#[derive(Clone, Copy)]
pub(super) struct Demand<'a> {
    pub(super) params: &'a AuthParams,
    /// The token that the caller found in the cache.
    pub(super) seen: Option<&'a Arc<Entry>>,
    pub(super) reason: FetchReason,
    /// The clock's uncorrected time.
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
    Started(J),
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
        let Demand { params, seen, reason, now, offset } = demand;
        let state = &*self.state;
        let mut may_sweep = true;
        let (joined, started, late, replaced) = loop {
            let mut in_flight = lock(&state.in_flight);
            // The offset is read under the lock. If one was adopted since `now`, the new token is made with it (rule H1).
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
            let late = current.filter(|fetch| fetch.deadline.is_missed(now)).cloned();
            if late.is_none() && state.counter.running() >= state.max_concurrent_fetches {
                drop(in_flight);
                if std::mem::take(&mut may_sweep) && state.sweep(now) {
                    continue;
                }
                return Err(AuthError::overloaded());
            }
            match &late {
                // A refresh that timed out has failed, so the next one waits (rule D3).
                Some(refresh) if reason == FetchReason::RefreshAhead && refresh.reason == reason => {
                    break (Join::Joined(join(refresh)), None, late, None);
                }
                _ => {
                    let forced = in_flight.forced_until.is_some_and(|pause| pause.left(now).is_some());
                    let fetch = state.start_fetch(params, seen, reason, at, forced);
                    let replaced = in_flight.insert(Arc::clone(&fetch));
                    break (Join::Started(join(&fetch)), Some(fetch), late, replaced);
                }
            }
        };
        if let Some(late) = late {
            state.abandon(&late);
        }
        // It may not publish any more, so it only continues for the requests that await it.
        if let Some(replaced) = replaced {
            replaced.detach();
        }
        // The first poll is the caller's, in its context: a source that need not wait is done with it. Otherwise a task
        // drives the fetch from here on, if a runtime is entered.
        if let Some(fetch) = started {
            state.drive(&fetch);
            if fetch.outcome().is_none() {
                fetch.runtime.spawn(|| FetchTask::new(&self.state, &fetch));
            }
        }
        Ok(joined)
    }
}

/// Returns whether the caller may join `fetch`. Without a runtime, the caller has no timer in case the task's runtime
/// stops. Then it starts its own fetch, which publishes instead (rule C4).
fn may_join(fetch: &Fetch) -> bool {
    !fetch.deadline.has_timer() || runtime::is_entered()
}
