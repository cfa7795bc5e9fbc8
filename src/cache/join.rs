//! Joins the running fetch for a key, or starts one (rule C1).

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

/// The arguments of [`TokenCache::join_or_start`].
#[derive(Clone, Copy)]
pub(super) struct Demand<'a> {
    pub(super) params: &'a AuthParams,
    /// The token that the caller found in the cache.
    pub(super) seen: Option<&'a Arc<Entry>>,
    pub(super) reason: FetchReason,
    /// The uncorrected time of the clock.
    pub(super) now: SystemTime,
    /// The clock offset for a new token. `None` stands for the offset in force (rule H1).
    pub(super) offset: Option<Offset>,
}

/// The result of [`TokenCache::join_or_start`]: a token, or a fetch that the caller has joined. `J` is the value that
/// the caller's `join` returned for the fetch.
pub(super) enum Join<J> {
    Cached(Arc<Entry>),
    /// A rejected token, because it is too early to fetch another one (rule E5).
    Stopgap(Arc<Entry>),
    Joined(J),
    Started(J),
}

impl TokenCache {
    /// Joins the running fetch for a key, or starts one. Calls `join` to register the caller with the fetch.
    ///
    /// # Errors
    ///
    /// Fails if the source asked for a pause, or if `max_concurrent_fetches` fetches are running.
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
            // The offset is read under the lock. So a new token is made with an offset that was adopted after `now`
            // (rule H1).
            let at = offset.map_or_else(|| state.clock.reading_at(now), |offset| ClockReading::new(now, offset));
            // Another fetch may have completed since the caller's lookup. That fetch may even have started after `now`.
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
            // A wrong clock explains the rejections, so a token that is made with another offset does not wait (rule
            // H1).
            let is_explained = |stopgap: &Entry| offset.is_some_and(|offset| !stopgap.made.is_corrected_by(offset));
            let stopgap = state.rejections.get(params).and_then(|rejected| rejected.stopgap(now).cloned());
            if let Some(entry) = stopgap.filter(|stopgap| !is_explained(stopgap)) {
                return Ok(Join::Stopgap(entry));
            }
            state.cooldowns.check(params, now)?;
            let late = current.filter(|fetch| fetch.deadline.is_missed(now)).cloned();
            if late.is_none() && !state.counter.has_place(params.partition()) {
                drop(in_flight);
                if !std::mem::take(&mut may_sweep) {
                    return Err(AuthError::overloaded());
                }
                state.sweep(now);
                continue;
            }
            match &late {
                // A refresh that timed out has failed, so the next refresh has to wait (rule D3).
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
        // The replaced fetch may not publish its token any more. It only continues for the requests that await it.
        if let Some(replaced) = replaced {
            replaced.detach();
        }
        // The caller polls a new fetch for the first time, in its own context. If the source does not have to wait,
        // this poll completes the fetch. Otherwise a task drives the fetch, if a runtime is entered.
        if let Some(fetch) = started {
            state.drive(&fetch);
            if fetch.outcome().is_none() {
                fetch.runtime.spawn(|| FetchTask::new(&self.state, &fetch));
            }
        }
        Ok(joined)
    }
}

/// Returns whether the caller may join `fetch`. A caller without a runtime may not join a fetch that a task drives. It
/// has no timer, so it would not notice that the runtime of the task has stopped. It starts its own fetch instead, and
/// that fetch publishes the token (rule C4).
fn may_join(fetch: &Fetch) -> bool {
    !fetch.deadline.has_timer() || runtime::is_entered()
}
