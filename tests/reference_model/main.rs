//! Random sequences of everything that can happen to the layer, checked against a model of what the layer may do
//! (`model.rs`): which token a request carries, how often it is sent, when the source is called and what it is told,
//! and that everything ends.
//!
//! Each case runs on one thread and in one order: on a current-thread runtime with paused time, where fetches have
//! tasks and timers, or on no runtime, where the requests that await a fetch drive it. `tests/model` covers what
//! happens at the same time.
//!
//! ```sh
//! PROPTEST_CASES=200000 cargo test --release --test reference_model     # more cases
//! PROPTEST_RNG_SEED=7 cargo test --test reference_model                 # other cases
//! ```
#![allow(clippy::unwrap_used, unreachable_pub, reason = "these are tests")]

mod case;
mod counts;
mod generate;
mod model;
#[path = "../support/mod.rs"]
mod support;
mod world;

use std::cell::{Cell, RefCell};

use proptest::test_runner::{Config, FileFailurePersistence, RngSeed, TestCaseError, TestError, TestRunner};

use self::counts::Counts;

/// The number of cases, and the number from which on each situation has to have occurred.
const CASES: u32 = 1_000;

#[test]
fn layer_does_what_the_model_allows() {
    let mut config = Config {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/reference_model/regressions.txt"))),
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = CASES;
    }
    // The same cases everywhere, unless others are asked for.
    if std::env::var_os("PROPTEST_RNG_SEED").is_none() {
        config.rng_seed = RngSeed::Fixed(0);
    }
    let (cases, counts) = (Cell::new(0), RefCell::new(Counts::default()));
    let result = TestRunner::new(config).run(&generate::case(), |case| {
        cases.set(cases.get() + 1);
        let (wrong, of_case) = world::run(&case);
        counts.borrow_mut().add_all(&of_case);
        if wrong.is_empty() { Ok(()) } else { Err(TestCaseError::fail(wrong.join("\n  "))) }
    });
    let (cases, counts) = (cases.get(), counts.into_inner());
    match result {
        Ok(()) => {
            println!("{cases} cases:\n{counts}");
            if cases >= CASES {
                let missing = counts.missing();
                assert!(missing.is_empty(), "these situations did not occur: {missing:?}");
            }
        }
        Err(TestError::Fail(why, case)) => panic!("after {cases} cases, shrinking included:\n{case:?}\n  {why}"),
        Err(abort) => panic!("{abort}"),
    }
}
