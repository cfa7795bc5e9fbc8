//! A cache with its source and its callers, and the assertions that hold in every schedule.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::task::Poll;
use std::time::Duration;

use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::thread::{self, JoinHandle};

use super::runtime::{Gate, Impatient, ModelClock, Runtime, advance, block_on, is_entered};
use crate::cache::fetch::FetchCounter;
use crate::cache::state::CacheState;
use crate::cache::{CacheConfig, ExpiryPolicy, ResolvedToken, TokenCache, TokenOrigin};
use crate::error::{AuthErrorKind, TokenError};
use crate::jwt::Jwt;
use crate::params::AuthParams;
use crate::source::{BoxTokenSource, FetchReason, TokenRequest, TokenSource};

/// Where callers are polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    NoRuntime,
    /// On a runtime that polls its tasks.
    Driven,
    /// On a runtime that polls no task. Nobody would poll a caller that waits there, so callers must give up.
    Standing,
}

pub(super) use Place::{Driven, NoRuntime, Standing};

/// The places where a caller can wait.
pub(super) const WAITING_PLACES: [Place; 2] = [NoRuntime, Driven];

impl Place {
    fn runtime(self) -> Option<Arc<Runtime>> {
        (self != NoRuntime).then(|| Runtime::new(self == Driven))
    }
}

pub(super) const FETCH_TIMEOUT: u64 = 10;
/// Later than the deadline of every fetch that has started, and by enough that its own timer should have ended it.
pub(super) const LONG_PAST_DEADLINE: u64 = FETCH_TIMEOUT + 1;
/// How long a token is used at most, the margin not taken off.
pub(super) const LIFETIME: u64 = 60;
/// Age in seconds at which a token is due for refresh, whatever its key.
pub(super) const DUE: u64 = 50;

pub(super) type Key = usize;
/// The number of the call of the source that made a token.
pub(super) type Number = usize;

/// How long a call of the source is pending.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wait {
    No,
    /// Wakes itself this number of times.
    Turns(usize),
    /// Until [`World::open`].
    Gate,
    Forever,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Token,
    /// A token that has expired when it arrives.
    Expired,
    /// The token that is to be replaced, or a new one if there is none.
    Replaced,
    Fail,
    Panic,
}

pub(super) struct Settings {
    pub(super) place: Place,
    pub(super) max_tokens: usize,
    pub(super) max_concurrent_fetches: usize,
}

impl Settings {
    pub(super) fn on(place: Place) -> Self {
        Self { place, max_tokens: 100, max_concurrent_fetches: 100 }
    }
}

/// What the source and the test record. Its lock is std's, so that it does not affect schedules.
#[derive(Default)]
struct Book {
    /// A logical clock that advances with each recorded event.
    now: u64,
    calls: Vec<Call>,
    /// Calls that are neither complete nor dropped.
    live: HashMap<Key, usize>,
    most_live: usize,
    /// The cache must not return a token of a fetch that began earlier than this.
    floors: HashMap<Key, u64>,
    rejected: Vec<Number>,
    /// What the source has seen and must not see. It can't panic: the cache would catch that.
    complaints: Vec<String>,
}

/// A call of the source.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) key: Key,
    /// When the fetch began, which is earlier than this call if it is its second.
    began: u64,
    pub(super) reason: FetchReason,
    pub(super) forced: bool,
    pub(super) replaces: Option<Number>,
    pub(super) deadline: Option<std::time::Instant>,
}

impl Book {
    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    fn call(&mut self, request: &TokenRequest) -> Number {
        let now = self.tick();
        let replaces = request.replaces().map(number);
        let (reason, forced) = (request.reason(), request.force_refresh());
        // A call at a miss replaces nothing, unless it is the second one of its fetch.
        let first = replaces.filter(|_| reason == FetchReason::Miss).map(|first| self.calls[first].began);
        if reason == FetchReason::Rejected && (!forced || replaces.is_none()) {
            self.complaints.push(format!("d5: {request:?} is not forced, or replaces nothing"));
        }
        let call = Call {
            key: key(request.params()),
            began: first.unwrap_or(now),
            reason,
            forced,
            replaces,
            deadline: request.deadline(),
        };
        self.calls.push(call);
        self.calls.len() - 1
    }
}

struct Source<P> {
    book: Arc<Mutex<Book>>,
    gate: Arc<Gate>,
    plan: P,
}

/// A call that is neither complete nor dropped.
struct Live(Arc<Mutex<Book>>, Key);

impl Live {
    fn new(book: &Arc<Mutex<Book>>, key: Key) -> Self {
        let mut inner = book.lock().unwrap();
        let live = inner.live.entry(key).or_default();
        *live += 1;
        let live = *live;
        inner.most_live = inner.most_live.max(live);
        drop(inner);
        Self(Arc::clone(book), key)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        *self.0.lock().unwrap().live.get_mut(&self.1).unwrap() -= 1;
    }
}

impl<P: Fn(Number) -> (Wait, End) + Send + Sync + 'static> TokenSource for Source<P> {
    async fn token(&self, request: TokenRequest) -> Result<Jwt, TokenError> {
        let number = self.book.lock().unwrap().call(&request);
        let _live = Live::new(&self.book, key(request.params()));
        let (wait, end) = (self.plan)(number);
        let needs_runtime = request.deadline().is_some();
        let waiting = async {
            match wait {
                Wait::No => {}
                Wait::Turns(turns) => assert!(Impatient::new(std::future::pending::<()>(), turns).await.is_none()),
                Wait::Gate => self.gate.pass().await,
                Wait::Forever => keep_waker().await,
            }
        };
        let mut waiting = std::pin::pin!(waiting);
        std::future::poll_fn(|cx| {
            if needs_runtime && !is_entered() {
                self.book.lock().unwrap().complaints.push(format!("c4: call {number} is polled without a runtime"));
            }
            waiting.as_mut().poll(cx)
        })
        .await;
        match end {
            End::Token => Ok(token(number)),
            End::Expired => Ok(token(number).with_age(Duration::from_secs(LIFETIME))),
            End::Replaced => Ok(request.replaces().cloned().unwrap_or_else(|| token(number))),
            End::Fail => Err(TokenError::new("failed")),
            // `panic!` would run the panic hook, which reports a failure.
            End::Panic => std::panic::resume_unwind(Box::new("a source's panic")),
        }
    }
}

/// Never ready, and keeps its own waker, as a future with a channel does. If it is not dropped, the fetch leaks.
async fn keep_waker() {
    let mut kept = None;
    std::future::poll_fn(|cx| {
        drop(kept.replace(cx.waker().clone()));
        Poll::<()>::Pending
    })
    .await;
}

fn params(key: Key) -> AuthParams {
    AuthParams::new().with("key", i64::try_from(key).unwrap())
}

fn key(params: &AuthParams) -> Key {
    params.to_strings()["key"].parse().unwrap()
}

/// A token without claims, with its number as the signature.
fn token(number: Number) -> Jwt {
    Jwt::parse(format!("eyJhbGciOiJIUzI1NiJ9.e30.{number:04}")).unwrap()
}

fn number(jwt: &Jwt) -> Number {
    jwt.expose().rsplit('.').next().unwrap().parse().unwrap()
}

pub(super) type Got = Result<Number, AuthErrorKind>;

/// A request that was sent with a token.
pub(super) struct Sent {
    key: Key,
    token: ResolvedToken,
}

impl Sent {
    pub(super) fn number(&self) -> Number {
        number(self.token.jwt())
    }

    pub(super) fn has_stopgap(&self) -> bool {
        self.token.origin == TokenOrigin::Stopgap
    }

    pub(super) fn is_cached(&self) -> bool {
        self.token.origin == TokenOrigin::Cache
    }
}

#[derive(Clone)]
pub(super) struct World {
    pub(super) tokens: TokenCache,
    /// The one that callers are on.
    runtime: Option<Arc<Runtime>>,
    /// All of them.
    runtimes: Arc<Mutex<Vec<Arc<Runtime>>>>,
    gate: Arc<Gate>,
    book: Arc<Mutex<Book>>,
}

impl World {
    pub(super) fn new(settings: Settings, plan: impl Fn(Number) -> (Wait, End) + Send + Sync + 'static) -> Self {
        let (book, gate) = (Arc::<Mutex<Book>>::default(), Arc::<Gate>::default());
        let tokens = TokenCache::new(CacheConfig {
            source: BoxTokenSource::new(Source { book: Arc::clone(&book), gate: Arc::clone(&gate), plan }),
            clock: Arc::new(ModelClock),
            expiry: ExpiryPolicy { refresh_ahead: 0.25, fallback_lifetime: Duration::from_secs(LIFETIME) },
            fetch_timeout: Duration::from_secs(FETCH_TIMEOUT),
            max_tokens: settings.max_tokens,
            max_concurrent_fetches: settings.max_concurrent_fetches,
        });
        let world = Self { tokens, runtime: None, runtimes: Arc::default(), gate, book }.at(settings.place);
        world.enter();
        world
    }

    /// The same world for callers at another place: on another runtime, or on none.
    pub(super) fn at(&self, place: Place) -> Self {
        let runtime = place.runtime();
        self.runtimes.lock().unwrap().extend(runtime.clone());
        Self { runtime, ..self.clone() }
    }

    /// Enters the place for the rest of this thread.
    pub(super) fn enter(&self) {
        Runtime::enter(self.runtime.clone());
    }

    pub(super) fn spawn<T: Send + 'static>(&self, f: impl FnOnce(&Self) -> T + Send + 'static) -> JoinHandle<T> {
        let world = self.clone();
        thread::spawn(move || {
            world.enter();
            f(&world)
        })
    }

    pub(super) fn callers(&self, number: usize, key: Key) -> Vec<JoinHandle<Got>> {
        (0..number).map(|_| self.spawn(move |world| world.get(key))).collect()
    }

    /// Callers that have joined or started the fetch already.
    pub(super) fn joined_callers(&self, callers: usize, key: Key) -> Vec<JoinHandle<Got>> {
        let lookups = (0..callers).map(|_| self.tokens.get_or_fetch(&params(key)));
        lookups
            .map(|lookup| {
                self.spawn(move |_| match block_on(lookup) {
                    Ok(token) => Ok(number(token.jwt())),
                    Err(error) => Err(error.kind()),
                })
            })
            .collect()
    }

    pub(super) fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gate)
    }

    /// Opens the gate for current and later calls.
    pub(super) fn open(&self) {
        self.gate.open();
    }

    pub(super) fn get(&self, key: Key) -> Got {
        self.request(key).map(|sent| sent.number())
    }

    pub(super) fn try_get(&self, key: Key, polls: usize) -> Option<Got> {
        Some(self.try_request(key, polls)?.map(|sent| sent.number()))
    }

    pub(super) fn request(&self, key: Key) -> Result<Sent, AuthErrorKind> {
        self.try_request(key, usize::MAX).expect("the future is polled until it is ready")
    }

    /// Polls the cache at most `polls` times. Asserts that the returned token was made for this key, and after all
    /// invalidations that had completed when this call began (rules B5, E1).
    pub(super) fn try_request(&self, key: Key, polls: usize) -> Option<Result<Sent, AuthErrorKind>> {
        let (floor, rejected) = {
            let book = self.book.lock().unwrap();
            (book.floors.get(&key).copied().unwrap_or(0), book.rejected.clone())
        };
        let got = self.tokens.get_or_fetch(&params(key));
        let got = if polls == usize::MAX { Some(block_on(got)) } else { block_on(Impatient::new(got, polls)) };
        let token = match got? {
            Ok(token) => token,
            Err(error) => return Some(Err(error.kind())),
        };
        let sent = Sent { key, token };
        let number = sent.number();
        let (call, calls) = {
            let book = self.book.lock().unwrap();
            (book.calls[number].clone(), book.calls.len())
        };
        assert_eq!(call.key, key, "b5: a token for other params");
        if sent.is_cached() {
            assert!(call.began > floor, "e1: token {number} of {calls} is cached, but is from before an invalidation");
            assert!(!rejected.contains(&number), "e1: token {number} of {calls} is cached, but was rejected");
        }
        Some(Ok(sent))
    }

    /// Invalidates the token of a key, or of all keys.
    pub(super) fn forget(&self, key: Option<Key>) {
        let now = self.book.lock().unwrap().tick();
        match key {
            Some(key) => drop(self.tokens.invalidate(&params(key))),
            None => self.tokens.clear(),
        }
        let mut book = self.book.lock().unwrap();
        for key in key.map_or(0..16, |key| key..key + 1) {
            let floor = book.floors.entry(key).or_default();
            *floor = now.max(*floor);
        }
    }

    /// Reports a 401 to a request.
    pub(super) fn reject(&self, sent: &Sent) {
        let _ = self.tokens.on_rejected(&params(sent.key), &sent.token, None);
        self.book.lock().unwrap().rejected.push(sent.number());
    }

    /// Reports a response to a request that shows that its token was accepted.
    pub(super) fn accept(&self, sent: &Sent) {
        if self.tokens.is_watching(&sent.token) {
            self.tokens.on_accepted(&params(sent.key), &sent.token, false);
        }
    }

    pub(super) fn calls(&self) -> usize {
        self.book.lock().unwrap().calls.len()
    }

    pub(super) fn call(&self, number: Number) -> Call {
        self.book.lock().unwrap().calls[number].clone()
    }

    /// Waits until the source has been called this number of times.
    pub(super) fn await_calls(&self, number: usize) {
        while self.calls() < number {
            thread::yield_now();
        }
    }

    /// Lets time pass until all callers have ended.
    pub(super) fn pass_time<T: Send + 'static>(&self, callers: Vec<JoinHandle<T>>) -> Vec<T> {
        let left = Arc::new(AtomicUsize::new(callers.len()));
        let ended: Vec<_> = callers
            .into_iter()
            .map(|caller| {
                let left = Arc::clone(&left);
                thread::spawn(move || {
                    let got = caller.join().unwrap();
                    left.fetch_sub(1, Ordering::SeqCst);
                    got
                })
            })
            .collect();
        while left.load(Ordering::SeqCst) > 0 {
            advance(FETCH_TIMEOUT / 2);
            thread::yield_now();
        }
        join(ended)
    }

    /// Returns the maximum number of concurrent calls of the source for one key.
    pub(super) fn most_live(&self) -> usize {
        self.book.lock().unwrap().most_live
    }

    pub(super) fn fetches_in_flight(&self) -> usize {
        self.tokens.state.counter.running()
    }

    pub(super) fn runtime(&self) -> &Arc<Runtime> {
        self.runtime.as_ref().expect("a runtime")
    }

    /// Waits for the tasks of driven runtimes.
    pub(super) fn settle(&self) {
        let runtimes = self.runtimes.lock().unwrap().clone();
        runtimes.iter().for_each(|runtime| runtime.join());
    }

    pub(super) fn end(self) {
        self.end_with(|| {});
    }

    /// Drops the last handle, completes `last_step`, and asserts that no fetch, task or call is left (rule C4). A
    /// source that keeps a waker also keeps its fetch in memory, so `last_step` must end first.
    pub(super) fn end_with(self, last_step: impl FnOnce()) {
        let Self { tokens, runtimes, runtime, book, .. } = self;
        drop(runtime);
        let (counter, state): (Arc<FetchCounter>, Weak<CacheState>) =
            (Arc::clone(&tokens.state.counter), Arc::downgrade(&tokens.state));
        drop(tokens);
        last_step();
        let runtimes = std::mem::take(&mut *runtimes.lock().unwrap());
        for runtime in runtimes {
            // No time passes, so no task ends by its timer.
            runtime.join();
            // Tasks that nobody drives cannot end by themselves.
            runtime.shut_down();
        }
        assert_eq!(state.strong_count(), 0, "the cache outlives its handles");
        assert_eq!(counter.running(), 0, "fetches are still running");
        assert_eq!(Arc::strong_count(&counter), 1, "fetches are still in memory");
        let book = book.lock().unwrap();
        assert_eq!(book.live.values().sum::<usize>(), 0, "calls that were neither finished nor dropped");
        assert!(book.complaints.is_empty(), "{:?}", book.complaints);
    }
}

pub(super) fn join<T>(threads: Vec<JoinHandle<T>>) -> Vec<T> {
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}
