//! The model of the rules. Its state per key is the cached token, the rejected token, and the source call that may fill
//! the cache. Times are in milliseconds.
//!
//! Its only input is what can be observed from outside: the steps of the test, the calls of the source, and the
//! requests at the inner service. It collects violations instead of panicking, because the layer catches a panic of a
//! source.

use std::collections::HashMap;

use tower_aiuta_auth::AuthErrorKind;

use super::{Claims, End, KEYS, Status, partition};

pub const FETCH_TIMEOUT: i64 = 10_000;
const FALLBACK_LIFETIME: i64 = 60_000;
/// The last second of the year 9999.
const LATEST: i64 = 253_402_300_799_000;

/// A token is identified by the number of the call that first made it.
pub type Token = usize;
type Call = usize;
pub type RequestId = usize;

#[derive(Clone, Default)]
struct Key {
    cached: Option<Cached>,
    rejected: Option<Token>,
    fetch: Option<Call>,
}

#[derive(Clone)]
struct Cached {
    token: Token,
    from: i64,
    until: i64,
    failures: u32,
    no_refresh_before: i64,
    /// A lookup has found that a refresh was due.
    refresh_was_due: bool,
}

struct CallState {
    key: usize,
    started: i64,
    /// In timer time, which steps of the wall clock do not change.
    started_by_timer: i64,
    /// The rejected token when the call began.
    replaces: Option<Token>,
    /// The valid cached token when the call began.
    refreshes: Option<Token>,
    detached: bool,
    outcome: Option<Outcome>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Token(Token),
    Failed,
    Dropped,
}

/// The result that a request has to get for its token lookup.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Expected {
    /// This cached token.
    Cached(Token),
    /// The result of this call.
    Result(Call),
    /// This error, without a call.
    Error(AuthErrorKind),
    /// A call has to start.
    Unknown,
}

struct RequestState {
    key: usize,
    replayable: bool,
    expected: Expected,
    sent: Vec<(Token, Expected)>,
    answers: Vec<Status>,
    over: bool,
}

pub struct Model {
    pub now: i64,
    pub passed: i64,
    pub on_runtime: bool,
    /// Whether tokens are refreshed in the last quarter of their lifetime.
    pub refreshes: bool,
    pub max_concurrent_fetches: usize,
    pub wrong: Vec<String>,
    keys: Vec<Key>,
    calls: Vec<CallState>,
    requests: Vec<RequestState>,
    /// Start and end of the pause that the source asked for, per partition or for all.
    pauses: HashMap<Option<&'static str>, (i64, i64)>,
    /// Key, `exp` and `iat` of each token.
    made: HashMap<Token, (usize, Option<i64>, Option<i64>)>,
    /// The request that looks for a token, whether all fetch places were taken then, and whether a call was made for
    /// it.
    asking: Option<RequestId>,
    was_full: bool,
    called: bool,
    /// The test is ending, and nothing is held any more.
    pub hurry: bool,
    /// The layer is dropped, so calls may be dropped.
    pub ending: bool,
}

impl Model {
    pub fn new(now: i64, on_runtime: bool, refreshes: bool, max_concurrent_fetches: usize) -> Self {
        Self {
            now,
            passed: 0,
            on_runtime,
            refreshes,
            max_concurrent_fetches,
            wrong: Vec::new(),
            keys: vec![Key::default(); KEYS],
            calls: Vec::new(),
            requests: Vec::new(),
            pauses: HashMap::new(),
            made: HashMap::new(),
            asking: None,
            was_full: false,
            called: false,
            hurry: false,
            ending: false,
        }
    }

    fn check(&mut self, fine: bool, what: impl FnOnce() -> String) {
        if !fine {
            self.wrong.push(what());
        }
    }

    // Freshness and limits.

    /// Returns until when a token fetched at `from` is used (rule D1).
    fn until(&self, token: Token, from: i64) -> i64 {
        let (_, exp, iat) = self.made[&token];
        let end = match (exp, iat) {
            (Some(exp), Some(iat)) => exp.min(from + (exp - iat).max(0)),
            (Some(exp), None) => exp,
            (None, _) => from + FALLBACK_LIFETIME,
        };
        let left = (end - from).max(0);
        from + left - (left / 10).min(5_000)
    }

    /// Returns the cached token if it is usable now (rule D1).
    fn usable(&self, key: usize) -> Option<&Cached> {
        self.keys[key].cached.as_ref().filter(|cached| cached.from <= self.now && self.now < cached.until)
    }

    /// Returns from when a refresh may start, and from when it has to (rule D2; jitter is a tenth of the window).
    fn due(&self, cached: &Cached) -> Option<(i64, i64)> {
        let ahead = ((cached.until - cached.from) / 4).min(300_000);
        (self.refreshes && self.on_runtime).then(|| (cached.until - ahead - 2, cached.until - ahead * 9 / 10 + 2))
    }

    fn late_by_clock(&self, call: Call) -> bool {
        self.now >= self.calls[call].started + FETCH_TIMEOUT
    }

    fn late(&self, call: Call) -> bool {
        let by_timer = self.passed >= self.calls[call].started_by_timer + FETCH_TIMEOUT;
        self.late_by_clock(call) || (self.on_runtime && by_timer)
    }

    fn paused(&self, key: usize) -> bool {
        let pauses = [None, partition(key)].map(|whose| self.pauses.get(&whose));
        pauses.into_iter().flatten().any(|(since, until)| (*since..*until).contains(&self.now))
    }

    fn running_calls(&self) -> usize {
        self.calls.iter().filter(|call| call.outcome.is_none()).count()
    }

    // Steps of the test.

    pub fn request(&mut self, key: usize, replayable: bool) -> RequestId {
        let (expected, sent, answers) = (Expected::Unknown, Vec::new(), Vec::new());
        self.requests.push(RequestState { key, replayable, expected, sent, answers, over: false });
        let id = self.requests.len() - 1;
        self.begin_lookup(id);
        id
    }

    pub fn invalidated(&mut self, key: usize) {
        self.keys[key].cached = None;
        self.detach(key);
    }

    pub fn cancelled(&mut self, id: RequestId) {
        self.requests[id].over = true;
    }

    fn detach(&mut self, key: usize) {
        if let Some(call) = self.keys[key].fetch.take() {
            self.calls[call].detached = true;
        }
    }

    /// A request begins its token lookup.
    fn begin_lookup(&mut self, id: RequestId) {
        let key = self.requests[id].key;
        let fetch = self.keys[key].fetch.filter(|call| !self.late_by_clock(*call));
        self.requests[id].expected = match (self.usable(key), fetch) {
            (Some(cached), _) => Expected::Cached(cached.token),
            (None, Some(call)) => Expected::Result(call),
            (None, None) => Expected::Unknown,
        };
        self.asking = Some(id);
        self.was_full = self.running_calls() >= self.max_concurrent_fetches;
        self.called = false;
    }

    /// The token lookup has returned. Checks that it found the right result and started the right calls.
    pub fn end_lookup(&mut self) {
        let Some(id) = self.asking.take() else { return };
        let key = self.requests[id].key;
        let (paused, full) = (self.paused(key), self.running_calls() >= self.max_concurrent_fetches);
        match self.requests[id].expected {
            Expected::Unknown if paused => {
                self.requests[id].expected = Expected::Error(AuthErrorKind::TokenSource);
            }
            Expected::Unknown if full => self.requests[id].expected = Expected::Error(AuthErrorKind::Overloaded),
            Expected::Unknown => {
                self.wrong.push(format!("c1: request {id} found no token, and no call was started"));
            }
            Expected::Cached(token) => {
                let fetch = self.called || self.keys[key].fetch.is_some();
                let Some(cached) = self.keys[key].cached.clone().filter(|cached| cached.token == token) else { return };
                let due = self.due(&cached);
                if due.is_some_and(|(_, due)| self.now >= due) && !cached.refresh_was_due && !paused && !full {
                    self.check(fetch, || format!("d2: a refresh is due, and request {id} did not start it"));
                }
                if due.is_some_and(|(may_be, _)| self.now >= may_be) {
                    self.keys[key].cached.as_mut().unwrap().refresh_was_due = true;
                }
            }
            Expected::Result(_) | Expected::Error(_) => {}
        }
    }

    // Events at the source.

    /// A source call begins. Returns its number, the request that it is for, and whether it is for the replay.
    pub fn called(&mut self, key: usize, force_refresh: bool) -> (Call, RequestId, bool) {
        let call = self.calls.len();
        self.called = true;
        let asking = self.asking.filter(|id| self.requests[*id].key == key);
        self.check(asking.is_some(), || format!("call {call}: no request needs it"));
        if let Some(other) = self.keys[key].fetch {
            let late = self.late_by_clock(other);
            self.check(late, || format!("c1: call {call} while call {other} is running"));
        }
        let others = (0..call).filter(|other| self.calls[*other].outcome.is_none() && !self.late(*other)).count();
        self.check(others < self.max_concurrent_fetches, || {
            format!("c5: call {call} while {others} others are running")
        });
        let paused = self.paused(key);
        self.check(!paused, || format!("g2: call {call} during a pause"));
        let replaces = self.keys[key].rejected;
        self.check(force_refresh == replaces.is_some(), || {
            format!("d5: call {call}: force_refresh is {force_refresh}")
        });
        let usable = self.usable(key).cloned();
        if let Some(usable) = &usable {
            let due = self.due(usable).is_some_and(|(may_be, _)| self.now >= may_be);
            self.check(due, || format!("call {call}, although token {} is usable", usable.token));
            let soon = self.now < usable.no_refresh_before;
            self.check(!soon, || format!("d3: call {call} too soon after a failed refresh"));
        }
        self.calls.push(CallState {
            key,
            started: self.now,
            started_by_timer: self.passed,
            replaces,
            refreshes: usable.map(|usable| usable.token),
            detached: false,
            outcome: None,
        });
        self.keys[key].fetch = Some(call);
        if let Some(id) = asking.filter(|id| !matches!(self.requests[*id].expected, Expected::Cached(_))) {
            self.requests[id].expected = Expected::Result(call);
        }
        let id = asking.unwrap_or(0);
        (call, id, !self.requests[id].sent.is_empty())
    }

    /// Returns the token of a call and its claims: the planned ones, or the last token for that key.
    pub fn make(&mut self, call: Call, claims: Option<Claims>) -> (Token, Option<i64>, Option<i64>) {
        let key = self.calls[call].key;
        let made = self.calls[..call].iter().filter(|other| other.key == key).filter_map(|call| match call.outcome {
            Some(Outcome::Token(token)) => Some(token),
            _ => None,
        });
        let (token, claims) = match (claims, made.max()) {
            (Some(claims), _) => (call, claims),
            (None, Some(last)) => (last, Claims::MINUTE),
            (None, None) => (call, Claims::MINUTE),
        };
        let now = self.calls[call].started;
        let (_, exp, iat) = *self.made.entry(token).or_insert_with(|| {
            let at = |seconds: i64| (now + seconds * 1_000).min(LATEST);
            (key, claims.exp.map(at), claims.iat.map(at))
        });
        (token, exp, iat)
    }

    /// A call has ended, or is about to panic.
    pub fn ended(&mut self, call: Call, end: &End, token: Option<Token>) {
        let key = self.calls[call].key;
        let attached = self.keys[key].fetch == Some(call);
        if attached {
            self.keys[key].fetch = None;
        }
        let mut not_before = 0;
        if let End::Failed { pause: Some(pause), .. } = end {
            not_before = self.now + i64::from(*pause) * 1_000;
            self.pauses.insert(partition(key), (self.now, not_before));
        }
        self.calls[call].outcome = Some(token.map_or(Outcome::Failed, Outcome::Token));
        let admitted = attached && token.is_some_and(|token| self.admit(call, token));
        if !admitted {
            self.refresh_failed(call, not_before);
        }
    }

    /// Returns whether the cache admits a token: it is neither rejected nor the one to replace, and it is usable now
    /// (rules D1, D4, E1).
    fn admit(&mut self, call: Call, token: Token) -> bool {
        let CallState { key, started, replaces, refreshes, .. } = self.calls[call];
        let rejected = self.keys[key].rejected;
        if [replaces, refreshes, rejected].contains(&Some(token)) {
            return false;
        }
        self.keys[key].rejected = None;
        let until = self.until(token, started);
        let usable = started <= self.now && self.now < until;
        if usable {
            let (failures, no_refresh_before) = (0, 0);
            let refresh_was_due = false;
            self.keys[key].cached =
                Some(Cached { token, from: started, until, failures, no_refresh_before, refresh_was_due });
        }
        usable
    }

    /// The time until the next refresh doubles (rule D3).
    fn refresh_failed(&mut self, call: Call, not_before: i64) {
        let CallState { key, refreshes, detached, .. } = self.calls[call];
        let now = self.now;
        if let Some(cached) =
            self.keys[key].cached.as_mut().filter(|cached| Some(cached.token) == refreshes && !detached)
        {
            let wait = (1_i64 << cached.failures.min(5)).min(30) * 1_000;
            cached.failures += 1;
            cached.no_refresh_before = not_before.max(now + wait);
        }
    }

    /// A call was dropped before it ended.
    pub fn dropped(&mut self, call: Call) {
        let CallState { key, detached, .. } = self.calls[call];
        let late = self.late(call);
        let awaited = self.requests.iter().any(|r| !r.over && r.sent.len() < 2 && r.expected == Expected::Result(call));
        self.check(self.ending || late || !awaited, || {
            format!("c5: call {call} was dropped, although a request waits for it")
        });
        // Without a runtime, a call without waiters makes room for a new one (rule C5).
        let makes_room = !self.on_runtime && self.asking.is_some() && self.was_full;
        let unwanted = detached || makes_room;
        self.check(self.ending || late || unwanted, || format!("c3: call {call} was dropped before its timeout"));
        self.calls[call].outcome = Some(Outcome::Dropped);
        if self.keys[key].fetch == Some(call) {
            self.keys[key].fetch = None;
        }
        if late {
            self.refresh_failed(call, 0);
        }
    }

    // Events at the inner service.

    /// A request was sent. Returns how often it was sent before.
    pub fn sent(&mut self, id: RequestId, token: Token) -> usize {
        let RequestState { expected, key, .. } = self.requests[id];
        let of = self.made[&token].0;
        self.check(of == key, || format!("b5: request {id} for key {key} carries token {token}, made for {of}"));
        let right = match expected {
            Expected::Cached(cached) => cached == token,
            Expected::Result(call) => self.calls[call].outcome == Some(Outcome::Token(token)),
            Expected::Error(_) | Expected::Unknown => false,
        };
        self.check(right, || format!("request {id} carries token {token}, expected {expected:?}"));
        let request = &mut self.requests[id];
        request.sent.push((token, expected));
        let (sent, replay) = (request.sent.len(), request.may_replay());
        let before = request.sent[0].0;
        self.check(sent == 1 || (sent == 2 && replay), || format!("e4: request {id} was sent {sent} times"));
        self.check(sent != 2 || before != token, || format!("e2: request {id} was replayed with the same token"));
        sent - 1
    }

    /// A response is about to reach the layer. A 401 forgets the token (rule E1) and may cause a replay (rule E2).
    pub fn answered(&mut self, id: RequestId, status: Status) {
        self.requests[id].answers.push(status);
        if status != Status::Unauthorized {
            return;
        }
        let request = &self.requests[id];
        let (key, token) = (request.key, request.sent.last().unwrap().0);
        let (sent, replay) = (request.sent.len(), request.may_replay());
        let newer = self.keys[key].cached.as_ref().is_some_and(|cached| cached.token != token);
        let replaced_by_fetch = match self.keys[key].fetch {
            Some(call) if self.keys[key].cached.is_none() => self.calls[call].replaces,
            _ => None,
        };
        if !newer && replaced_by_fetch != Some(token) {
            self.keys[key].cached = None;
            self.keys[key].rejected = Some(token);
            // A call that replaces a rejected token continues.
            if replaced_by_fetch.is_none() {
                self.detach(key);
            }
        }
        if sent == 1 && replay {
            self.begin_lookup(id);
        }
    }

    // Events at the caller.

    pub fn over(&mut self, id: RequestId, result: Result<Status, AuthErrorKind>) {
        let request = &mut self.requests[id];
        request.over = true;
        let RequestState { expected, .. } = *request;
        let (sent, answers, replay) = (request.sent.clone(), request.answers.clone(), request.may_replay());
        let outcome = match expected {
            Expected::Result(call) => self.calls[call].outcome,
            _ => None,
        };
        match result {
            Ok(status) => {
                self.check(answers.last() == Some(&status), || {
                    format!("request {id}: {status:?} was not the last response")
                });
                if status == Status::Unauthorized && sent.len() == 1 && replay {
                    let no_new_token = match expected {
                        Expected::Cached(_) | Expected::Unknown => false,
                        Expected::Error(_) => true,
                        Expected::Result(_) => !matches!(outcome, Some(Outcome::Token(token)) if token != sent[0].0),
                    };
                    self.check(no_new_token, || {
                        format!("e2: request {id} was not replayed: {expected:?}, {outcome:?}")
                    });
                }
            }
            Err(kind) => {
                let right = match expected {
                    Expected::Error(why) => kind == why,
                    Expected::Result(_) => match outcome {
                        Some(Outcome::Failed) => kind == AuthErrorKind::TokenSource,
                        Some(Outcome::Dropped) => kind == AuthErrorKind::FetchTimeout,
                        _ => false,
                    },
                    Expected::Cached(_) | Expected::Unknown => false,
                };
                self.check(right && sent.is_empty(), || {
                    format!("request {id} failed: {kind:?}, expected {expected:?}, {outcome:?}")
                });
            }
        }
    }

    /// Nothing happens any more until the next step.
    pub fn settled(&mut self) {
        for id in 0..self.requests.len() {
            let request = &self.requests[id];
            let (over, expected, asks) = (request.over, request.expected, request.waits_for_token());
            let waits_for_nothing = match expected {
                Expected::Cached(_) | Expected::Error(_) => true,
                Expected::Result(call) => self.calls[call].outcome.is_some(),
                Expected::Unknown => false,
            };
            self.check(over || !asks || !waits_for_nothing, || {
                format!("c2: request {id} waits, although its result is available: {expected:?}")
            });
        }
    }

    pub fn calls(&self) -> u64 {
        self.calls.len() as u64
    }

    pub fn rejections(&self) -> u64 {
        let rejected = |status: &&Status| **status == Status::Unauthorized;
        self.requests.iter().map(|request| request.answers.iter().filter(rejected).count() as u64).sum()
    }

    pub fn replays(&self) -> u64 {
        self.requests.iter().filter(|request| request.sent.len() == 2).count() as u64
    }

    pub fn live(&self) -> usize {
        self.running_calls()
    }

    /// Returns the numbers of requests, hits, calls, refreshes, rejections, replays and dropped calls.
    pub fn tally(&self) -> [u64; 7] {
        let count = |number: usize| number as u64;
        let hit = |request: &&RequestState| matches!(request.sent.first(), Some((_, Expected::Cached(_))));
        [
            count(self.requests.len()),
            count(self.requests.iter().filter(hit).count()),
            self.calls(),
            count(self.calls.iter().filter(|call| call.refreshes.is_some()).count()),
            self.rejections(),
            self.replays(),
            count(self.calls.iter().filter(|call| call.outcome == Some(Outcome::Dropped)).count()),
        ]
    }
}

impl RequestState {
    /// Returns whether the first token came from the cache and the body was kept (rule E2).
    fn may_replay(&self) -> bool {
        self.replayable && matches!(self.sent.first(), Some((_, Expected::Cached(_))))
    }

    /// Returns whether it waits for a token: it was not sent yet, or it was rejected and will be replayed.
    fn waits_for_token(&self) -> bool {
        let rejected = self.answers.first() == Some(&Status::Unauthorized);
        self.sent.is_empty() || (self.sent.len() == 1 && rejected && self.may_replay())
    }
}
