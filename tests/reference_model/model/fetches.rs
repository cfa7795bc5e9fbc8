//! What the source sees: its calls, and what becomes of their results.

use tower_aiuta_auth::{FetchReason, TokenRequest};

use super::super::case::{End, partition};
use super::super::counts::Situation;
use super::super::support::token_number;
use super::key::{Cached, Entry, Made};
use super::time::Pause;
use super::{CallId, Expected, Fetch, FetchId, Model, Outcome, RequestId, Scope, Token};

/// Which of a request's plans a call follows.
pub struct Planned {
    pub call: CallId,
    pub by: RequestId,
    pub plan: usize,
}

impl Model {
    /// A call of the source begins. `now` is the time that the source was told.
    pub fn called(&mut self, key: usize, request: &TokenRequest, now: i64) -> Planned {
        let call = self.calls.len();
        let replaces = request.replaces().map(|token| usize::try_from(token_number(token.expose())).unwrap());
        let told = (request.reason(), request.force_refresh(), replaces);
        let is_allowed = self.settings.on_runtime || !self.in_call;
        self.check(is_allowed, || format!("c4: call {call} in the service's `call`, without a runtime"));
        let running = self.keys[key].fetch;
        let second = running.and_then(|fetch| Some((fetch, self.fetches[fetch].asks_again.take()?)));
        let (fetch, offset, expected) = match second {
            Some((fetch, token)) => {
                self.counts.add(Situation::AskedAgain);
                let Fetch { offset, reason, .. } = self.fetches[fetch];
                self.fetches[fetch].asked_twice = true;
                self.fetches[fetch].called = self.now;
                (fetch, offset, (reason, true, Some(token)))
            }
            None => self.starts(key, call, told.1),
        };
        self.check(told == expected, || format!("d5: call {call} was told {told:?}, instead of {expected:?}"));
        let right = self.now.clock + offset;
        self.check(now == right, || format!("h1: call {call} was told a time that is {} ms off", now - right));
        self.calls.push(fetch);
        let Fetch { by, for_first, .. } = self.fetches[fetch];
        Planned { call, by, plan: if second.is_some() { 2 } else { usize::from(!for_first) } }
    }

    /// A fetch starts. Returns the offset, and what the source has to be told.
    fn starts(&mut self, key: usize, call: CallId, forced: bool) -> (FetchId, i64, (FetchReason, bool, Option<Token>)) {
        self.counts.add(Situation::Fetch);
        let look = self.look.as_mut().filter(|look| self.requests[look.id].key == key);
        let (by, offset) = look.map_or((None, None), |look| {
            look.fetched = true;
            (Some(look.id), look.offset)
        });
        self.check(by.is_some(), || format!("call {call}: no request looked for this key"));
        let by = by.unwrap_or(0);
        if let Some(other) = self.keys[key].fetch {
            self.wrong.push(format!("c1: call {call} beside fetch {other}"));
        }
        let has_no_place =
            self.has_no_place(key, |other| other.outcome.is_none() && !self.is_late_since(other.started));
        self.check(!has_no_place, || format!("c5: call {call} beside too many others"));
        let is_paused = self.is_paused(key);
        self.check(!is_paused, || format!("g2: call {call} in a pause"));
        let waits = self.stopgap(key, offset).is_some();
        self.check(!waits, || format!("e5: call {call}, though the key has to wait"));

        let usable = self.usable(key);
        if let Some(cached) = usable {
            let elapsed = cached.entry.elapsed(self.now).unwrap_or(0);
            let may_refresh = self.refreshes() && elapsed >= cached.refresh_from;
            self.check(may_refresh, || format!("d2: call {call}, though token {} is fresh", cached.entry.token));
            let is_late = elapsed >= cached.refresh_by;
            self.counts.add(if is_late { Situation::RefreshLate } else { Situation::RefreshDue });
        }
        let rejections = &self.keys[key].rejections;
        let rejected = rejections.tokens.last().filter(|_| rejections.pending).map(|fetch| self.token(*fetch));
        let may_be_forced = self.may_be_forced.is_some_and(|pause| pause.is_running(self.now));
        let expected = match (rejected, usable) {
            (Some(token), _) => (FetchReason::Rejected, true, Some(token)),
            (None, Some(cached)) => (FetchReason::RefreshAhead, forced && may_be_forced, Some(cached.entry.token)),
            (None, None) => (FetchReason::Miss, forced && may_be_forced, None),
        };
        if rejected.is_some() && self.keys[key].invalidated {
            self.counts.add(Situation::AfterInvalidate);
        }
        // A refresh is not made for the request that notices it, but by the offset in force.
        let in_force = self.correction.in_force(self.now);
        let offset = offset.filter(|_| usable.is_none());
        if offset.is_some_and(|offset| offset != in_force) {
            self.counts.add(Situation::OffsetTried);
        } else if in_force != 0 {
            self.counts.add(Situation::OffsetInForce);
        }
        let offset = offset.unwrap_or(in_force);
        let fetch = self.fetches.len();
        self.fetches.push(Fetch {
            key,
            by,
            for_first: self.requests[by].sent.is_empty() && !self.requests[by].renewed,
            started: self.now,
            called: self.now,
            offset,
            reason: expected.0,
            replaces: expected.2,
            asks_again: None,
            asked_twice: false,
            detached: false,
            is_rejected: false,
            entry: None,
            outcome: None,
        });
        self.keys[key].fetch = Some(fetch);
        if usable.is_none() {
            self.requests[by].expected = Expected::Result(fetch);
        }
        (fetch, offset, expected)
    }

    /// The token that a request carries while no other is fetched. None if a token is made by another offset, since a
    /// wrong clock explains the rejections (rule H1).
    pub(super) fn stopgap(&self, key: usize, offset: Option<i64>) -> Option<FetchId> {
        let is_by = |fetch: &FetchId| offset.is_none_or(|offset| (self.entry(*fetch).offset - offset).abs() <= 5_000);
        self.keys[key].rejections.stopgap(self.now).filter(is_by)
    }

    fn token(&self, fetch: FetchId) -> Token {
        self.entry(fetch).token
    }

    /// The token that a fetch has brought.
    pub(super) fn entry(&self, fetch: FetchId) -> Entry {
        self.fetches[fetch].entry.unwrap()
    }

    /// The token that a call is about to return. `None` if it returns none.
    pub fn makes(&mut self, call: CallId, end: &End, now: i64) -> Option<Made> {
        let key = self.fetches[self.calls[call]].key;
        let made = match *end {
            End::Token(claims) => Made::new(key, call, now, claims),
            End::Again(number) => {
                let mut tokens: Vec<_> = self.made.values().filter(|made| made.key == key).collect();
                tokens.sort_by_key(|made| std::cmp::Reverse(made.token));
                match tokens.get(number) {
                    Some(made) => Made { age: None, out_of_cache: false, ..**made },
                    None => Made::new(key, call, now, super::super::case::Claims::MINUTE),
                }
            }
            End::Failed { .. } | End::Panic => return None,
        };
        self.made.insert(made.token, made);
        Some(made)
    }

    /// A call has ended, or is about to panic.
    pub fn ended(&mut self, call: CallId, end: &End, made: Option<Made>) {
        match made {
            Some(made) => self.brought(self.calls[call], made),
            None => self.failed(self.calls[call], end),
        }
    }

    fn failed(&mut self, fetch: FetchId, end: &End) {
        let Fetch { key, asked_twice, .. } = self.fetches[fetch];
        let mut pause = 0;
        if let End::Failed { pause: Some(seconds), for_this_key, .. } = end {
            pause = i64::from(*seconds).min(300) * 1_000;
            let scope = match partition(key) {
                _ if *for_this_key => Scope::Key(key),
                Some(partition) => Scope::Partition(partition),
                None => Scope::Everyone,
            };
            // A longer pause is kept.
            let left = self.pauses.get(&scope).map_or(0, |pause| pause.left(self.now));
            if left <= pause {
                self.pauses.insert(scope, Pause::new(pause, self.now));
            }
        }
        if asked_twice {
            self.counts.add(Situation::SecondError);
        }
        self.ends(fetch, Outcome::Failed);
        self.brought_nothing(fetch, pause);
    }

    /// A source has returned a token. It is cached, or the source is asked a second time, or it serves those who wait
    /// (rules D4, D5).
    fn brought(&mut self, fetch: FetchId, made: Made) {
        let Fetch { key, called, offset, reason, replaces, asked_twice, .. } = self.fetches[fetch];
        let entry = Entry {
            token: made.token,
            from: called.clock,
            offset,
            usable_for: made.usable_for(called.clock + offset),
            age: made.age,
            out_of_cache: made.out_of_cache,
            on_trial: reason == FetchReason::Rejected || self.keys[key].rejections.failures > 0,
        };
        let is_rejected = self.is_rejected(key, &entry, replaces);
        let is_usable = !is_rejected && !entry.is_expired(self.now);
        let state = &mut self.keys[key];
        let is_current = state.fetch == Some(fetch);
        if !is_usable && is_current && reason != FetchReason::RefreshAhead {
            let ask_once = state.ask_once.is_some_and(|pause| pause.is_running(self.now));
            match (ask_once, asked_twice) {
                (true, _) => self.counts.add(Situation::AskedOnce),
                (false, true) => {
                    state.ask_once = Some(Pause::new(30_000, self.now));
                    self.counts.add(Situation::SecondFailed);
                }
                (false, false) => {
                    self.fetches[fetch].asks_again = Some(entry.token);
                    return;
                }
            }
        }
        (self.fetches[fetch].entry, self.fetches[fetch].is_rejected) = (Some(entry), is_rejected);
        self.ends(fetch, Outcome::Token(entry.token));
        let state = &mut self.keys[key];
        if is_current && is_usable {
            state.cached = Some(Cached::new(fetch, entry));
            (state.rejections.pending, state.invalidated) = (false, false);
            if state.ever_rejected.contains(&entry.token) {
                self.counts.add(Situation::ForgottenAgain);
            }
            if asked_twice {
                self.counts.add(Situation::SecondHelped);
            }
        } else if is_current {
            // The one before it has been replaced all the same.
            state.cached.take_if(|cached| cached.entry.is_expired(self.now));
            self.brought_nothing(fetch, 0);
        }
    }

    fn is_rejected(&mut self, key: usize, entry: &Entry, replaces: Option<Token>) -> bool {
        let rejected: Vec<_> = self.keys[key].rejections.tokens.iter().map(|fetch| self.token(*fetch)).collect();
        let was_rejected = rejected.contains(&entry.token);
        if was_rejected {
            let is_last = rejected.last() == Some(&entry.token);
            self.counts.add(if is_last { Situation::RejectedAgain } else { Situation::OlderAgain });
        }
        was_rejected || replaces == Some(entry.token)
    }

    fn ends(&mut self, fetch: FetchId, outcome: Outcome) {
        let Fetch { key, .. } = self.fetches[fetch];
        self.fetches[fetch].outcome = Some(outcome);
        if self.keys[key].fetch == Some(fetch) {
            self.keys[key].fetch = None;
        } else {
            self.fetches[fetch].detached = true;
        }
    }

    /// A fetch has brought no new token, so the next one may have to wait (rules D3, E5).
    fn brought_nothing(&mut self, fetch: FetchId, pause: i64) {
        let Fetch { key, reason, detached, .. } = self.fetches[fetch];
        if detached {
            return;
        }
        let state = &mut self.keys[key];
        match (reason, &mut state.cached) {
            (FetchReason::Rejected, _) if state.rejections.failures > 0 => {
                self.counts.add(Situation::WaitAfterFailure);
                self.fails(key);
            }
            (FetchReason::RefreshAhead, Some(cached)) => {
                cached.refresh_failed(pause, self.now);
                self.counts.add(Situation::RefreshFailed);
            }
            _ => {}
        }
    }

    /// A failure after a rejection.
    pub(super) fn fails(&mut self, key: usize) {
        match self.keys[key].rejections.fail(self.now) {
            None => {}
            Some(1) => self.counts.add(Situation::Wait),
            Some(30) => self.counts.add(Situation::LongestWait),
            Some(_) => self.counts.add(Situation::DoubledWait),
        }
    }

    /// A call was dropped before it ended.
    pub fn dropped(&mut self, call: CallId) {
        let fetch = self.calls[call];
        let Fetch { detached, .. } = self.fetches[fetch];
        let is_late = self.is_late(fetch);
        let is_awaited = self.requests.iter().any(|request| {
            !request.is_over && request.is_before_sending() && request.expected == Expected::Result(fetch)
        });
        self.check(self.ending || is_late || !is_awaited, || format!("c5: call {call} was dropped, but is awaited"));
        // Without a runtime, fetches that nobody awaits make room for others (rule C5).
        let makes_room = !self.settings.on_runtime && self.look.as_ref().is_some_and(|look| look.was_full);
        let is_allowed = self.ending || is_late || detached || makes_room;
        self.check(is_allowed, || format!("c3: call {call} was dropped before its deadline"));
        if is_late {
            self.counts.add(Situation::TimedOut);
        }
        let is_replaced = self.look.is_some();
        self.ends(fetch, Outcome::Dropped);
        if is_late && !is_replaced {
            self.brought_nothing(fetch, 0);
        }
    }
}
