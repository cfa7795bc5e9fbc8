//! What the inner service and the caller see: which token a request carries, and what becomes of a response.

use tower_aiuta_auth::AuthErrorKind;

use super::super::case::Status;
use super::super::counts::Situation;
use super::key::Rejections;
use super::time::agree;
use super::{Expected, Fetch, FetchId, Model, Outcome, RequestId, Sent, Token};
use tower_aiuta_auth::FetchReason;

impl Model {
    /// The layer polls the inner service for a request that has its token. If the token expired while the service was
    /// not ready, it is replaced, once (rule C2).
    pub fn polled_ready(&mut self, id: RequestId) {
        let now = self.now;
        let Some(fetch) = self.carried(self.requests[id].expected) else { return };
        let is_expired = self.entry(fetch).is_expired(now);
        let request = &mut self.requests[id];
        let was_expired = *request.readying.get_or_insert(is_expired);
        // A token that is known to be rejected is sent as it is.
        let is_rejected = match request.expected {
            Expected::Stopgap(_) => true,
            Expected::Result(fetch) => self.fetches[fetch].is_rejected,
            Expected::Cached(_) | Expected::Error(_) | Expected::Unknown => false,
        };
        if self.busy || is_rejected || was_expired || !is_expired {
            return;
        }
        if request.renewed {
            // It is sent with the newest token that there is.
            let key = request.key;
            if let Some(cached) = self.usable(key) {
                let request = &mut self.requests[id];
                (request.expected, request.looked_at) = (Expected::Cached(cached.fetch), now.clock);
            }
            return;
        }
        request.renewed = true;
        request.instead = request.may_replay.then_some(request.expected);
        self.counts.add(if request.may_replay { Situation::RenewedReplay } else { Situation::Renewed });
        self.looks(id, None);
    }

    /// The fetch whose token a request has, if it has one.
    fn carried(&self, expected: Expected) -> Option<FetchId> {
        match expected {
            Expected::Cached(fetch) | Expected::Stopgap(fetch) => Some(fetch),
            Expected::Result(fetch) => {
                Some(fetch).filter(|fetch| matches!(self.fetches[*fetch].outcome, Some(Outcome::Token(_))))
            }
            Expected::Error(_) | Expected::Unknown => None,
        }
    }

    /// The inner service is called. Returns how often the request was sent before.
    pub fn sent(&mut self, id: RequestId, token: Token) -> usize {
        let request = &self.requests[id];
        let (key, expected) = (request.key, request.expected);
        let of = self.made[&token].key;
        self.check(of == key, || format!("b5: request {id} for key {key} carries token {token} of key {of}"));
        let failed = match expected {
            Expected::Result(fetch) => matches!(self.fetches[fetch].outcome, Some(Outcome::Failed | Outcome::Dropped)),
            // Whether an error was right is checked once the layer has returned.
            Expected::Error(_) | Expected::Unknown => true,
            Expected::Cached(_) | Expected::Stopgap(_) => false,
        };
        let request = &self.requests[id];
        let from = if failed { request.instead.unwrap_or(expected) } else { expected };
        let Some(fetch) = self.carried(from).filter(|fetch| self.entry(*fetch).token == token) else {
            self.wrong.push(format!("request {id} carries token {token}, instead of {expected:?}"));
            return request.sent.len();
        };
        let looked_at = request.looked_at;
        let found = if matches!(from, Expected::Result(_)) { self.entry(fetch).from } else { looked_at };
        let first = request.sent.first().map(|sent| self.entry(sent.fetch).token);
        let (times, may_replay, renewed) = (request.sent.len(), request.may_replay, request.renewed);
        match from {
            Expected::Cached(_) => self.counts.add(Situation::Hit),
            Expected::Stopgap(_) => self.counts.add(Situation::Stopgap),
            Expected::Result(_) if self.entry(fetch).is_expired(self.now) => self.counts.add(Situation::ExpiredSent),
            _ => {}
        }
        self.requests[id].sent.push(Sent { fetch, from, found });
        if times == 0 {
            return times;
        }
        self.counts.add(Situation::Replay);
        self.check(times == 1 && may_replay, || format!("e4: request {id} was sent {} times", times + 1));
        // A token that was renewed is sent as it is (rule C2).
        let is_better = first != Some(token) && !matches!(from, Expected::Stopgap(_));
        self.check(renewed || is_better, || format!("e2: request {id} was replayed with no better token"));
        times
    }

    /// A response is about to reach the layer. `date` is its `Date`.
    pub fn answered(&mut self, id: RequestId, status: Status, date: Option<i64>) {
        let request = &mut self.requests[id];
        request.answers.push(status);
        let key = request.key;
        // A request that was never sent is reported elsewhere.
        let Some(&sent) = request.sent.last() else { return };
        let is_rejection = match status {
            Status::Unauthorized => true,
            Status::Forbidden => self.settings.reject_on_forbidden,
            _ => false,
        };
        if status == Status::Forbidden {
            self.counts.add(if is_rejection { Situation::Forbidden } else { Situation::ForbiddenPassed });
        }
        if !is_rejection {
            if matches!(status, Status::Fine | Status::Forbidden | Status::NotFound) {
                self.accepted(id, key, sent);
            }
            return self.dated(date, Situation::OffsetVoided);
        }
        self.counts.add(Situation::Rejected);
        self.dated(date, Situation::OffsetVoidedBy401);
        let request = &self.requests[id];
        let may_replay = request.sent.len() == 1 && request.replayable;
        if request.tried_offset.is_some_and(|offset| offset != self.correction.in_force(self.now)) {
            self.counts.add(Situation::OffsetRejected);
        }
        // One that was known to be rejected tells nothing new (rule E5).
        if matches!(sent.from, Expected::Stopgap(_)) {
            self.counts.add(Situation::StopgapRejected);
            return;
        }
        let entry = self.entry(sent.fetch);
        let offset = date.and_then(|date| self.correction.to_try(date, (sent.found, entry.offset), self.now));
        if date.is_some_and(|date| (date - self.now.clock).abs() > 86_400_000) {
            self.counts.add(Situation::DateTooFar);
        }
        self.rejected(key, sent.fetch);
        let is_old = matches!(sent.from, Expected::Cached(_)) || entry.out_of_cache || entry.is_expired(self.now);
        if matches!(sent.from, Expected::Result(_)) {
            self.counts.add(match () {
                () if entry.out_of_cache => Situation::ReplayOutOfCache,
                () if is_old => Situation::ReplayExpired,
                () => Situation::NotReplayed,
            });
        }
        // A token that was made for this request by a right clock would be rejected again (rules E2, H1).
        if may_replay && (is_old || offset.is_some()) {
            let request = &mut self.requests[id];
            (request.may_replay, request.tried_offset, request.renewed) = (true, offset, false);
            self.looks(id, offset);
        }
    }

    /// A success ends the waits after rejections (rule E5), and adopts the offset that was tried (rule H1).
    fn accepted(&mut self, id: RequestId, key: usize, sent: Sent) {
        let on_trial = self.fetches[sent.fetch].entry.as_mut().map(|entry| std::mem::take(&mut entry.on_trial));
        let resets = on_trial == Some(true) || matches!(sent.from, Expected::Stopgap(_));
        if resets && self.keys[key].rejections.reset() {
            self.counts.add(Situation::AcceptedResets);
        }
        let made_by = self.entry(sent.fetch).offset;
        if self.requests[id].tried_offset.is_some() && self.correction.in_force(self.now) != made_by {
            self.correction.adopt(made_by, self.now);
            self.counts.add(Situation::OffsetAdopted);
        }
    }

    /// A `Date` that agrees with the clock voids the offset in force (rule H1).
    fn dated(&mut self, date: Option<i64>, situation: Situation) {
        let agrees = date.is_some_and(|date| agree(date, self.now.clock));
        if agrees {
            if self.correction.in_force(self.now) != 0 {
                self.counts.add(situation);
            }
            // One that has lapsed does not come back if the clock steps back.
            self.correction.adopt(0, self.now);
        }
    }

    /// Forgets a token that was answered with 401 (rules E1, D5). Many requests may have carried it: the first 401
    /// counts.
    fn rejected(&mut self, key: usize, fetch: FetchId) {
        let token = self.entry(fetch).token;
        let cached = self.keys[key].cached;
        let is_cached = cached.is_some_and(|cached| cached.entry.token == token);
        if !is_cached {
            let is_known = self.keys[key].rejections.tokens.iter().any(|fetch| self.entry(*fetch).token == token);
            if cached.is_some() {
                // There is a newer token, which stays.
                if !is_known {
                    self.remember(key, fetch);
                }
                return;
            }
            let replacing = self.keys[key].fetch.map(|fetch| &self.fetches[fetch]);
            match replacing {
                Some(Fetch { reason: FetchReason::Rejected, .. }) => {
                    // The fetch that replaces another rejected token goes on.
                    if !is_known {
                        self.remember(key, fetch);
                    }
                    return;
                }
                _ if is_known => return,
                _ => {}
            }
        }
        let state = &mut self.keys[key];
        if is_cached {
            state.cached = None;
        }
        state.invalidated = false;
        state.rejections.pending = false;
        self.remember(key, fetch).pending = true;
        self.fails(key);
        self.detach(key);
    }

    fn remember(&mut self, key: usize, fetch: FetchId) -> &mut Rejections {
        let token = self.entry(fetch).token;
        let state = &mut self.keys[key];
        state.ever_rejected.push(token);
        state.rejections.push(fetch);
        &mut state.rejections
    }

    /// The caller gets a response or an error.
    pub fn over(&mut self, id: RequestId, result: Result<Status, AuthErrorKind>) {
        let request = &mut self.requests[id];
        request.is_over = true;
        let (expected, may_replay, times) = (request.expected, request.may_replay, request.sent.len());
        let last = request.answers.last().copied();
        let outcome = match expected {
            Expected::Result(fetch) => self.fetches[fetch].outcome,
            _ => None,
        };
        match result {
            Ok(status) => {
                self.check(last == Some(status), || format!("request {id}: {status:?} came from nowhere"));
                if may_replay && times == 1 {
                    let key = self.requests[id].key;
                    let rejected: Vec<_> = std::iter::once(&self.requests[id].sent[0].fetch)
                        .chain(&self.keys[key].rejections.tokens)
                        .map(|fetch| self.entry(*fetch).token)
                        .collect();
                    let has_better = match expected {
                        Expected::Cached(_) | Expected::Unknown => true,
                        Expected::Error(_) | Expected::Stopgap(_) => false,
                        Expected::Result(_) => {
                            matches!(outcome, Some(Outcome::Token(token)) if !rejected.contains(&token))
                        }
                    };
                    self.check(!has_better, || format!("e2: request {id} was not replayed: {expected:?}, {outcome:?}"));
                }
            }
            Err(kind) => {
                let is_right = match expected {
                    Expected::Error(expected) => kind == expected,
                    Expected::Result(_) => match outcome {
                        Some(Outcome::Failed) => kind == AuthErrorKind::TokenSource,
                        Some(Outcome::Dropped) => kind == AuthErrorKind::FetchTimeout,
                        _ => false,
                    },
                    Expected::Cached(_) | Expected::Stopgap(_) | Expected::Unknown => false,
                };
                self.check(is_right && times == 0, || {
                    format!("request {id} failed: {kind:?}, instead of {expected:?}, {outcome:?}")
                });
            }
        }
    }
}
