//! Runs a case: the layer with a source and an inner service that report to the model.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::Full;
use serde_json::json;
use tower::{Layer, Service};
use tower_aiuta_auth::testing::ManualClock;
use tower_aiuta_auth::{
    AiutaAuth, AiutaAuthLayer, AuthError, AuthErrorKind, AuthParams, BoxError, Clock, Jwt, NoReplay, TokenError,
    TokenRequest, TokenSource,
};

use super::model::{Model, RequestId};
use super::support::{self, Gate, SKU_IMAGES, secs};
use super::{Answer, Case, End, Failure, KEYS, Op, Plan, Status, Wait, params};

type Shared = Arc<Mutex<Model>>;
type Gates = Arc<Mutex<Vec<Gate>>>;
/// The plans of the source calls for each request and for its replay.
type Plans = Arc<Mutex<Vec<[Plan; 2]>>>;

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap()
}

fn millis(time: SystemTime) -> i64 {
    i64::try_from(time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// Waits at the end of the queue of held futures until it is released. Returns immediately when the test is ending.
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

struct Source {
    model: Shared,
    held: Gates,
    plans: Plans,
}

/// Compares by content, independent of how the crate compares params.
fn key_of(asked: &AuthParams) -> usize {
    let same =
        |params: AuthParams| params.to_strings() == asked.to_strings() && params.partition() == asked.partition();
    (0..KEYS).find(|key| same(params(*key))).expect("the source was called with unknown params")
}

/// Reports to the model a source call that is dropped before it ended.
struct Running(Shared, Option<usize>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(call) = self.1.take() {
            lock(&self.0).dropped(call);
        }
    }
}

impl TokenSource for Source {
    async fn token(&self, request: TokenRequest) -> Result<Jwt, TokenError> {
        let key = key_of(request.params());
        let (call, asking, replay) = lock(&self.model).called(key, request.force_refresh());
        let Plan { wait, end } = lock(&self.plans)[asking][usize::from(replay)].clone();
        let mut running = Running(Arc::clone(&self.model), Some(call));
        match wait {
            Wait::No => {}
            Wait::Turns(turns) => {
                for _ in 0..turns {
                    yield_now().await;
                }
            }
            Wait::Held => hold(&self.held, &self.model).await,
        }
        let made = {
            let mut model = lock(&self.model);
            let made = match &end {
                &End::Token(claims) => Some(model.make(call, Some(claims))),
                End::SameAgain => Some(model.make(call, None)),
                End::Failed { .. } | End::Panic => None,
            };
            running.1 = None;
            model.ended(call, &end, made.map(|(token, ..)| token));
            made
        };
        if let Some((token, exp, iat)) = made {
            let seconds = |millis: i64| millis / 1_000;
            let claims = json!({ "number": token, "exp": exp.map(seconds), "iat": iat.map(seconds) });
            return Ok(Jwt::parse(support::token(&claims))?);
        }
        let End::Failed { how, pause } = end else {
            // `panic!` would call the panic hook, which prints each panic.
            std::panic::resume_unwind(Box::new("the source panics"))
        };
        let error = match how {
            Failure::Permanent => TokenError::new("permanent"),
            Failure::Transient => TokenError::transient("transient"),
            Failure::Denied => TokenError::denied("denied"),
        };
        Err(match pause {
            Some(pause) => error.with_retry_after(secs(u64::from(pause))),
            None => error,
        })
    }
}

async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// An extension that holds the id and the responses of a request.
#[derive(Clone)]
struct Marked {
    id: RequestId,
    answers: [Answer; 2],
}

/// The inner service.
struct Wire {
    model: Shared,
    held: Gates,
    ready: bool,
}

impl Clone for Wire {
    fn clone(&self) -> Self {
        Self { model: Arc::clone(&self.model), held: Arc::clone(&self.held), ready: false }
    }
}

impl Service<Request<Full<Bytes>>> for Wire {
    type Response = Response<()>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<()>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        let Marked { id, answers } = request.extensions().get::<Marked>().unwrap().clone();
        let token = request.headers()["authorization"].to_str().unwrap().strip_prefix("Bearer ").unwrap();
        let attempt = {
            let mut model = lock(&self.model);
            if !std::mem::take(&mut self.ready) {
                model.wrong.push(format!("f1: request {id} went to a service that was not polled ready"));
            }
            model.sent(id, usize::try_from(support::token_number(token)).unwrap())
        };
        let answer = answers[attempt.min(1)];
        let (model, gates) = (Arc::clone(&self.model), Arc::clone(&self.held));
        Box::pin(async move {
            if answer.held {
                hold(&gates, &model).await;
            }
            lock(&model).answered(id, answer.status);
            Ok(Response::builder().status(u16::from(answer.status)).body(()).unwrap())
        })
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A request that has not ended.
struct Open {
    id: RequestId,
    future: Pin<Box<dyn Future<Output = Result<Response<()>, BoxError>>>>,
    woken: Arc<Woken>,
}

struct World {
    model: Shared,
    clock: ManualClock,
    on_runtime: bool,
    layer: AiutaAuthLayer,
    service: AiutaAuth<Wire>,
    plans: Plans,
    calls: Gates,
    answers: Gates,
    open: Vec<Open>,
}

/// Runs a case. Returns the violations and the counts of [`Model::tally`].
pub fn run(case: &Case) -> (Vec<String>, [u64; 7]) {
    if case.on_runtime {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(drive(case))
    } else {
        futures::executor::block_on(drive(case))
    }
}

async fn drive(case: &Case) -> (Vec<String>, [u64; 7]) {
    let mut world = World::new(case);
    for op in &case.ops {
        world.apply(op).await;
        world.settle().await;
        let model = lock(&world.model);
        if !model.wrong.is_empty() {
            return (model.wrong.clone(), model.tally());
        }
    }
    world.end().await
}

impl World {
    fn new(case: &Case) -> Self {
        let clock = ManualClock::default();
        let model = Model::new(millis(clock.now()), case.on_runtime, case.refreshes, case.max_concurrent_fetches);
        let model = Arc::new(Mutex::new(model));
        let (plans, calls, answers) = (Plans::default(), Gates::default(), Gates::default());
        let source = Source { model: Arc::clone(&model), held: Arc::clone(&calls), plans: Arc::clone(&plans) };
        let layer = support::jwt(source)
            .clock(clock.clone())
            .refresh_ahead(if case.refreshes { 0.25 } else { 0.0 })
            .max_concurrent_fetches(case.max_concurrent_fetches)
            .build()
            .unwrap();
        let wire = Wire { model: Arc::clone(&model), held: Arc::clone(&answers), ready: false };
        let service = layer.layer(wire);
        Self { model, clock, on_runtime: case.on_runtime, layer, service, plans, calls, answers, open: Vec::new() }
    }

    async fn apply(&mut self, op: &Op) {
        match *op {
            Op::Request { key, answers, ref calls, once } => {
                lock(&self.plans).push(calls.clone());
                self.request(key, answers, once);
            }
            Op::Answer(number) => release(&self.answers, number),
            Op::Release(number) => release(&self.calls, number),
            Op::Cancel(number) if number < self.open.len() => {
                let open = self.open.remove(number);
                lock(&self.model).cancelled(open.id);
                drop(open);
            }
            Op::Cancel(_) => {}
            Op::Invalidate(key) => {
                lock(&self.model).invalidated(key);
                self.layer.token_cache().unwrap().invalidate(&params(key));
            }
            Op::Clear => {
                (0..KEYS).for_each(|key| lock(&self.model).invalidated(key));
                self.layer.token_cache().unwrap().clear();
            }
            Op::Pass(seconds) => {
                let by = secs(seconds.unsigned_abs());
                self.clock.advance(by);
                {
                    let mut model = lock(&self.model);
                    model.now += seconds * 1_000;
                    model.passed += seconds * 1_000;
                }
                if self.on_runtime {
                    tokio::time::advance(by).await;
                }
            }
            Op::Jump(seconds) => {
                let by = Duration::from_secs(seconds.unsigned_abs());
                if seconds < 0 {
                    self.clock.step_back(by);
                } else {
                    self.clock.advance(by);
                }
                lock(&self.model).now += seconds * 1_000;
            }
        }
    }

    fn request(&mut self, key: usize, answers: [Answer; 2], once: bool) {
        let id = lock(&self.model).request(key, !once);
        let mut request = support::post(SKU_IMAGES, "{}");
        request.extensions_mut().insert(params(key));
        request.extensions_mut().insert(Marked { id, answers });
        if once {
            request.extensions_mut().insert(NoReplay);
        }
        let mut service = self.service.clone();
        let ready = Service::<Request<Full<Bytes>>>::poll_ready(&mut service, &mut Context::from_waker(Waker::noop()));
        assert!(ready.is_ready());
        let future = Box::pin(service.call(request));
        lock(&self.model).end_lookup();
        self.open.push(Open { id, future, woken: Arc::new(Woken(AtomicBool::new(true))) });
    }

    /// Polls woken requests until none is woken any more. It polls no others, so that a lost wake-up is found.
    async fn settle(&mut self) {
        let mut idle = 0;
        while idle < 3 {
            let moved = self.poll_woken();
            idle = if moved { 0 } else { idle + 1 };
            if self.on_runtime {
                for _ in 0..3 {
                    tokio::task::yield_now().await;
                }
            }
        }
        lock(&self.model).settled();
    }

    fn poll_woken(&mut self) -> bool {
        let mut moved = false;
        self.open.retain_mut(|open| {
            if !open.woken.0.swap(false, Ordering::SeqCst) {
                return true;
            }
            moved = true;
            let waker = Waker::from(Arc::clone(&open.woken));
            let polled = open.future.as_mut().poll(&mut Context::from_waker(&waker));
            let mut model = lock(&self.model);
            model.end_lookup();
            let Poll::Ready(result) = polled else { return true };
            model.over(open.id, result.map(|response| status(&response)).map_err(|error| error_kind(&error)));
            false
        });
        moved
    }

    /// Releases everything, and checks that all requests end and that nothing is left.
    async fn end(mut self) -> (Vec<String>, [u64; 7]) {
        lock(&self.model).hurry = true;
        let held = lock(&self.calls).len() + lock(&self.answers).len();
        for _ in 0..held {
            release(&self.calls, 0);
            release(&self.answers, 0);
            self.settle().await;
        }
        self.settle().await;
        let stats = self.layer.token_cache().unwrap().stats();
        let Self { model, layer, service, open, .. } = self;
        {
            let mut model = lock(&model);
            model.ending = true;
            let seen = (model.calls(), model.rejections(), model.replays());
            let reported = (stats.fetches, stats.rejected, stats.replays);
            if seen != reported {
                model
                    .wrong
                    .push(format!("stats report {reported:?} calls, rejections and replays; there were {seen:?}"));
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
        if model.live() > 0 {
            let left = format!("c4: {} calls are left", model.live());
            model.wrong.push(left);
        }
        (model.wrong.clone(), model.tally())
    }
}

fn status(response: &Response<()>) -> Status {
    match response.status().as_u16() {
        200 => Status::Fine,
        401 => Status::Unauthorized,
        503 => Status::Broken,
        other => panic!("{other}"),
    }
}

fn error_kind(error: &BoxError) -> AuthErrorKind {
    error.downcast_ref::<AuthError>().expect("the error is not an AuthError").kind()
}
