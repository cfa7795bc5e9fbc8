//! Random sequences of all that can happen to the layer, against a simple model of what it may do (`reference_model/model.rs`): which
//! token a request carries, how often it is sent, when the source is asked and when it is not, and that everything ends.
//!
//! Each case runs on one thread and in one order: on a current-thread runtime with paused time (the flights have tasks and timers) or on
//! none (those who wait drive them). What happens at the same time is for `tests/model`.
//!
//! ```sh
//! PROPTEST_CASES=200000 cargo test --release --test reference_model     # more cases
//! PROPTEST_RNG_SEED=7 cargo test --test reference_model                 # others
//! ```
#![allow(clippy::unwrap_used, unreachable_pub, reason = "these are tests")]

#[path = "reference_model/model.rs"]
mod model;
mod support;
#[path = "reference_model/world.rs"]
mod world;

use std::cell::Cell;
use std::fmt;

use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, RngSeed, TestError, TestRunner};
use tower_aiuta_auth::AuthParams;

/// How many sets of params there are: the first two differ in their partition alone, the last has none.
const KEYS: usize = 3;

fn params(key: usize) -> AuthParams {
    let params = support::params(if key == 2 { "image-2" } else { "image-1" });
    partition(key).into_iter().fold(params, AuthParams::with_partition)
}

fn partition(key: usize) -> Option<&'static str> {
    ["one", "two"].get(key).copied()
}

/// What the test does next. Numbers choose among what is there, counted from the oldest.
#[derive(Clone, Debug)]
enum Op {
    Request {
        key: usize,
        answers: [Answer; 2],
        once: bool,
    },
    /// Lets an answer that was held back reach the layer.
    Answer(usize),
    /// Lets a call of the source go on.
    Release(usize),
    /// Drops a request.
    Cancel(usize),
    Invalidate(usize),
    Clear,
    /// Time passes, in seconds.
    Pass(i64),
    /// The wall clock is set, so many seconds on or back.
    Jump(i64),
}

#[derive(Clone, Copy, PartialEq)]
enum Status {
    Fine,
    Unauthorized,
    Broken,
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", u16::from(*self))
    }
}

impl From<Status> for u16 {
    fn from(status: Status) -> Self {
        match status {
            Status::Fine => 200,
            Status::Unauthorized => 401,
            Status::Broken => 503,
        }
    }
}

/// What the inner service says to a request; if it is `held`, once the test lets it.
#[derive(Clone, Copy)]
struct Answer {
    status: Status,
    held: bool,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{}", self.status, if self.held { " held" } else { "" })
    }
}

/// What one call of the source does, before it ends.
#[derive(Clone, Debug)]
enum Wait {
    No,
    /// Wakes itself so often.
    Turns(usize),
    /// Until the test lets it go on.
    Held,
}

#[derive(Clone, Debug)]
enum End {
    Token(Claims),
    /// The last token for these params once more.
    SameAgain,
    Failed {
        how: Failure,
        pause: Option<u16>,
    },
    Panic,
}

#[derive(Clone, Copy, Debug)]
enum Failure {
    Permanent,
    Transient,
    Denied,
}

/// In seconds from the time that the call was told.
#[derive(Clone, Copy)]
struct Claims {
    exp: Option<i64>,
    iat: Option<i64>,
}

impl Claims {
    const MINUTE: Self = Self { exp: Some(60), iat: Some(0) };
}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let claim = |name, value: Option<i64>| value.map_or(format!("no {name}"), |value| format!("{name} {value:+}"));
        write!(f, "{}, {}", claim("iat", self.iat), claim("exp", self.exp))
    }
}

/// One sequence, and all that it depends on.
#[derive(Clone)]
struct Case {
    on_runtime: bool,
    refreshes: bool,
    max_flights: usize,
    /// What the first calls of the source do; the others bring a token for a minute at once.
    calls: Vec<(Wait, End)>,
    ops: Vec<Op>,
}

/// A trace to be read.
impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let home = if self.on_runtime { "on a runtime" } else { "on no runtime" };
        let refreshes = if self.refreshes { "refreshes" } else { "no refreshes" };
        writeln!(f, "{home}, {refreshes}, max_flights {}", self.max_flights)?;
        for (number, call) in self.calls.iter().enumerate() {
            writeln!(f, "  call {number}: {:?}, {:?}", call.0, call.1)?;
        }
        self.ops.iter().try_for_each(|op| writeln!(f, "  {op:?}"))
    }
}

fn keys() -> impl Strategy<Value = usize> {
    prop_oneof![4 => Just(0), 1 => Just(1), 1 => Just(2)]
}

fn seconds() -> impl Strategy<Value = i64> {
    prop_oneof![2 => Just(1), 1 => Just(5), 1 => Just(10), 4 => Just(50), 1 => Just(60), 2 => 1..100_i64, 1 => Just(400)]
}

fn answer() -> impl Strategy<Value = Answer> {
    let status = prop_oneof![4 => Just(Status::Fine), 3 => Just(Status::Unauthorized), 1 => Just(Status::Broken)];
    (status, prop::bool::weighted(0.3)).prop_map(|(status, held)| Answer { status, held })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        10 => (keys(), [answer(), answer()], prop::bool::weighted(0.1))
            .prop_map(|(key, answers, once)| Op::Request { key, answers, once }),
        3 => (0..3_usize).prop_map(Op::Answer),
        4 => (0..3_usize).prop_map(Op::Release),
        2 => (0..3_usize).prop_map(Op::Cancel),
        1 => keys().prop_map(Op::Invalidate),
        1 => Just(Op::Clear),
        5 => seconds().prop_map(Op::Pass),
        1 => (seconds(), any::<bool>()).prop_map(|(by, back)| Op::Jump(if back { -by } else { by })),
    ]
}

fn claims() -> impl Strategy<Value = Claims> {
    let exp = prop_oneof![
        1 => Just(None),
        1 => Just(Some(-10)),
        1 => Just(Some(0)),
        1 => Just(Some(1)),
        2 => Just(Some(20)),
        9 => Just(Some(60)),
        2 => Just(Some(600)),
        // Beyond what any clock shows.
        1 => Just(Some(i64::from(u32::MAX) * 1_000)),
    ];
    let iat = prop_oneof![1 => Just(None), 1 => Just(Some(-20)), 5 => Just(Some(0)), 1 => Just(Some(20))];
    (exp, iat).prop_map(|(exp, iat)| Claims { exp, iat })
}

fn call() -> impl Strategy<Value = (Wait, End)> {
    let wait = prop_oneof![3 => Just(Wait::No), 1 => (1..3_usize).prop_map(Wait::Turns), 3 => Just(Wait::Held)];
    let how = prop_oneof![Just(Failure::Permanent), Just(Failure::Transient), Just(Failure::Denied)];
    let pause = prop::option::weighted(0.5, prop_oneof![Just(0_u16), 1..60_u16, Just(300_u16)]);
    let end = prop_oneof![
        6 => claims().prop_map(End::Token),
        1 => Just(End::SameAgain),
        2 => (how, pause).prop_map(|(how, pause)| End::Failed { how, pause }),
        1 => Just(End::Panic),
    ];
    (wait, end)
}

fn case() -> impl Strategy<Value = Case> {
    let max_flights = prop_oneof![1 => Just(1_usize), 1 => Just(2_usize), 3 => Just(100_usize)];
    let (calls, ops) = (prop::collection::vec(call(), 0..12), prop::collection::vec(op(), 1..40));
    (any::<bool>(), prop::bool::weighted(0.8), max_flights, calls, ops).prop_map(
        |(on_runtime, refreshes, max_flights, calls, ops)| Case { on_runtime, refreshes, max_flights, calls, ops },
    )
}

#[test]
fn the_layer_does_what_the_model_says() {
    let mut config = Config {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/reference_model/regressions.txt"))),
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 1_000;
    }
    // The same cases everywhere, unless others are asked for.
    if std::env::var_os("PROPTEST_RNG_SEED").is_none() {
        config.rng_seed = RngSeed::Fixed(0);
    }
    let (cases, seen) = (Cell::new(0_u64), Cell::new([0_u64; 7]));
    let result = TestRunner::new(config).run(&case(), |case| {
        cases.set(cases.get() + 1);
        let (wrong, tally) = world::run(&case);
        seen.set(std::array::from_fn(|kind| seen.get()[kind] + tally[kind]));
        if wrong.is_empty() { Ok(()) } else { Err(TestCaseError::fail(wrong.join("\n  "))) }
    });
    let cases = cases.get();
    match result {
        Ok(()) => {
            let [requests, hits, calls, refreshes, refusals, replays, dropped] = seen.get();
            println!(
                "{cases} cases: {requests} requests, {hits} out of the cache; {calls} calls of the source, {refreshes} to refresh, \
                 {dropped} cut off; {refusals} refusals, {replays} replays"
            );
        }
        Err(TestError::Fail(why, case)) => panic!("after {cases} cases, shrinking included:\n{case:?}\n  {why}"),
        Err(abort) => panic!("{abort}"),
    }
}
