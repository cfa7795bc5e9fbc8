//! The cache and its flights under [shuttle], which runs each scenario under thousands of schedules: at every lock, atomic and wait it
//! chooses who goes on. It ends a schedule in which nobody can go on: a lost wake-up, or a deadlock.
//!
//! What it does not try: weaker orderings of memory than one after the other, and what happens inside the store, whose locks are its own.
//!
//! ```sh
//! cargo test --release --manifest-path tests/model/Cargo.toml --target-dir target/model
//! MODEL_SCHEDULES=100000 MODEL_SEED=7 cargo test …    # more of them, and others
//! ```
#![cfg_attr(not(test), allow(dead_code, unreachable_pub, reason = "for the tests"))]

#[cfg(test)]
mod flights;
#[cfg(test)]
mod refusals;
mod runtime;
#[cfg(test)]
mod storm;
#[cfg(test)]
mod world;

pub(crate) use self::runtime::{Timer, is_entered, spawn};

/// Runs a scenario under many schedules: half of them chosen at random at every step, half by few changes of priority (PCT), which finds
/// what takes one thread to be very late.
#[cfg(test)]
fn explore(scenario: impl Fn() + Send + Sync + 'static) {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use shuttle::scheduler::{PctScheduler, RandomScheduler};
    use shuttle::{Config, Runner};

    /// Says which schedule failed.
    struct Count(Arc<AtomicUsize>);

    impl Drop for Count {
        fn drop(&mut self) {
            let count = self.0.load(Ordering::Relaxed);
            if std::thread::panicking() {
                eprintln!("found by schedule {count}");
            } else {
                println!("{count} schedules");
            }
        }
    }

    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().expect("a number"));
    let schedules = usize::try_from(number("MODEL_SCHEDULES").unwrap_or(4_000)).unwrap_or(usize::MAX);
    let seed = number("MODEL_SEED").unwrap_or(0);

    let count = Count(Arc::default());
    let run = {
        let count = Arc::clone(&count.0);
        Arc::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
            scenario();
        })
    };
    let mut config = Config::new();
    config.silence_warnings = true;
    let random = RandomScheduler::new_from_seed(seed, schedules.div_ceil(2));
    Runner::new(random, config.clone()).run({
        let run = Arc::clone(&run);
        move || run()
    });
    Runner::new(PctScheduler::new_from_seed(seed, 3, schedules / 2), config).run(move || run());
}
