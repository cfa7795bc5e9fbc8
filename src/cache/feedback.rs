//! Evaluates Aiuta's responses. A response shows whether Aiuta accepted or rejected the token, and the time of Aiuta's
//! clock.

use std::sync::Arc;
use std::time::SystemTime;

use super::entry::Entry;
use super::lookup::{Miss, Replacement, ResolvedToken, TokenOrigin};
use super::wait::Lookup;
use super::{TokenCache, lock};
use crate::params::AuthParams;
use crate::source::FetchReason;

impl TokenCache {
    /// Returns whether a token has expired since it was resolved. If so, the request should get another token before it
    /// is sent (rule C2).
    pub(crate) fn has_expired_since(&self, token: &ResolvedToken) -> bool {
        matches!(token.origin, TokenOrigin::Cache | TokenOrigin::Fetch)
            && token.entry.is_expired(self.state.clock.raw())
    }

    /// Returns whether a response to `token` that is not a 401 must be passed to [`on_accepted`](Self::on_accepted) and
    /// [`on_date`](Self::on_date). This is rarely necessary.
    pub(crate) fn is_watching(&self, token: &ResolvedToken) -> bool {
        token.entry.is_on_trial() || token.origin == TokenOrigin::Stopgap || self.state.clock.is_corrected()
    }

    /// Records that the API accepted a token. This ends the waits after rejections (rule E5). If `tried_offset` is
    /// true, adopts the offset of the token (rule H1).
    pub(crate) fn on_accepted(&self, params: &AuthParams, token: &ResolvedToken, tried_offset: bool) {
        if token.entry.end_trial() || token.origin == TokenOrigin::Stopgap {
            let _in_flight = lock(&self.state.in_flight);
            self.state.rejections.reset(params);
        }
        if tried_offset {
            self.state.clock.adopt(token.entry.made.offset());
        }
    }

    /// Compares `date`, the time of Aiuta's clock, with the raw clock. If they agree, removes the offset in force (rule
    /// H1).
    pub(crate) fn on_date(&self, date: SystemTime) {
        if self.state.clock.is_corrected() {
            self.state.clock.void_if_contradicted(date);
        }
    }

    /// Forgets a token after a 401, and no other token (rule E1). `date` is the `Date` of the response.
    ///
    /// Returns how to fetch another token. Returns `None` if the rejected token was new and the clock was right,
    /// because Aiuta would probably reject another token as well (rules E2, H1).
    pub(crate) fn on_rejected(
        &self,
        params: &AuthParams,
        token: &ResolvedToken,
        date: Option<SystemTime>,
    ) -> Option<Replacement> {
        self.state.counters.rejected.add();
        if token.origin == TokenOrigin::Stopgap {
            return None;
        }
        let offset = date.and_then(|date| self.state.clock.offset_to_try(token.at, date));
        self.reject(params, token);
        let was_old = token.origin == TokenOrigin::Cache || token.jwt().is_out_of_cache();
        let replace = offset.is_some() || was_old || token.entry.is_expired(self.state.clock.raw());
        replace.then_some(Replacement { offset })
    }

    /// Looks up the token for a replay.
    pub(crate) fn replace(&self, params: &AuthParams, replacement: Replacement) -> Lookup {
        match self.lookup(params) {
            Ok(token) => token.into(),
            Err(miss) => self.fetch(params, Miss { offset: replacement.offset, ..miss }),
        }
    }

    fn reject(&self, params: &AuthParams, token: &ResolvedToken) {
        let state = &*self.state;
        let (rejections, now) = (&state.rejections, state.clock.raw());
        let is_rejected = |entry: &Arc<Entry>| entry.jwt().same_as(token.jwt());
        let fetch = {
            let mut in_flight = lock(&state.in_flight);
            match state.store.get(params) {
                Some(entry) if is_rejected(&entry) => drop(state.store.remove(params)),
                // A newer token stays in the cache.
                Some(_) => return rejections.remember(params, &token.entry),
                None => {
                    let replacing = in_flight.get(params).filter(|fetch| fetch.reason == FetchReason::Rejected);
                    match replacing.and_then(|fetch| fetch.replaces.as_ref()) {
                        // Another request was rejected first, and this fetch replaces the token (rule E4).
                        Some(replaced) if is_rejected(replaced) => return,
                        // The running fetch replaces another rejected token, which was in use at the same time. Neither
                        // of the two tokens may come back into the cache.
                        Some(_) => return rejections.remember(params, &token.entry),
                        None => {}
                    }
                    // Another request was rejected first, and no other token could be fetched.
                    if rejections.get(params).is_some_and(|rejected| rejected.contains(token.jwt())) {
                        return;
                    }
                }
            }
            rejections.reject(params, &token.entry, now);
            in_flight.remove(params)
        };
        if let Some(fetch) = fetch {
            fetch.detach();
        }
    }
}
