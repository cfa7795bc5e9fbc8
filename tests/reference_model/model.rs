//! What the layer may do, in the order in which it is seen to do it.
//!
//! The model sees what is visible from outside: what the test does, how the source is called, what reaches the inner
//! service, and what the caller gets. It keeps one state for each key. It writes down what should not have happened
//! instead of panicking, since the layer catches the panics of a source.

mod fetches;
mod key;
mod responses;
mod time;

use std::collections::HashMap;
use std::ops::RangeInclusive;

use tower_aiuta_auth::{AuthErrorKind, FetchReason};

pub use self::fetches::Planned;
use self::key::{Cached, Entry, Key, Made};
use self::time::{Correction, Pause, Time};
use super::case::{KEYS, Status, partition};
use super::counts::{Counts, Situation};

const FETCH_TIMEOUT: i64 = 10_000;

/// The number of the call that made it first.
pub type Token = usize;
/// One question to the source. A fetch has one or two.
pub type CallId = usize;
pub type FetchId = usize;
pub type RequestId = usize;

/// What a pause applies to.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Scope {
    Everyone,
    Partition(&'static str),
    Key(usize),
}

struct Fetch {
    key: usize,
    /// The request that it was started for, and whether for the request's first token.
    by: RequestId,
    for_first: bool,
    started: Time,
    /// When the last call of the source began.
    called: Time,
    offset: i64,
    reason: FetchReason,
    replaces: Option<Token>,
    /// The unusable token for which the source has to be asked a second time, until that happens (rule D4).
    asks_again: Option<Token>,
    asked_twice: bool,
    /// Whether it may not publish.
    detached: bool,
    /// Whether it brought a token that was rejected before.
    is_rejected: bool,
    entry: Option<Entry>,
    outcome: Option<Outcome>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Token(Token),
    Failed,
    Dropped,
}

/// What a request that looked for a token has to get.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Expected {
    /// The cached token of this fetch, at once.
    Cached(FetchId),
    /// The rejected token of this fetch, at once.
    Stopgap(FetchId),
    /// What this fetch brings.
    Result(FetchId),
    /// An error, at once.
    Error(AuthErrorKind),
    /// Not known until it has looked.
    Unknown,
}

struct Request {
    key: usize,
    replayable: bool,
    expected: Expected,
    /// The clock when it looked for a token.
    looked_at: i64,
    /// Whether the layer has polled the inner service since it had the token, and whether the token was expired then.
    readying: Option<bool>,
    /// Whether the token was replaced since it expired before it could be sent (rule C2).
    renewed: bool,
    /// What a replay is sent with if its token could not be renewed.
    instead: Option<Expected>,
    /// Set by a 401 that is to be replayed.
    may_replay: bool,
    tried_offset: Option<i64>,
    sent: Vec<Sent>,
    answers: Vec<Status>,
    is_over: bool,
}

#[derive(Clone, Copy)]
struct Sent {
    fetch: FetchId,
    from: Expected,
    /// The clock when the token was found in the cache or its fetch started.
    found: i64,
}

/// A request that is looking for a token just now.
struct Look {
    id: RequestId,
    /// The offset that a new token is to be made by, if not the one in force.
    offset: Option<i64>,
    was_full: bool,
    /// Whether a fetch was started.
    fetched: bool,
}

pub struct Settings {
    pub on_runtime: bool,
    pub refreshes: bool,
    pub max_concurrent_fetches: usize,
    pub reject_on_forbidden: bool,
}

pub struct Model {
    pub wrong: Vec<String>,
    pub counts: Counts,
    /// Whether the inner service is not ready.
    pub busy: bool,
    /// Whether the test is over, so that nothing is held any more.
    pub hurry: bool,
    /// Whether the layer is gone, so that calls may be dropped.
    pub ending: bool,
    /// Whether the service's `call` is running.
    pub in_call: bool,
    settings: Settings,
    now: Time,
    correction: Correction,
    keys: Vec<Key>,
    fetches: Vec<Fetch>,
    /// The fetch of each call.
    calls: Vec<FetchId>,
    requests: Vec<Request>,
    made: HashMap<Token, Made>,
    /// The pauses that the source asked for.
    pauses: HashMap<Scope, Pause>,
    /// While it runs, any fetch may be a forced one, after [`cleared`](Self::cleared).
    may_be_forced: Option<Pause>,
    look: Option<Look>,
}

impl Model {
    pub fn new(clock: i64, settings: Settings) -> Self {
        let now = Time { clock, passed: 0, on_runtime: settings.on_runtime };
        Self {
            wrong: Vec::new(),
            counts: Counts::default(),
            busy: false,
            hurry: false,
            ending: false,
            in_call: false,
            settings,
            now,
            correction: Correction::default(),
            keys: vec![Key::default(); KEYS],
            fetches: Vec::new(),
            calls: Vec::new(),
            requests: Vec::new(),
            made: HashMap::new(),
            pauses: HashMap::new(),
            may_be_forced: None,
            look: None,
        }
    }

    fn check(&mut self, is_right: bool, what: impl FnOnce() -> String) {
        if !is_right {
            self.wrong.push(what());
        }
    }

    /// The cached token, if it can be used (rule D1).
    fn usable(&self, key: usize) -> Option<Cached> {
        self.keys[key].cached.filter(|cached| !cached.entry.is_expired(self.now))
    }

    /// Returns whether a fetch is past its deadline (rule C6).
    fn is_late(&self, fetch: FetchId) -> bool {
        self.is_late_since(self.fetches[fetch].started)
    }

    fn is_late_since(&self, started: Time) -> bool {
        if self.now.on_runtime {
            self.now.passed - started.passed >= FETCH_TIMEOUT
        } else {
            self.now.clock - started.clock >= FETCH_TIMEOUT
        }
    }

    /// Returns whether the source asked for a pause that is not over (rule G2).
    fn is_paused(&self, key: usize) -> bool {
        let scopes = [Some(Scope::Everyone), partition(key).map(Scope::Partition), Some(Scope::Key(key))];
        let pauses = scopes.into_iter().flatten().filter_map(|scope| self.pauses.get(&scope));
        pauses.into_iter().any(|pause| pause.is_running(self.now))
    }

    /// Returns whether no other fetch for a key may start (rule C5).
    fn is_full(&self, key: usize) -> bool {
        self.has_no_place(key, |fetch| fetch.outcome.is_none())
    }

    /// Once half the places are taken, a partition gets a quarter of them (rule C5).
    fn has_no_place(&self, key: usize, is_running: impl Fn(&Fetch) -> bool) -> bool {
        let places = self.settings.max_concurrent_fetches;
        let running: Vec<_> = self.fetches.iter().filter(|fetch| is_running(fetch)).collect();
        let quarter = (places / 4).max(1);
        let of_partition = || running.iter().filter(|fetch| partition(fetch.key) == partition(key)).count();
        running.len() >= places
            || (partition(key).is_some() && 2 * running.len() >= places && of_partition() >= quarter)
    }

    pub fn running_fetches(&self) -> usize {
        self.fetches.iter().filter(|fetch| fetch.outcome.is_none()).count()
    }

    pub fn calls(&self) -> u64 {
        self.calls.len() as u64
    }

    /// How many requests were sent a second time. A replay that was dropped before it was sent may count.
    pub fn replays(&self) -> RangeInclusive<u64> {
        let sent = self.counts.get(Situation::Replay);
        let unsent = self.requests.iter().filter(|request| request.may_replay && request.sent.len() == 1).count();
        sent..=sent + unsent as u64
    }

    /// What the cache's statistics have to say: tokens in the cache, and the offset in seconds.
    pub fn cache(&self) -> (u64, i64) {
        let entries = self.keys.iter().filter(|key| key.cached.is_some()).count() as u64;
        (entries, self.correction.in_force(self.now) / 1_000)
    }

    // What the test does.

    pub fn passed(&mut self, millis: i64) {
        self.now.passed += millis;
        self.stepped(millis);
    }

    pub fn stepped(&mut self, millis: i64) {
        let had_lapsed = self.correction.has_lapsed(self.now);
        let ended = |model: &Self| (0..KEYS).map(|key| model.usable(key).is_some()).collect::<Vec<_>>();
        let before = ended(self);
        self.now.clock += millis;
        if self.correction.has_lapsed(self.now) && !had_lapsed {
            self.counts.add(Situation::OffsetLapsed);
        }
        for (key, was_usable) in before.into_iter().enumerate() {
            let Some(Cached { entry, .. }) = self.keys[key].cached.filter(|_| was_usable) else { continue };
            let ended = entry.is_expired(self.now);
            if ended && entry.elapsed(self.now).is_none() {
                self.counts.add(Situation::LargeStepBack);
            } else if ended && entry.age.is_some() && entry.elapsed(self.now) < Some(45_000) {
                self.counts.add(Situation::EndedByAge);
            }
        }
    }

    pub fn request(&mut self, key: usize, replayable: bool) -> RequestId {
        self.counts.add(Situation::Request);
        self.requests.push(Request {
            key,
            replayable,
            expected: Expected::Unknown,
            looked_at: self.now.clock,
            readying: None,
            renewed: false,
            instead: None,
            may_replay: false,
            tried_offset: None,
            sent: Vec::new(),
            answers: Vec::new(),
            is_over: false,
        });
        let id = self.requests.len() - 1;
        self.looks(id, None);
        id
    }

    pub fn cancelled(&mut self, id: RequestId) {
        self.requests[id].is_over = true;
    }

    /// The cached token is forgotten and may not come back (rule D5). Returns whether there was anything to forget.
    pub fn invalidated(&mut self, key: usize) -> bool {
        let state = &mut self.keys[key];
        state.rejections.reset();
        let cached = state.cached.take();
        if let Some(Cached { fetch, entry, .. }) = cached {
            state.rejections.pending = false;
            state.rejections.push(fetch);
            state.rejections.pending = true;
            state.invalidated = true;
            state.ever_rejected.push(entry.token);
        }
        let fetch = state.fetch;
        self.detach(key);
        cached.is_some() || fetch.is_some()
    }

    pub fn cleared(&mut self) {
        let left =
            |key| self.usable(key).map(|cached| cached.entry.usable_for - cached.entry.elapsed(self.now).unwrap());
        let longest = (0..KEYS).filter_map(left).max().unwrap_or(0);
        let before = self.may_be_forced.map_or(0, |pause| pause.left(self.now));
        self.may_be_forced = Some(Pause::new(longest.max(before), self.now));
        for key in 0..KEYS {
            self.invalidated(key);
        }
    }

    fn detach(&mut self, key: usize) {
        if let Some(fetch) = self.keys[key].fetch.take() {
            self.fetches[fetch].detached = true;
        }
    }

    // How a request looks for a token.

    /// A request looks for a token. `offset` is one that a new token is to be made by.
    fn looks(&mut self, id: RequestId, offset: Option<i64>) {
        let key = self.requests[id].key;
        let state = &self.keys[key];
        let expected = match (self.usable(key), state.fetch, self.stopgap(key, offset)) {
            (Some(cached), ..) => Expected::Cached(cached.fetch),
            (None, Some(fetch), _) if !self.is_late(fetch) => Expected::Result(fetch),
            (None, _, Some(rejected)) => Expected::Stopgap(rejected),
            (None, ..) => Expected::Unknown,
        };
        if expected == Expected::Unknown && !self.is_paused(key) {
            // A fetch past its deadline is replaced.
            self.keys[key].fetch = None;
        }
        let request = &mut self.requests[id];
        (request.expected, request.looked_at, request.readying) = (expected, self.now.clock, None);
        self.look = Some(Look { id, offset, was_full: self.is_full(key), fetched: false });
    }

    /// It has looked. A fetch has to have started if one was due.
    pub fn looked(&mut self) {
        let Some(Look { id, fetched, .. }) = self.look.take() else { return };
        let key = self.requests[id].key;
        match self.requests[id].expected {
            Expected::Unknown if self.is_paused(key) => {
                self.counts.add(Situation::Paused);
                self.requests[id].expected = Expected::Error(AuthErrorKind::TokenSource);
            }
            Expected::Unknown if self.is_full(key) => {
                let has_place = self.running_fetches() < self.settings.max_concurrent_fetches;
                self.counts.add(if has_place { Situation::PartitionOverloaded } else { Situation::Overloaded });
                self.requests[id].expected = Expected::Error(AuthErrorKind::Overloaded);
            }
            Expected::Unknown => {
                self.wrong.push(format!("c1: request {id} found no token, and the source was not called"));
            }
            Expected::Cached(fetch) => self.hit(key, fetch, fetched),
            Expected::Result(_) if !fetched => self.counts.add(Situation::Joined),
            Expected::Stopgap(_) | Expected::Result(_) | Expected::Error(_) => {}
        }
    }

    /// A cached token was found. A refresh has to have started if one was due (rules D2, C3).
    fn hit(&mut self, key: usize, fetch: FetchId, fetched: bool) {
        // Unless the refresh has completed already.
        let Some(cached) = self.keys[key].cached.filter(|cached| cached.fetch == fetch) else { return };
        let elapsed = cached.entry.elapsed(self.now).unwrap_or(0);
        if cached.entry.age.is_some() {
            self.counts.add(Situation::UsedByAge);
        }
        if self.now.clock < cached.entry.from {
            self.counts.add(Situation::SmallStepBack);
        }
        if !self.refreshes() {
            if self.settings.refreshes && elapsed >= cached.refresh_by {
                self.counts.add(Situation::NoRefresh);
            }
            return;
        }
        let state = &self.keys[key];
        let waits = state.rejections.stopgap(self.now).is_some();
        let is_blocked = state.fetch.is_some() || waits || self.is_paused(key) || self.is_full(key);
        if !fetched && is_blocked && elapsed >= cached.refresh_from {
            // The layer may have noticed that a refresh is due, and tries again later.
            self.keys[key].cached.as_mut().unwrap().refresh_by = i64::MAX;
        } else {
            let is_due = elapsed >= cached.refresh_by;
            self.check(fetched || !is_due, || format!("d2: a refresh of token {} is due", cached.entry.token));
        }
    }

    /// Without a runtime there is no refresh ahead (rule C3).
    fn refreshes(&self) -> bool {
        self.settings.refreshes && self.settings.on_runtime
    }

    /// Nothing moves any more until the test does something.
    pub fn settled(&mut self) {
        for fetch in 0..self.fetches.len() {
            let Fetch { outcome, asks_again, .. } = self.fetches[fetch];
            self.check(asks_again.is_none(), || format!("d4: fetch {fetch} did not ask the source a second time"));
            // Without a runtime only a request that is polled notices the deadline.
            let is_overdue = outcome.is_none() && self.now.on_runtime && self.is_late(fetch);
            self.check(!is_overdue, || format!("c6: fetch {fetch} goes on after its deadline"));
        }
        for id in 0..self.requests.len() {
            let request = &self.requests[id];
            let has_all = match request.expected {
                Expected::Cached(_) | Expected::Stopgap(_) | Expected::Error(_) => true,
                Expected::Result(fetch) => self.fetches[fetch].outcome.is_some(),
                Expected::Unknown => false,
            };
            let (is_waiting, expected) = (!request.is_over && request.is_before_sending(), request.expected);
            let may_wait = self.busy && !matches!(expected, Expected::Error(_));
            self.check(!is_waiting || !has_all || may_wait, || format!("c2: request {id} waits for {expected:?}"));
        }
    }
}

impl Request {
    fn is_before_sending(&self) -> bool {
        self.sent.is_empty() || (self.sent.len() == 1 && self.may_replay)
    }
}
