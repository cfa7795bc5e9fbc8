//! The layer between a source and an inner service that tell the model what they see, and the test that drives all
//! three step by step.

mod inner;
mod source;

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use tower::{Layer, Service};
use tower_aiuta_auth::testing::ManualClock;
use tower_aiuta_auth::{AiutaAuth, AiutaAuthLayer, AuthError, AuthErrorKind, BoxError, Clock, NoReplay, TokenCache};

use self::inner::{Inner, Marked, Wire};
use self::source::Source;
use super::case::{Case, Op, Plan, Request, Status, params};
use super::counts::{Counts, Situation};
use super::model::{Model, RequestId, Settings};
use super::support::{self, Gate, SKU_IMAGES};

type Shared = Arc<Mutex<Model>>;
type Gates = Arc<Mutex<Vec<Gate>>>;
type Plans = Arc<Mutex<Vec<[Plan; 3]>>>;

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap()
}

fn millis(time: SystemTime) -> i64 {
    i64::try_from(time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// Waits until the test opens this gate, which it adds behind the others. At the end of the test nothing is held.
async fn hold(gates: &Gates, model: &Shared) {
    if lock(model).hurry {
        return;
    }
    let gate = Gate::closed();
    lock(gates).push(gate.clone());
    gate.pass().await;
}

fn release(gates: &Gates, number: usize) {
    let mut gates = lock(gates);
    if number < gates.len() {
        gates.remove(number).open(1);
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A request that is not over.
struct Open {
    id: RequestId,
    future: Pin<Box<dyn Future<Output = Result<Response<()>, BoxError>>>>,
    woken: Arc<Woken>,
}

struct World {
    model: Shared,
    wire: Arc<Wire>,
    on_runtime: bool,
    layer: AiutaAuthLayer,
    service: AiutaAuth<Inner>,
    plans: Plans,
    calls: Gates,
    open: Vec<Open>,
}

/// Runs a case. Returns what was wrong, and how often what happened.
pub fn run(case: &Case) -> (Vec<String>, Counts) {
    if case.on_runtime {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(drive(case))
    } else {
        futures::executor::block_on(drive(case))
    }
}

async fn drive(case: &Case) -> (Vec<String>, Counts) {
    let mut world = World::new(case);
    for op in &case.ops {
        world.apply(op).await;
        world.settle().await;
        let mut model = lock(&world.model);
        if !model.wrong.is_empty() {
            return (std::mem::take(&mut model.wrong), std::mem::take(&mut model.counts));
        }
    }
    world.end().await
}

impl World {
    fn new(case: &Case) -> Self {
        let Case { on_runtime, refreshes, max_concurrent_fetches, reject_on_forbidden, .. } = *case;
        let clock = ManualClock::default();
        let settings = Settings { on_runtime, refreshes, max_concurrent_fetches, reject_on_forbidden };
        let model = Arc::new(Mutex::new(Model::new(millis(clock.now()), settings)));
        let (plans, calls) = (Plans::default(), Gates::default());
        let source = Source { model: Arc::clone(&model), held: Arc::clone(&calls), plans: Arc::clone(&plans) };
        let layer = support::jwt(source)
            .clock(clock.clone())
            .refresh_ahead(if refreshes { 0.25 } else { 0.0 })
            .max_concurrent_fetches(max_concurrent_fetches)
            .reject_on_forbidden(reject_on_forbidden)
            .build()
            .unwrap();
        let wire = Arc::new(Wire {
            model: Arc::clone(&model),
            held: Gates::default(),
            aiuta: ManualClock::new(clock.now()),
            clock,
            polled: Mutex::new(None),
            waiting: Mutex::default(),
            ready: AtomicUsize::new(0),
        });
        let service = layer.layer(Inner::new(Arc::clone(&wire)));
        Self { model, wire, on_runtime, layer, service, plans, calls, open: Vec::new() }
    }

    fn tokens(&self) -> &TokenCache {
        self.layer.token_cache().unwrap()
    }

    async fn apply(&mut self, op: &Op) {
        match *op {
            Op::Request(ref request) => self.request(request),
            Op::Respond(number) => release(&self.wire.held, number),
            Op::Release(number) => release(&self.calls, number),
            Op::Cancel(number) if number < self.open.len() => {
                let open = self.open.remove(number);
                lock(&self.model).cancelled(open.id);
                drop(open);
            }
            Op::Cancel(_) => {}
            Op::Invalidate(key) => {
                let expected = lock(&self.model).invalidated(key);
                if self.tokens().invalidate(&params(key)) != expected {
                    lock(&self.model).wrong.push(format!("`invalidate` did not return {expected}"));
                }
            }
            Op::Clear => {
                lock(&self.model).cleared();
                self.tokens().clear();
            }
            Op::Busy(busy) => self.busy(busy),
            Op::Pass(seconds) => {
                let by = Duration::from_secs(seconds.unsigned_abs());
                self.wire.clock.advance(by);
                self.wire.aiuta.advance(by);
                lock(&self.model).passed(seconds * 1_000);
                if self.on_runtime {
                    tokio::time::advance(by).await;
                }
            }
            Op::Step(seconds) => {
                let by = Duration::from_secs(seconds.unsigned_abs());
                if seconds < 0 {
                    self.wire.clock.step_back(by);
                } else {
                    self.wire.clock.advance(by);
                }
                lock(&self.model).stepped(seconds * 1_000);
            }
        }
    }

    fn busy(&self, busy: bool) {
        lock(&self.model).busy = busy;
        if !busy {
            std::mem::take(&mut *lock(&self.wire.waiting)).into_iter().for_each(Waker::wake);
        }
    }

    fn request(&mut self, request: &Request) {
        let &Request { key, answers, ref calls, no_replay } = request;
        lock(&self.plans).push(calls.clone());
        let mut request = support::post(SKU_IMAGES, "{}");
        request.extensions_mut().insert(params(key));
        if no_replay {
            request.extensions_mut().insert(NoReplay);
        }
        let mut service = self.service.clone();
        let poll = Service::<http::Request<Full<Bytes>>>::poll_ready;
        assert!(poll(&mut service, &mut Context::from_waker(Waker::noop())).is_ready());
        let id = lock(&self.model).request(key, !no_replay);
        request.extensions_mut().insert(Marked { id, answers });
        lock(&self.model).in_call = true;
        let future = Box::pin(service.call(request));
        lock(&self.model).in_call = false;
        let mut open = Open { id, future, woken: Arc::new(Woken(AtomicBool::new(true))) };
        // Without a runtime this is where it looks for a token.
        if self.poll(&mut open) {
            self.open.push(open);
        }
    }

    /// Polls a request if it was woken. Returns whether it goes on.
    fn poll(&self, open: &mut Open) -> bool {
        if !open.woken.0.swap(false, Ordering::SeqCst) {
            return true;
        }
        let waker = Waker::from(Arc::clone(&open.woken));
        *lock(&self.wire.polled) = Some(open.id);
        let polled = open.future.as_mut().poll(&mut Context::from_waker(&waker));
        *lock(&self.wire.polled) = None;
        let mut model = lock(&self.model);
        model.looked();
        let Poll::Ready(result) = polled else { return true };
        let status = |response: Response<()>| Status::from(response.status().as_u16());
        model.over(open.id, result.map(status).map_err(|error| kind(&error)));
        false
    }

    /// Polls every request that was woken, until nothing moves any more. No other is polled, so a lost wake-up is
    /// noticed.
    async fn settle(&mut self) {
        let mut idle = 0;
        while idle < 3 {
            let moves = self.open.iter().any(|open| open.woken.0.load(Ordering::SeqCst));
            let mut open = std::mem::take(&mut self.open);
            open.retain_mut(|open| self.poll(open));
            self.open = open;
            idle = if moves { 0 } else { idle + 1 };
            if self.on_runtime {
                for _ in 0..3 {
                    tokio::task::yield_now().await;
                }
            }
        }
        let (ready, stats) = (self.wire.ready.load(Ordering::SeqCst), self.tokens().stats());
        let mut model = lock(&self.model);
        model.settled();
        if ready > 0 {
            model.wrong.push(format!("c2: {ready} requests that wait keep a service that is ready"));
        }
        let (told, expected) = ((stats.entries, stats.clock_offset), model.cache());
        if told != expected {
            model.wrong.push(format!("entries and offset are {told:?}, instead of {expected:?}"));
        }
    }

    /// Lets everything go on that is held, until everything has ended and nothing is left.
    async fn end(mut self) -> (Vec<String>, Counts) {
        lock(&self.model).hurry = true;
        self.busy(false);
        let held = lock(&self.calls).len() + lock(&self.wire.held).len();
        for _ in 0..held {
            release(&self.calls, 0);
            release(&self.wire.held, 0);
            self.settle().await;
        }
        self.settle().await;
        let stats = self.tokens().stats();
        let Self { model, layer, service, open, .. } = self;
        {
            let mut model = lock(&model);
            model.ending = true;
            let count = |situation| model.counts.get(situation);
            let (expected, replays) = ((model.calls(), count(Situation::Rejected)), model.replays());
            let told = (stats.fetches, stats.rejected);
            if told != expected || !replays.contains(&stats.replays) {
                let told = (told, stats.replays);
                model
                    .wrong
                    .push(format!("calls, rejections, replays are {told:?}, instead of {expected:?}, {replays:?}"));
            }
            let waiting: Vec<_> = open.iter().map(|open| open.id).collect();
            if !waiting.is_empty() {
                model.wrong.push(format!("c4: these requests never end: {waiting:?}"));
            }
        }
        drop((layer, service, open));
        if self.on_runtime {
            support::settle().await;
            let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
            if tasks > 0 {
                lock(&model).wrong.push(format!("c4: {tasks} tasks are left"));
            }
        }
        let mut model = lock(&model);
        let running = model.running_fetches();
        if running > 0 {
            model.wrong.push(format!("c4: {running} fetches are left"));
        }
        (std::mem::take(&mut model.wrong), std::mem::take(&mut model.counts))
    }
}

fn kind(error: &BoxError) -> AuthErrorKind {
    error.downcast_ref::<AuthError>().expect("an error of the layer").kind()
}
