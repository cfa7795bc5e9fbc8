//! What the layer may do, in the order in which it is seen to do it. One state for each key: the token in the cache, the token that was
//! refused, the call of the source that may fill the cache. Times are milliseconds.
//!
//! Only what is seen from outside comes in: what the test does, what the source is asked, what reaches the inner service. What should not have
//! happened is written down, since a source's panic is caught.

use std::collections::HashMap;

use tower_aiuta_auth::AuthErrorKind;

use super::{Claims, End, KEYS, Status, partition};

pub const FETCH_TIMEOUT: i64 = 10_000;
const FALLBACK_LIFETIME: i64 = 60_000;
/// The last second of the year 9999.
const LATEST: i64 = 253_402_300_799_000;

/// The number of the call that made it first.
pub type Token = usize;
type Call = usize;
pub type RequestId = usize;

#[derive(Clone, Default)]
struct Key {
    cached: Option<Cached>,
    refused: Option<Token>,
    flight: Option<Call>,
}

#[derive(Clone)]
struct Cached {
    token: Token,
    from: i64,
    until: i64,
    failures: u32,
    no_refresh_before: i64,
    /// A refresh was due, and somebody asked.
    refresh_was_due: bool,
}

struct CallState {
    key: usize,
    started: i64,
    /// By the timers, which the wall clock's jumps do not touch.
    started_by_timer: i64,
    /// The token that was refused when it began.
    replaces: Option<Token>,
    /// The token that was good when it began.
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

/// What a request that asked for a token has to get.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Expected {
    /// This one, at once.
    Cached(Token),
    /// What this call brings.
    Result(Call),
    /// Nothing, and why.
    Nothing(AuthErrorKind),
    /// Nobody asked the source yet.
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
    /// In the last quarter of a token's life.
    pub refreshes: bool,
    pub max_concurrent_fetches: usize,
    pub wrong: Vec<String>,
    keys: Vec<Key>,
    calls: Vec<CallState>,
    requests: Vec<RequestState>,
    /// Since when and until when the source wants to be left alone, for a partition or for all.
    pauses: HashMap<Option<&'static str>, (i64, i64)>,
    /// `exp` and `iat` of the tokens made, and for which key.
    made: HashMap<Token, (usize, Option<i64>, Option<i64>)>,
    /// Who looks for a token just now; whether the air was full then, and whether a call was made for it.
    asking: Option<RequestId>,
    was_full: bool,
    called: bool,
    /// The test is over: nobody is held any more.
    pub hurry: bool,
    /// The layer is gone: calls may be dropped.
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

    // What may be used.

    /// Until when a token is used that was fetched at `from` (rule D1).
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

    /// The cached token, if it is good now (rule D1).
    fn good(&self, key: usize) -> Option<&Cached> {
        self.keys[key].cached.as_ref().filter(|cached| cached.from <= self.now && self.now < cached.until)
    }

    /// When a refresh may begin, and when it has to (rule D2: a tenth of that time is left to chance).
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

    fn in_the_air(&self) -> usize {
        self.calls.iter().filter(|call| call.outcome.is_none()).count()
    }

    // What the test does.

    pub fn request(&mut self, key: usize, replayable: bool) -> RequestId {
        let (expected, sent, answers) = (Expected::Unknown, Vec::new(), Vec::new());
        self.requests.push(RequestState { key, replayable, expected, sent, answers, over: false });
        let id = self.requests.len() - 1;
        self.ask(id);
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
        if let Some(call) = self.keys[key].flight.take() {
            self.calls[call].detached = true;
        }
    }

    /// A request looks for a token.
    fn ask(&mut self, id: RequestId) {
        let key = self.requests[id].key;
        let flight = self.keys[key].flight.filter(|call| !self.late_by_clock(*call));
        self.requests[id].expected = match (self.good(key), flight) {
            (Some(cached), _) => Expected::Cached(cached.token),
            (None, Some(call)) => Expected::Result(call),
            (None, None) => Expected::Unknown,
        };
        self.asking = Some(id);
        self.was_full = self.in_the_air() >= self.max_concurrent_fetches;
        self.called = false;
    }

    /// It has looked: what it found, and that it started what it should have.
    pub fn asked(&mut self) {
        let Some(id) = self.asking.take() else { return };
        let key = self.requests[id].key;
        let (paused, full) = (self.paused(key), self.in_the_air() >= self.max_concurrent_fetches);
        match self.requests[id].expected {
            Expected::Unknown if paused => {
                self.requests[id].expected = Expected::Nothing(AuthErrorKind::TokenSource);
            }
            Expected::Unknown if full => self.requests[id].expected = Expected::Nothing(AuthErrorKind::Overloaded),
            Expected::Unknown => {
                self.wrong.push(format!("c1: request {id} found no token, and no call was made for it"));
            }
            Expected::Cached(token) => {
                let flight = self.called || self.keys[key].flight.is_some();
                let Some(cached) = self.keys[key].cached.clone().filter(|cached| cached.token == token) else { return };
                let due = self.due(&cached);
                if due.is_some_and(|(_, due)| self.now >= due) && !cached.refresh_was_due && !paused && !full {
                    self.check(flight, || format!("d2: a refresh is due, and request {id} did not start it"));
                }
                if due.is_some_and(|(may_be, _)| self.now >= may_be) {
                    self.keys[key].cached.as_mut().unwrap().refresh_was_due = true;
                }
            }
            Expected::Result(_) | Expected::Nothing(_) => {}
        }
    }

    // What the source sees.

    /// A call of the source begins. Answers its number, and for which request it is; whether for its replay.
    pub fn called(&mut self, key: usize, force_refresh: bool) -> (Call, RequestId, bool) {
        let call = self.calls.len();
        self.called = true;
        let asking = self.asking.filter(|id| self.requests[*id].key == key);
        self.check(asking.is_some(), || format!("call {call}: nobody asked for it"));
        if let Some(other) = self.keys[key].flight {
            let late = self.late_by_clock(other);
            self.check(late, || format!("c1: call {call} beside call {other}, which is on its way"));
        }
        let others = (0..call).filter(|other| self.calls[*other].outcome.is_none() && !self.late(*other)).count();
        self.check(others < self.max_concurrent_fetches, || format!("c5: call {call} beside {others} others"));
        let paused = self.paused(key);
        self.check(!paused, || format!("g2: call {call} in a pause"));
        let replaces = self.keys[key].refused;
        self.check(force_refresh == replaces.is_some(), || {
            format!("d5: call {call}: force_refresh is {force_refresh}")
        });
        let good = self.good(key).cloned();
        if let Some(good) = &good {
            let due = self.due(good).is_some_and(|(may_be, _)| self.now >= may_be);
            self.check(due, || format!("call {call}, though token {} is good", good.token));
            let soon = self.now < good.no_refresh_before;
            self.check(!soon, || format!("d3: call {call} too soon after a refresh that failed"));
        }
        self.calls.push(CallState {
            key,
            started: self.now,
            started_by_timer: self.passed,
            replaces,
            refreshes: good.map(|good| good.token),
            detached: false,
            outcome: None,
        });
        self.keys[key].flight = Some(call);
        if let Some(id) = asking.filter(|id| !matches!(self.requests[*id].expected, Expected::Cached(_))) {
            self.requests[id].expected = Expected::Result(call);
        }
        let id = asking.unwrap_or(0);
        (call, id, !self.requests[id].sent.is_empty())
    }

    /// The claims of the token that a call is about to return: as planned, or those of the last token for that key.
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
        let attached = self.keys[key].flight == Some(call);
        if attached {
            self.keys[key].flight = None;
        }
        let mut not_before = 0;
        if let End::Failed { pause: Some(pause), .. } = end {
            not_before = self.now + i64::from(*pause) * 1_000;
            self.pauses.insert(partition(key), (self.now, not_before));
        }
        self.calls[call].outcome = Some(token.map_or(Outcome::Failed, Outcome::Token));
        let kept = attached && token.is_some_and(|token| self.keep(call, token));
        if !kept {
            self.refresh_failed(call, not_before);
        }
    }

    /// Whether the cache takes it: it is none that was refused or is to be replaced, and it is good now (rules D1, D4, E1).
    fn keep(&mut self, call: Call, token: Token) -> bool {
        let CallState { key, started, replaces, refreshes, .. } = self.calls[call];
        let refused = self.keys[key].refused;
        if [replaces, refreshes, refused].contains(&Some(token)) {
            return false;
        }
        self.keys[key].refused = None;
        let until = self.until(token, started);
        let good = started <= self.now && self.now < until;
        if good {
            let (failures, no_refresh_before) = (0, 0);
            let refresh_was_due = false;
            self.keys[key].cached =
                Some(Cached { token, from: started, until, failures, no_refresh_before, refresh_was_due });
        }
        good
    }

    /// The next refresh waits for a while that doubles (rule D3).
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
        self.check(self.ending || late || !awaited, || format!("c5: call {call} was dropped, though it is awaited"));
        // Those that nobody drives or awaits make room for a newcomer (rule C5).
        let makes_room = !self.on_runtime && self.asking.is_some() && self.was_full;
        let unwanted = detached || makes_room;
        self.check(self.ending || late || unwanted, || format!("c3: call {call} was dropped, though it was not late"));
        self.calls[call].outcome = Some(Outcome::Dropped);
        if self.keys[key].flight == Some(call) {
            self.keys[key].flight = None;
        }
        if late {
            self.refresh_failed(call, 0);
        }
    }

    // What the inner service sees.

    /// Answers how often it was sent before.
    pub fn sent(&mut self, id: RequestId, token: Token) -> usize {
        let RequestState { expected, key, .. } = self.requests[id];
        let of = self.made[&token].0;
        self.check(of == key, || format!("b5: request {id} for key {key} carries token {token}, made for {of}"));
        let right = match expected {
            Expected::Cached(cached) => cached == token,
            Expected::Result(call) => self.calls[call].outcome == Some(Outcome::Token(token)),
            Expected::Nothing(_) | Expected::Unknown => false,
        };
        self.check(right, || format!("request {id} carries token {token}, but should: {expected:?}"));
        let request = &mut self.requests[id];
        request.sent.push((token, expected));
        let (sent, replay) = (request.sent.len(), request.may_replay());
        let before = request.sent[0].0;
        self.check(sent == 1 || (sent == 2 && replay), || format!("e4: request {id} was sent {sent} times"));
        self.check(sent != 2 || before != token, || format!("e2: request {id} was replayed with the same token"));
        sent - 1
    }

    /// An answer is about to reach the layer. A 401 forgets the token (rule E1), and may be replayed (rule E2).
    pub fn answered(&mut self, id: RequestId, status: Status) {
        self.requests[id].answers.push(status);
        if status != Status::Unauthorized {
            return;
        }
        let request = &self.requests[id];
        let (key, token) = (request.key, request.sent.last().unwrap().0);
        let (sent, replay) = (request.sent.len(), request.may_replay());
        let newer = self.keys[key].cached.as_ref().is_some_and(|cached| cached.token != token);
        let replaced_by_flight = match self.keys[key].flight {
            Some(call) if self.keys[key].cached.is_none() => self.calls[call].replaces,
            _ => None,
        };
        if !newer && replaced_by_flight != Some(token) {
            self.keys[key].cached = None;
            self.keys[key].refused = Some(token);
            // One that replaces a refused token goes on.
            if replaced_by_flight.is_none() {
                self.detach(key);
            }
        }
        if sent == 1 && replay {
            self.ask(id);
        }
    }

    // What the caller sees.

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
                self.check(answers.last() == Some(&status), || format!("request {id}: {status:?} came from nowhere"));
                if status == Status::Unauthorized && sent.len() == 1 && replay {
                    let none_better = match expected {
                        Expected::Cached(_) | Expected::Unknown => false,
                        Expected::Nothing(_) => true,
                        Expected::Result(_) => !matches!(outcome, Some(Outcome::Token(token)) if token != sent[0].0),
                    };
                    self.check(none_better, || format!("e2: request {id} was not replayed: {expected:?}, {outcome:?}"));
                }
            }
            Err(kind) => {
                let right = match expected {
                    Expected::Nothing(why) => kind == why,
                    Expected::Result(_) => match outcome {
                        Some(Outcome::Failed) => kind == AuthErrorKind::TokenSource,
                        Some(Outcome::Dropped) => kind == AuthErrorKind::FetchTimeout,
                        _ => false,
                    },
                    Expected::Cached(_) | Expected::Unknown => false,
                };
                self.check(right && sent.is_empty(), || {
                    format!("request {id} failed: {kind:?}, but should: {expected:?}, {outcome:?}")
                });
            }
        }
    }

    /// Nothing moves any more until the test does something.
    pub fn settled(&mut self) {
        for id in 0..self.requests.len() {
            let request = &self.requests[id];
            let (over, expected, asks) = (request.over, request.expected, request.asks());
            let waits_for_nothing = match expected {
                Expected::Cached(_) | Expected::Nothing(_) => true,
                Expected::Result(call) => self.calls[call].outcome.is_some(),
                Expected::Unknown => false,
            };
            self.check(over || !asks || !waits_for_nothing, || {
                format!("c2: request {id} waits, though it has: {expected:?}")
            });
        }
    }

    pub fn calls(&self) -> u64 {
        self.calls.len() as u64
    }

    pub fn refusals(&self) -> u64 {
        let refused = |status: &&Status| **status == Status::Unauthorized;
        self.requests.iter().map(|request| request.answers.iter().filter(refused).count() as u64).sum()
    }

    pub fn replays(&self) -> u64 {
        self.requests.iter().filter(|request| request.sent.len() == 2).count() as u64
    }

    pub fn live(&self) -> usize {
        self.in_the_air()
    }

    /// Requests, requests out of the cache, calls, refreshes, refusals, replays, and calls that were dropped.
    pub fn tally(&self) -> [u64; 7] {
        let count = |number: usize| number as u64;
        let hit = |request: &&RequestState| matches!(request.sent.first(), Some((_, Expected::Cached(_))));
        [
            count(self.requests.len()),
            count(self.requests.iter().filter(hit).count()),
            self.calls(),
            count(self.calls.iter().filter(|call| call.refreshes.is_some()).count()),
            self.refusals(),
            self.replays(),
            count(self.calls.iter().filter(|call| call.outcome == Some(Outcome::Dropped)).count()),
        ]
    }
}

impl RequestState {
    /// The first token came from the cache, and the body is there still (rule E2).
    fn may_replay(&self) -> bool {
        self.replayable && matches!(self.sent.first(), Some((_, Expected::Cached(_))))
    }

    /// It waits for a token: not sent yet, or refused and to be replayed.
    fn asks(&self) -> bool {
        let refused = self.answers.first() == Some(&Status::Unauthorized);
        self.sent.is_empty() || (self.sent.len() == 1 && refused && self.may_replay())
    }
}
