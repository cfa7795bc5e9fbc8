//! Compares the layer with a simple model of its rules (`model.rs`) on random sequences of requests, source results,
//! time steps and cancellations. The model checks which token a request carries, how often it is sent, when the source
//! is called, and that every request ends.
//!
//! Each case runs on one thread in one order: on a current-thread runtime with paused time, where fetches have tasks
//! and timers, or without a runtime, where waiting requests drive them. `tests/model` covers concurrency.
//!
//! ```sh
//! PROPTEST_CASES=200000 cargo test --release --test reference_model     # more cases
//! PROPTEST_RNG_SEED=7 cargo test --test reference_model                 # other cases
//! ```
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test binary")]

mod model;
#[path = "../support/mod.rs"]
mod support;
mod world;

use std::cell::Cell;
use std::fmt;

use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, RngSeed, TestError, TestRunner};
use tower_aiuta_auth::AuthParams;

/// The number of different params. The first two differ only in their partition, the last has none.
const KEYS: usize = 3;

fn params(key: usize) -> AuthParams {
    let params = support::params(if key == 2 { "image-2" } else { "image-1" });
    partition(key).into_iter().fold(params, AuthParams::with_partition)
}

fn partition(key: usize) -> Option<&'static str> {
    ["one", "two"].get(key).copied()
}

/// One step of a case. Numbers select a request, response or call, counted from the oldest.
#[derive(Clone)]
enum Op {
    /// `calls`: the plan of the source call for this request, and of the call for its replay. `once`: it must not be
    /// replayed.
    Request {
        key: usize,
        answers: [Answer; 2],
        calls: [Plan; 2],
        once: bool,
    },
    /// Lets a held response reach the layer.
    Answer(usize),
    /// Lets a held source call continue.
    Release(usize),
    /// Drops a request.
    Cancel(usize),
    Invalidate(usize),
    Clear,
    /// Advances the time, in seconds.
    Pass(i64),
    /// Sets the wall clock forward, or back if negative, in seconds.
    Jump(i64),
}

/// One line of a trace. Of a request it shows what differs from the usual.
impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request { key, answers, calls, once } => {
                write!(f, "Request for key {key}, answered {answers:?}{}", if *once { ", once" } else { "" })?;
                let [first, replay] = calls;
                let usual = |plan: &Plan| format!("{plan:?}") == format!("{:?}", Plan::USUAL);
                if !usual(first) {
                    write!(f, ", source: {first:?}")?;
                }
                if !usual(replay) {
                    write!(f, ", for a replay: {replay:?}")?;
                }
                Ok(())
            }
            Self::Answer(number) => write!(f, "Answer {number}"),
            Self::Release(number) => write!(f, "Release {number}"),
            Self::Cancel(number) => write!(f, "Cancel {number}"),
            Self::Invalidate(key) => write!(f, "Invalidate key {key}"),
            Self::Clear => f.write_str("Clear"),
            Self::Pass(seconds) => write!(f, "{seconds} s pass"),
            Self::Jump(seconds) => write!(f, "The clock jumps {seconds:+} s"),
        }
    }
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

/// The response of the inner service. If `held`, it waits for [`Op::Answer`].
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

/// What a source call does before it ends.
#[derive(Clone, Copy, Debug)]
enum Wait {
    No,
    /// Wakes itself this many times.
    Turns(usize),
    /// Waits for [`Op::Release`].
    Held,
}

/// The plan of a source call.
#[derive(Clone)]
struct Plan {
    wait: Wait,
    end: End,
}

impl Plan {
    const USUAL: Self = Self { wait: Wait::No, end: End::Token(Claims::MINUTE) };
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.wait {
            Wait::No => {}
            Wait::Turns(turns) => write!(f, "{turns} turns, then ")?,
            Wait::Held => f.write_str("held, then ")?,
        }
        write!(f, "{:?}", self.end)
    }
}

#[derive(Clone, Debug)]
enum End {
    Token(Claims),
    /// Returns the last token for these params again.
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

/// In seconds relative to [`TokenRequest::now`](tower_aiuta_auth::TokenRequest::now).
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

/// A sequence of steps and the settings of the layer.
#[derive(Clone)]
struct Case {
    on_runtime: bool,
    refreshes: bool,
    max_concurrent_fetches: usize,
    ops: Vec<Op>,
}

/// A readable trace.
impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runtime = if self.on_runtime { "on a runtime" } else { "without a runtime" };
        let refreshes = if self.refreshes { "refreshes" } else { "no refreshes" };
        writeln!(f, "{runtime}, {refreshes}, max_concurrent_fetches {}", self.max_concurrent_fetches)?;
        self.ops.iter().try_for_each(|op| writeln!(f, "  {op:?}"))
    }
}

fn keys() -> impl Strategy<Value = usize> {
    prop_oneof![8 => Just(0), 1 => Just(1), 1 => Just(2)]
}

/// In seconds. A token for a minute is due for a refresh after 47 s, one for ten minutes after 450 to 465 s.
fn duration() -> impl Strategy<Value = i64> {
    prop_oneof![4 => Just(1), 1 => Just(5), 2 => Just(10), 4 => Just(47), 1 => Just(60), 1 => 1..100_i64, 1 => Just(450)]
}

fn answer() -> impl Strategy<Value = Answer> {
    let status = prop_oneof![6 => Just(Status::Fine), 3 => Just(Status::Unauthorized), 1 => Just(Status::Broken)];
    (status, prop::bool::weighted(0.3)).prop_map(|(status, held)| Answer { status, held })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (keys(), [answer(), answer()], [call(), call()], prop::bool::weighted(0.1))
            .prop_map(|(key, answers, calls, once)| Op::Request { key, answers, calls, once }),
        3 => (0..3_usize).prop_map(Op::Answer),
        4 => (0..3_usize).prop_map(Op::Release),
        2 => (0..3_usize).prop_map(Op::Cancel),
        1 => keys().prop_map(Op::Invalidate),
        1 => Just(Op::Clear),
        5 => duration().prop_map(Op::Pass),
        1 => (duration(), any::<bool>()).prop_map(|(by, back)| Op::Jump(if back { -by } else { by })),
    ]
}

/// Each value shrinks to the first option.
fn claims() -> impl Strategy<Value = Claims> {
    let exp = prop_oneof![
        9 => Just(Some(60)),
        2 => Just(Some(600)),
        2 => Just(Some(20)),
        1 => Just(Some(1)),
        1 => Just(Some(0)),
        1 => Just(Some(-10)),
        1 => Just(None),
        // After the year 9999.
        1 => Just(Some(i64::from(u32::MAX) * 1_000)),
    ];
    let iat = prop_oneof![5 => Just(Some(0)), 1 => Just(Some(-20)), 1 => Just(Some(20)), 1 => Just(None)];
    (exp, iat).prop_map(|(exp, iat)| Claims { exp, iat })
}

fn call() -> impl Strategy<Value = Plan> {
    let wait = prop_oneof![8 => Just(Wait::No), 1 => (1..3_usize).prop_map(Wait::Turns), 3 => Just(Wait::Held)];
    let how = prop_oneof![Just(Failure::Permanent), Just(Failure::Transient), Just(Failure::Denied)];
    let pause = prop::option::weighted(0.5, prop_oneof![Just(0_u16), 1..60_u16, Just(300_u16)]);
    let end = prop_oneof![
        12 => claims().prop_map(End::Token),
        1 => Just(End::SameAgain),
        2 => (how, pause).prop_map(|(how, pause)| End::Failed { how, pause }),
        1 => Just(End::Panic),
    ];
    (wait, end).prop_map(|(wait, end)| Plan { wait, end })
}

fn case() -> impl Strategy<Value = Case> {
    let max_concurrent_fetches = prop_oneof![3 => Just(100_usize), 1 => Just(2_usize), 1 => Just(1_usize)];
    let ops = prop::collection::vec(op(), 1..40);
    (any::<bool>(), prop::bool::weighted(0.8), max_concurrent_fetches, ops).prop_map(
        |(on_runtime, refreshes, max_concurrent_fetches, ops)| Case {
            on_runtime,
            refreshes,
            max_concurrent_fetches,
            ops,
        },
    )
}

#[test]
fn layer_matches_the_reference_model() {
    let mut config = Config {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/reference_model/regressions.txt"))),
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 1_000;
    }
    // The same cases in every run, unless a seed is given.
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
            let [requests, hits, calls, refreshes, rejections, replays, dropped] = seen.get();
            println!(
                "{cases} cases: {requests} requests, {hits} hits; {calls} source calls, {refreshes} of them refreshes, \
                 {dropped} dropped; {rejections} rejections, {replays} replays"
            );
        }
        Err(TestError::Fail(why, case)) => panic!("after {cases} cases, shrinking included:\n{case:?}\n  {why}"),
        Err(abort) => panic!("{abort}"),
    }
}
