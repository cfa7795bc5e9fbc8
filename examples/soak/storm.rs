//! A storm from beginning to end: everything is set up, goes wrong, and is taken down again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tower_aiuta_auth::testing::FakeAiuta;
use tower_aiuta_auth::{AiutaAuthLayer, BoxError, JwtSigner};

use crate::args::Args;
use crate::bound::Bound;
use crate::caller::Caller;
use crate::client::stacks;
use crate::clock::WallClock;
use crate::counts::Counts;
use crate::findings::{Findings, Invariant};
use crate::foreign::Foreign;
use crate::forgets::Forgets;
use crate::gate::Gate;
use crate::ledger::Ledger;
use crate::meter::{Meter, Reading};
use crate::rng::Rng;
use crate::server::Port;
use crate::source::{LIFETIME, Mood, Source};
use crate::stand_in::StandIn;
use crate::weather::Weather;
use crate::world::World;

/// Small enough for floods to reach them.
const MAX_TOKENS: usize = 512;
const MAX_FLIGHTS: usize = 48;
/// Early, so that there are refreshes between one change of the weather and the next.
const REFRESH_AHEAD: f64 = 0.6;
/// How long a source may hang.
const FETCH_TIMEOUT: Duration = Duration::from_millis(300);
/// What is still on its way when the last handle is dropped, connections above all, is gone by then.
const AFTERMATH: Duration = Duration::from_secs(10);

/// What came of it.
pub(crate) struct Report {
    pub(crate) findings: Arc<Findings>,
    pub(crate) took: Duration,
    pub(crate) last: Reading,
    pub(crate) bound: Bound,
}

/// Numbers of the streams of chance; those of callers come after them.
const SOURCE: u64 = 1;
const GATE: u64 = 2;
const FOREIGN: u64 = 3;
const WEATHER: u64 = 4;
const CALLERS: u64 = 5;

pub(crate) async fn storm(args: &Args, lasting: Duration, meter: &mut Meter) -> Result<Report, BoxError> {
    let tasks_before = alive_tasks();
    let rng = |stream| Rng::new(args.seed, stream);
    let started = Instant::now();
    let clocks = [(); 2].map(|()| WallClock::new(started));
    let (findings, forgets, mood) = (Arc::<Findings>::default(), Arc::<Forgets>::default(), Arc::<Mood>::default());
    let ledger = Arc::new(Ledger::new(FETCH_TIMEOUT, Arc::clone(&forgets), Arc::clone(&findings)));

    let (gate, foreign) = (Port::bind().await?, Port::bind().await?);
    let foreign_origin = foreign.origin.clone();
    let world = Arc::new(World {
        counts: Counts::default(),
        findings: Arc::clone(&findings),
        forgets,
        stand_in: StandIn::new(clocks[1].clone()).await?,
        origin: gate.origin.clone(),
        over: false.into(),
        flood: 0.into(),
    });
    let hosts = (
        gate.serve(Gate::new(Arc::clone(&world), foreign_origin.clone(), rng(GATE))),
        foreign.serve(Foreign::new(Arc::clone(&world), rng(FOREIGN))),
    );

    let signer = JwtSigner::hs256(FakeAiuta::ISSUER, FakeAiuta::SECRET)?.lifetime(LIFETIME);
    let source = Source::new(signer.clone(), Arc::clone(&mood), rng(SOURCE), Arc::clone(&ledger));
    let layer = AiutaAuthLayer::builder()
        .jwt(FakeAiuta::SUBSCRIPTION_ID, source)
        .origins([world.origin.as_str()])
        .clock(clocks[0].clone())
        .max_tokens(MAX_TOKENS)
        .max_concurrent_fetches(MAX_FLIGHTS)
        .fetch_timeout(FETCH_TIMEOUT)
        .refresh_ahead(REFRESH_AHEAD)
        .build()?;
    let tokens = layer.token_cache().expect("the Jwt scheme").clone();

    let mut people = JoinSet::new();
    let stacks = stacks(&layer, &world);
    for caller in 0..args.callers {
        let rng = rng(CALLERS + caller);
        people.spawn(Caller::new(Arc::clone(&world), stacks.clone(), foreign_origin.clone(), rng).run());
    }
    let weather =
        Weather { world: Arc::clone(&world), tokens: tokens.clone(), signer, mood, clocks, rng: rng(WEATHER) };
    people.spawn(weather.run());
    drop((stacks, layer));

    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    seconds.tick().await;
    // What is broken will not be mended: the storm ends, and tells after how long.
    while started.elapsed() < lasting && findings.is_empty() {
        seconds.tick().await;
        let reading = Reading::take(&world, &tokens.stats(), &ledger);
        reading.check_bounds(&findings, MAX_TOKENS, MAX_FLIGHTS);
        meter.line(&reading);
    }
    let took = started.elapsed();
    world.over.store(true, std::sync::atomic::Ordering::Relaxed);
    while let Some(person) = people.join_next().await {
        person??;
    }
    let last = Reading::take(&world, &tokens.stats(), &ledger);
    let bound = Bound::of(&last, world.keys(), args.callers, started.elapsed());
    bound.check(&findings);

    // The last handle of the layer, and with it the source.
    drop(tokens);
    let gone = settles(|| ledger.open() == 0 && Arc::strong_count(&ledger) == 1).await;
    findings.check(Invariant::NothingIsLeft, gone, || {
        format!("{} calls of the source and {} handles of it", ledger.open(), Arc::strong_count(&ledger) - 1)
    });
    drop((hosts, world));
    let gone = settles(|| alive_tasks() <= tasks_before).await;
    findings.check(Invariant::NothingIsLeft, gone, || {
        format!("{} tasks, where there were {tasks_before} before", alive_tasks())
    });
    Ok(Report { findings, took, last, bound })
}

fn alive_tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// Waits until it is so.
async fn settles(is_so: impl Fn() -> bool) -> bool {
    let began = Instant::now();
    while !is_so() {
        if began.elapsed() > AFTERMATH {
            return false;
        }
        sleep(Duration::from_millis(10)).await;
    }
    true
}
