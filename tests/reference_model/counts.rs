//! How often each situation occurred, so that a generator that stops producing one is noticed.

use std::collections::BTreeMap;
use std::fmt;

macro_rules! situations {
    ($($name:ident: $text:literal,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Situation { $($name,)* }

        impl Situation {
            const ALL: &[Self] = &[$(Self::$name,)*];

            fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

situations! {
    Request: "requests",
    Hit: "requests that carry a cached token",
    Fetch: "fetches",
    TimedOut: "fetches that timed out",
    Rejected: "responses of 401",
    Replay: "replays",
    Joined: "c1: requests that join a running fetch",
    Renewed: "c2: tokens that were replaced since they expired while the inner service was busy",
    RenewedReplay: "c2: the same before a replay",
    NoRefresh: "c3: hits on a token near its end without a runtime",
    Overloaded: "c5: requests that find too many fetches",
    PartitionOverloaded: "c5: requests that find too many fetches of their partition",
    UsedByAge: "d1: hits on a token with an age",
    EndedByAge: "d1: tokens that expired because of their age",
    SmallStepBack: "d1: hits after a small step back",
    LargeStepBack: "d1: tokens that a large step back ended",
    RefreshDue: "d2: refreshes in the window",
    RefreshLate: "d2: refreshes after the window",
    RefreshFailed: "d3: refreshes that failed",
    AskedAgain: "d4: second questions",
    SecondHelped: "d4: second questions that brought a token to cache",
    SecondFailed: "d4: second questions that brought a token as bad",
    SecondError: "d4: second questions that failed",
    AskedOnce: "d4: fetches that may not ask twice",
    ExpiredSent: "d4: expired tokens sent",
    RejectedAgain: "d5: sources that brought the last rejected token again",
    OlderAgain: "d5: sources that brought an older rejected token again",
    ForgottenAgain: "d5: tokens cached that were rejected before the last four",
    AfterInvalidate: "d5: forced fetches after `invalidate` or `clear`",
    ReplayOutOfCache: "e2: 401s to a token just fetched that was out of a cache",
    ReplayExpired: "e2: 401s to a token just fetched that has expired",
    NotReplayed: "e2: 401s to a token just fetched, not replayed",
    Forbidden: "e3: responses of 403 that are treated as 401",
    ForbiddenPassed: "e3: responses of 403 that are not",
    Wait: "e5: waits of 1 s",
    DoubledWait: "e5: waits of 2 s and more",
    LongestWait: "e5: waits of 30 s",
    WaitAfterFailure: "e5: waits after a fetch that brought no new token",
    Stopgap: "e5: requests that carry a stopgap",
    StopgapRejected: "e5: 401s to a stopgap",
    AcceptedResets: "e5: waits and failures reset by a success",
    Paused: "g2: requests that find a pause",
    OffsetTried: "h1: offsets tried by a fetch",
    OffsetAdopted: "h1: offsets adopted",
    OffsetRejected: "h1: offsets not adopted since the replay was answered 401",
    OffsetInForce: "h1: later fetches with the offset in force",
    OffsetVoidedBy401: "h1: offsets voided by the date of a 401",
    OffsetVoided: "h1: offsets voided by the date of another response",
    OffsetLapsed: "h1: offsets that lapsed",
    DateTooFar: "h1: 401s with a date over a day off",
}

#[derive(Default)]
pub struct Counts(BTreeMap<Situation, u64>);

impl Counts {
    pub fn add(&mut self, situation: Situation) {
        *self.0.entry(situation).or_default() += 1;
    }

    pub fn add_all(&mut self, other: &Self) {
        for (situation, count) in &other.0 {
            *self.0.entry(*situation).or_default() += count;
        }
    }

    pub fn get(&self, situation: Situation) -> u64 {
        self.0.get(&situation).copied().unwrap_or_default()
    }

    pub fn missing(&self) -> Vec<Situation> {
        Situation::ALL.iter().copied().filter(|situation| self.get(*situation) == 0).collect()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Situation::ALL.iter().try_for_each(|situation| writeln!(f, "{:>9} {}", self.get(*situation), situation.text()))
    }
}
