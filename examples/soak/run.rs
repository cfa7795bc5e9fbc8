//! One run from beginning to end: sets everything up, lets it go wrong, and takes it down.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tower_aiuta_auth::testing::FakeAiuta;
use tower_aiuta_auth::{AiutaAuthLayer, BoxError, JwtSigner};

use crate::args::Args;
use crate::call_budget::CallBudget;
use crate::chaos::Chaos;
use crate::clock::WallClock;
use crate::counts::{Count, Counts};
use crate::gate::Gate;
use crate::invalidations::Invalidations;
use crate::invariants::{Invariant, Violations};
use crate::issued::Issued;
use crate::progress::{Progress, Snapshot};
use crate::rejected_keys::RejectedKeys;
use crate::rng::Rng;
use crate::runtimes::{self, Parts};
use crate::server::Port;
use crate::shared::{FETCH_TIMEOUT, Shared};
use crate::source::{LIFETIME, Source, SourceCache, SourceCounts, SourceMode};
use crate::source_calls::SourceCalls;
use crate::timers::Timers;
use crate::untrusted_host::UntrustedHost;
use crate::upstream::Upstream;

/// Small enough for floods to reach both limits.
const MAX_TOKENS: usize = 512;
const MAX_CONCURRENT_FETCHES: usize = 48;
/// High, so that tokens are refreshed between two actions of [`Chaos`].
const REFRESH_AHEAD: f64 = 0.6;
/// Maximum wait after a run for tasks to end. Connections take the longest.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// The result of a run.
pub(crate) struct Report {
    pub(crate) violations: Arc<Violations>,
    pub(crate) took: Duration,
    pub(crate) last: Snapshot,
    pub(crate) budget: CallBudget,
}

/// Numbers of the random streams. Callers use the numbers from `CALLERS` on.
const SOURCE: u64 = 1;
const GATE: u64 = 2;
const UNTRUSTED_HOST: u64 = 3;
const CHAOS: u64 = 4;
const CALLERS: u64 = 5;

pub(crate) async fn run(args: &Args, duration: Duration, progress: &mut Progress) -> Result<Report, BoxError> {
    let tasks_before = alive_tasks();
    let rng = |stream| Rng::new(args.seed, stream);
    let started = Instant::now();
    let clocks = [(); 2].map(|()| WallClock::new(started));
    let (violations, invalidations, mode) =
        (Arc::<Violations>::default(), Arc::<Invalidations>::default(), Arc::<SourceMode>::default());
    let issued = Arc::<Issued>::default();
    let source_calls = Arc::new(SourceCalls::new(
        FETCH_TIMEOUT,
        Arc::clone(&issued),
        Arc::clone(&invalidations),
        Arc::clone(&violations),
    ));
    let rejected_keys = Arc::new(RejectedKeys::new(Arc::clone(&violations)));
    let timers = Timers(Handle::current());

    let (gate, untrusted) = (Port::bind().await?, Port::bind().await?);
    let untrusted_origin = untrusted.origin.clone();
    let shared = Arc::new(Shared {
        counts: Counts::default(),
        violations: Arc::clone(&violations),
        invalidations,
        upstream: Upstream::new(clocks[1].clone()).await?,
        issued: Arc::clone(&issued),
        rejected_keys: Arc::clone(&rejected_keys),
        clock: clocks[0].clone(),
        timers: timers.clone(),
        origin: gate.origin.clone(),
        over: false.into(),
        false_dates: true.into(),
        flood: 0.into(),
    });
    let hosts = (
        gate.serve(Gate::new(Arc::clone(&shared), untrusted_origin.clone(), rng(GATE))),
        untrusted.serve(UntrustedHost::new(Arc::clone(&shared), rng(UNTRUSTED_HOST))),
    );

    let signer = JwtSigner::hs256(FakeAiuta::ISSUER, FakeAiuta::SECRET)?.lifetime(LIFETIME);
    let source_counts = Arc::<SourceCounts>::default();
    let source = Source {
        signer: signer.clone(),
        mode: Arc::clone(&mode),
        rng: Mutex::new(rng(SOURCE)),
        nonce: Count::default(),
        cache: SourceCache::default(),
        counts: Arc::clone(&source_counts),
        source_calls: Arc::clone(&source_calls),
        issued,
        rejected_keys,
        violations: Arc::clone(&violations),
        clock: clocks[0].clone(),
        timers,
    };
    let layer = AiutaAuthLayer::builder()
        .jwt(FakeAiuta::SUBSCRIPTION_ID, source)
        .origins([shared.origin.as_str()])
        .clock(clocks[0].clone())
        .max_tokens(MAX_TOKENS)
        .max_concurrent_fetches(MAX_CONCURRENT_FETCHES)
        .fetch_timeout(FETCH_TIMEOUT)
        .refresh_ahead(REFRESH_AHEAD)
        .build()?;
    let tokens = layer.token_cache().expect("the layer uses JWTs").clone();

    let mut tasks = JoinSet::new();
    let parts = Parts { shared: Arc::clone(&shared), layer, untrusted_origin };
    parts.callers(args.callers, |caller| rng(CALLERS + caller)).for_each(|caller| drop(tasks.spawn(caller.run())));
    let (seed, first) = (args.seed, CALLERS + args.callers);
    let threads = runtimes::start(&parts, args.callers, move |caller| Rng::new(seed, first + caller));
    let chaos =
        Chaos { shared: Arc::clone(&shared), tokens: tokens.clone(), signer, mode, clocks, rng: rng(CHAOS), offset: 0 };
    tasks.spawn(chaos.run());
    drop(parts);

    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    seconds.tick().await;
    // A run ends at the first violation, and reports when it occurred.
    while started.elapsed() < duration && violations.is_empty() {
        seconds.tick().await;
        let snapshot = Snapshot::take(&shared, &tokens.stats(), &source_calls, &source_counts);
        snapshot.check_limits(&violations, MAX_TOKENS, MAX_CONCURRENT_FETCHES);
        progress.line(&snapshot);
    }
    let took = started.elapsed();
    shared.over.store(true, std::sync::atomic::Ordering::Relaxed);
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    tokio::task::spawn_blocking(|| threads.into_iter().try_for_each(|thread| thread.join().expect("no panic")))
        .await??;
    let last = Snapshot::take(&shared, &tokens.stats(), &source_calls, &source_counts);
    let callers = args.callers + runtimes::callers(args.callers);
    let budget = CallBudget::of(&last, shared.keys(), callers, started.elapsed());
    budget.check(&violations);

    // Drops the last handle of the layer, and with it the token source.
    drop(tokens);
    let ended = becomes_true(|| source_calls.open() == 0 && Arc::strong_count(&source_calls) == 1).await;
    violations.check(Invariant::NothingLeaked, ended, || {
        format!(
            "{} open calls of the token source, {} handles of it",
            source_calls.open(),
            Arc::strong_count(&source_calls) - 1
        )
    });
    drop((hosts, shared));
    let ended = becomes_true(|| alive_tasks() <= tasks_before).await;
    violations.check(Invariant::NothingLeaked, ended, || {
        format!("{tasks_before} tasks before the run, {} after it", alive_tasks())
    });
    Ok(Report { violations, took, last, budget })
}

fn alive_tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// Waits until `condition` holds. Returns whether it does within [`SHUTDOWN_TIMEOUT`].
async fn becomes_true(condition: impl Fn() -> bool) -> bool {
    let began = Instant::now();
    while !condition() {
        if began.elapsed() > SHUTDOWN_TIMEOUT {
            return false;
        }
        sleep(Duration::from_millis(10)).await;
    }
    true
}
