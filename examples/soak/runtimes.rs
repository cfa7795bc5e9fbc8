//! The runtimes of the callers beside the main one, each on a thread of its own: a second runtime with several threads,
//! runtimes that are driven only during a call, and callers without a runtime.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Handle};
use tokio::task::JoinSet;
use tower_aiuta_auth::{AiutaAuthLayer, BoxError};

use crate::caller::Caller;
use crate::client::{stacks, stacks_without_runtime};
use crate::rng::Rng;
use crate::shared::Shared;

/// Number of threads of the second runtime.
const SECOND_RUNTIME: usize = 2;

/// Number of runtimes that are driven only during a call, each with one caller.
const UNDRIVEN: u64 = 3;

/// Number of callers without a runtime.
const WITHOUT: u64 = 3;

/// Number of threads that may poll a token source, those of the main runtime not counted.
#[allow(clippy::cast_possible_truncation, reason = "both are small")]
pub(crate) const THREADS: usize = SECOND_RUNTIME + 1 + (UNDRIVEN + WITHOUT) as usize;

/// Number of callers, those on the main runtime not counted.
pub(crate) fn callers(on_main: u64) -> u64 {
    on_second(on_main) + UNDRIVEN + WITHOUT
}

fn on_second(on_main: u64) -> u64 {
    (on_main / 4).max(1)
}

/// What a caller needs.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) shared: Arc<Shared>,
    pub(crate) layer: AiutaAuthLayer,
    pub(crate) untrusted_origin: String,
}

impl Parts {
    /// Returns callers whose connections belong to the current runtime.
    pub(crate) fn callers(&self, count: u64, rng: impl Fn(u64) -> Rng) -> impl Iterator<Item = Caller> {
        let stacks = stacks(&self.layer, &self.shared);
        (0..count).map(move |caller| {
            Caller::new(Arc::clone(&self.shared), stacks.clone(), self.untrusted_origin.clone(), rng(caller))
        })
    }
}

type Thread = JoinHandle<Result<(), BoxError>>;

/// Starts all callers that are not on the main runtime.
pub(crate) fn start(parts: &Parts, callers_on_main: u64, rng: impl Fn(u64) -> Rng + Send + 'static) -> Vec<Thread> {
    let main = Handle::current();
    let mut threads = Vec::new();
    for number in 0..UNDRIVEN {
        let (parts, rng) = (parts.clone(), rng(number));
        threads.push(thread::spawn(move || on_undriven_runtime(&parts, rng)));
    }
    for number in 0..WITHOUT {
        let (parts, main, rng) = (parts.clone(), main.clone(), rng(UNDRIVEN + number));
        threads.push(thread::spawn(move || without_runtime(&parts, &main, rng)));
    }
    let (parts, count) = (parts.clone(), on_second(callers_on_main));
    threads.push(thread::spawn(move || on_second_runtime(&parts, count, |caller| rng(UNDRIVEN + WITHOUT + caller))));
    threads
}

fn on_second_runtime(parts: &Parts, count: u64, rng: impl Fn(u64) -> Rng) -> Result<(), BoxError> {
    let runtime = Builder::new_multi_thread().worker_threads(SECOND_RUNTIME).enable_all().build()?;
    let result = runtime.block_on(async {
        let mut tasks = JoinSet::new();
        parts.callers(count, rng).for_each(|caller| drop(tasks.spawn(caller.run())));
        while let Some(task) = tasks.join_next().await {
            task??;
        }
        Ok(())
    });
    parts.shared.invalidations.during(|| drop(runtime));
    result
}

/// Between two calls nobody drives the runtime: a fetch that a task drives there stands still, and so does its timer.
/// Many calls are dropped before they end, and leave such a fetch.
/// Sometimes the runtime is shut down, which ends its fetches.
fn on_undriven_runtime(parts: &Parts, mut rng: Rng) -> Result<(), BoxError> {
    let shared = &parts.shared;
    while !shared.is_over() {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let seed = rng.next();
        let mut caller = parts.callers(1, |_| Rng::new(seed, 0)).next().expect("one caller").impatient();
        for _ in 0..rng.within(1..=60) {
            if shared.is_over() {
                break;
            }
            shared.counts.calls_on_undriven.add();
            runtime.block_on(caller.call())?;
            // Long enough for a fetch that was left to be replaced, and for a request that relies on it to fail.
            let is_long = caller.has_dropped && rng.one_in(2);
            thread::sleep(rng.millis(if is_long { 500..=6_000 } else { 0..=100 }));
        }
        shared.counts.shutdowns.add();
        drop(caller);
        shared.invalidations.during(|| drop(runtime));
    }
    Ok(())
}

fn without_runtime(parts: &Parts, main: &Handle, rng: Rng) -> Result<(), BoxError> {
    let stacks = stacks_without_runtime(&parts.layer, &parts.shared, main);
    let mut caller = Caller::new(Arc::clone(&parts.shared), stacks, parts.untrusted_origin.clone(), rng);
    while !parts.shared.is_over() {
        parts.shared.counts.calls_without_runtime.add();
        futures::executor::block_on(caller.call())?;
    }
    Ok(())
}
