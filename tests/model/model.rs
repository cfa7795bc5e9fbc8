//! Model-checks the cache and its fetches with [shuttle], which runs each scenario under thousands of schedules. At
//! every lock, atomic and wait it chooses the thread that runs next. It fails a schedule in which no thread can run: a
//! lost wake-up or a deadlock.
//!
//! Not checked: memory orderings weaker than sequential consistency, and the locks inside the store.
//!
//! ```sh
//! cargo test --release --manifest-path tests/model/Cargo.toml --target-dir target/model
//! MODEL_SCHEDULES=100000 MODEL_SEED=7 cargo test …    # more schedules, and different ones
//! ```
#![cfg_attr(not(test), allow(dead_code, unreachable_pub, reason = "used by tests only"))]

#[cfg(test)]
mod random;
#[cfg(test)]
mod rejections;
mod runtime;
#[cfg(test)]
mod runtimes;
#[cfg(test)]
mod second_call;
#[cfg(test)]
mod shared_call;
#[cfg(test)]
mod single_flight;
#[cfg(test)]
mod world;

pub(crate) use self::runtime::{HomeRuntime, Instant, Timer, is_entered, now_on_runtime, to_std};

/// Runs a scenario under many schedules. Half of them choose a random thread at every step. The other half change
/// priorities seldom (PCT), which finds errors that need one thread to be very late.
#[cfg(test)]
fn explore(scenario: impl Fn() + Send + Sync + 'static) {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use shuttle::scheduler::{PctScheduler, RandomScheduler};
    use shuttle::{Config, Runner};

    /// Prints the number of schedules, or the one that failed.
    struct Count(Arc<AtomicUsize>);

    impl Drop for Count {
        fn drop(&mut self) {
            let count = self.0.load(Ordering::Relaxed);
            if std::thread::panicking() {
                eprintln!("failed in schedule {count}");
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
