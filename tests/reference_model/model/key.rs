//! What the layer knows of one key: the token in the cache, the tokens that were rejected, the fetch that may publish.

use super::super::case::Claims;
use super::time::{Pause, Time};
use super::{FetchId, Token};

/// How far the clock may go back without ending a token (rule D1).
const MAX_STEP_BACK: i64 = 5_000;

const FALLBACK_LIFETIME: i64 = 60_000;

/// A token as one fetch brought it.
#[derive(Clone, Copy)]
pub struct Entry {
    pub token: Token,
    /// The clock at the start of the fetch, and the offset that the source was told the time by.
    pub from: i64,
    pub offset: i64,
    pub usable_for: i64,
    pub age: Option<i64>,
    pub out_of_cache: bool,
    /// Whether it replaced a rejected token, and was not accepted yet (rule E5).
    pub on_trial: bool,
}

/// What a token says of its time. `exp` and `iat` in milliseconds since the epoch.
#[derive(Clone, Copy)]
pub struct Made {
    pub key: usize,
    pub token: Token,
    pub exp: Option<i64>,
    pub iat: Option<i64>,
    pub age: Option<i64>,
    pub out_of_cache: bool,
}

impl Made {
    /// How long the token is used from the start of a fetch for which the source was told the time `now` (rule D1).
    pub fn usable_for(self, now: i64) -> i64 {
        let lifetime = match (self.exp, self.iat, self.age) {
            (Some(exp), Some(iat), Some(age)) => exp - iat - age,
            (Some(exp), Some(iat), None) => (exp - now).min(exp - iat),
            (Some(exp), None, _) => exp - now,
            (None, _, age) => FALLBACK_LIFETIME - age.unwrap_or(0),
        };
        let lifetime = lifetime.max(0);
        lifetime - (lifetime / 10).min(5_000)
    }

    pub fn new(key: usize, token: Token, now: i64, claims: Claims) -> Self {
        // The last second of the year 9999.
        let at = |seconds: i64| (now + seconds * 1_000).min(253_402_300_799_000);
        let (exp, iat) = (claims.exp.map(at), claims.iat.map(at));
        Self { key, token, exp, iat, age: claims.age.map(|age| age * 1_000), out_of_cache: claims.out_of_cache }
    }
}

impl Entry {
    /// The time since the start of the fetch. `None` if a step back of the clock has ended the token.
    pub fn elapsed(&self, now: Time) -> Option<i64> {
        let elapsed = now.clock - self.from;
        (elapsed >= -MAX_STEP_BACK).then_some(elapsed.max(0))
    }

    pub fn is_expired(&self, now: Time) -> bool {
        self.elapsed(now).is_none_or(|elapsed| elapsed >= self.usable_for)
    }
}

#[derive(Clone, Copy)]
pub struct Cached {
    pub fetch: FetchId,
    pub entry: Entry,
    pub failed_refreshes: u32,
    /// From when on a refresh may start, and has to, in time since the start of the fetch (rules D2, D3).
    pub refresh_from: i64,
    pub refresh_by: i64,
}

impl Cached {
    pub fn new(fetch: FetchId, entry: Entry) -> Self {
        let ahead = (entry.usable_for / 4).min(300_000);
        // The place in between is up to the layer. A millisecond is for its rounding.
        let (refresh_from, refresh_by) = (entry.usable_for - ahead - 1, entry.usable_for - ahead / 2 + 1);
        Self { fetch, entry, failed_refreshes: 0, refresh_from, refresh_by }
    }

    /// The next refresh waits for a time that doubles, or for as long as the source asked for.
    pub fn refresh_failed(&mut self, pause: i64, now: Time) {
        let wait = (1_i64 << self.failed_refreshes.min(5)).min(30) * 1_000;
        self.failed_refreshes += 1;
        self.refresh_from = self.entry.elapsed(now).unwrap_or(0) + wait.max(pause);
        self.refresh_by = self.refresh_from;
    }
}

/// The tokens that were rejected (rule D5), and how long the next fetch has to wait (rule E5).
#[derive(Clone, Default)]
pub struct Rejections {
    /// The last four, the newest at the end.
    pub tokens: Vec<FetchId>,
    /// Whether the last one is still to be replaced.
    pub pending: bool,
    pub failures: u32,
    pub wait: Option<Pause>,
}

impl Rejections {
    /// A token that is still to be replaced stays the newest one.
    pub fn push(&mut self, fetch: FetchId) {
        self.tokens.insert(self.tokens.len() - usize::from(self.pending), fetch);
        if self.tokens.len() > 4 {
            self.tokens.remove(0);
        }
    }

    /// Returns the wait that begins, in seconds.
    pub fn fail(&mut self, now: Time) -> Option<i64> {
        self.failures += 1;
        let wait = (self.failures >= 2).then(|| (1_i64 << (self.failures - 2).min(5)).min(30))?;
        self.wait = Some(Pause::new(wait * 1_000, now));
        Some(wait)
    }

    /// Returns whether there was anything to reset.
    pub fn reset(&mut self) -> bool {
        let had = self.failures > 0;
        (self.failures, self.wait) = (0, None);
        had
    }

    /// The token that requests carry while no other is fetched.
    pub fn stopgap(&self, now: Time) -> Option<FetchId> {
        let waits = self.pending && self.wait.is_some_and(|wait| wait.is_running(now));
        self.tokens.last().copied().filter(|_| waits)
    }
}

#[derive(Clone, Default)]
pub struct Key {
    pub cached: Option<Cached>,
    pub rejections: Rejections,
    /// The fetch that may publish.
    pub fetch: Option<FetchId>,
    /// While it runs, the source is asked once only (rule D4).
    pub ask_once: Option<Pause>,
    /// Whether the last token was forgotten by the test rather than rejected.
    pub invalidated: bool,
    /// All tokens that were ever rejected, for the counts.
    pub ever_rejected: Vec<Token>,
}
