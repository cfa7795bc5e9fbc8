//! Joining the fetch that runs for a key, or starting one (rule C1).

use std::sync::Arc;
use std::time::SystemTime;

use super::entry::Entry;
use super::fetch::Fetch;
use super::{TokenCache, lock, runtime};
use crate::error::{AuthError, AuthErrorKind};
use crate::params::AuthParams;
use crate::source::FetchReason;

/// The fetch that serves a key, as `J`, or the token that makes it needless.
pub(super) enum Join<J> {
    Cached(Arc<Entry>),
    Joined(J),
    Started(Arc<Fetch>, J),
}

impl TokenCache {
    /// Joins the fetch for `params` by `join`, or starts one. `seen` is the token that the caller found in the cache and
    /// wants to replace, `now` the clock's time, not corrected.
    ///
    /// # Errors
    ///
    /// If the source asked for a pause, or `max_concurrent_fetches` are running.
    pub(super) fn join_or_start<J>(
        &self,
        params: &AuthParams,
        seen: Option<&Arc<Entry>>,
        reason: FetchReason,
        now: SystemTime,
        join: impl Fn(&Arc<Fetch>) -> J,
    ) -> Result<Join<J>, AuthError> {
        let joined = self.try_join_or_start(params, seen, reason, now, &join);
        let is_full = matches!(&joined, Err(error) if error.kind() == AuthErrorKind::Overloaded);
        if is_full && self.state.sweep(now) {
            return self.try_join_or_start(params, seen, reason, now, &join);
        }
        joined
    }

    fn try_join_or_start<J>(
        &self,
        params: &AuthParams,
        seen: Option<&Arc<Entry>>,
        reason: FetchReason,
        now: SystemTime,
        join: &impl Fn(&Arc<Fetch>) -> J,
    ) -> Result<Join<J>, AuthError> {
        let state = &*self.state;
        let late;
        let joined = {
            let mut in_flight = lock(&state.in_flight);
            // The offset is read under the lock: if a token of this key was rejected for a wrong clock since `now`, the
            // new one is made by the corrected clock (rule H1).
            let at = state.clock.reading_at(now);
            // Another fetch may have completed since this caller looked, and may have started after its `now`.
            if let Some(entry) = state.store.get(params) {
                let is_seen = seen.is_some_and(|seen| Arc::ptr_eq(seen, &entry));
                if !is_seen && !entry.is_expired(at.corrected()) {
                    return Ok(Join::Cached(entry));
                }
            }
            if let Some(fetch) = in_flight.get(params).filter(|fetch| !fetch.timed_out(now)) {
                return Ok(Join::Joined(join(fetch)));
            }
            state.cooldowns.check(params.partition(), now)?;
            late = in_flight.remove(params);
            if late.is_none() && state.counter.running() >= state.max_concurrent_fetches {
                return Err(AuthError::overloaded());
            }
            match &late {
                // A refresh that timed out has failed, so the next one waits (rule D3).
                Some(late) if reason == FetchReason::RefreshAhead && late.reason == reason => Join::Joined(join(late)),
                _ => {
                    let fetch = state.start_fetch(params, seen, reason, at);
                    in_flight.insert(Arc::clone(&fetch));
                    let joined = join(&fetch);
                    Join::Started(fetch, joined)
                }
            }
        };
        if let Some(late) = late {
            state.time_out(&late);
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
