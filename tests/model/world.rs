//! A cache with its source and its callers, and the assertions that hold in every schedule.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::task::Poll;
use std::time::Duration;

use shuttle::future::block_on;
use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::thread::{self, JoinHandle};

use super::runtime::{Abilities, Gate, Impatient, Runtime, Time};
use crate::cache::fetch::FetchCounter;
use crate::cache::state::CacheState;
use crate::cache::{CacheConfig, ExpiryPolicy, ResolvedToken, TokenCache};
use crate::error::{AuthErrorKind, TokenError};
use crate::jwt::Jwt;
use crate::params::AuthParams;
use crate::source::{BoxTokenSource, TokenRequest, TokenSource};

/// The runtimes that callers are on; `NOWHERE` is none.
pub(super) const NOWHERE: Option<Abilities> = None;
pub(super) const TOKIO: Option<Abilities> = Some(Abilities { timers: true, driven: true });
pub(super) const TIMERLESS: Option<Abilities> = Some(Abilities { timers: false, driven: true });
/// Runtimes that nobody drives, so that their tasks are never polled.
pub(super) const STANDING: Option<Abilities> = Some(Abilities { timers: true, driven: false });
pub(super) const STANDING_TIMERLESS: Option<Abilities> = Some(Abilities { timers: false, driven: false });

pub(super) const FETCH_TIMEOUT: u64 = 10;
pub(super) const LIFETIME: u64 = 60;
/// Age in seconds at which a token is due for refresh.
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
    Fail,
    Panic,
}

pub(super) struct Settings {
    pub(super) home: Option<Abilities>,
    pub(super) max_tokens: usize,
    pub(super) max_concurrent_fetches: usize,
}

impl Settings {
    pub(super) fn on(home: Option<Abilities>) -> Self {
        Self { home, max_tokens: 100, max_concurrent_fetches: 100 }
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
    /// The cache must not return a token of a call that began earlier than this.
    floors: HashMap<Key, u64>,
    rejected: Vec<Number>,
}

struct Call {
    key: Key,
    began: u64,
}

impl Book {
    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }
}

struct Source<P> {
    book: Arc<Mutex<Book>>,
    gate: Arc<Gate>,
    plan: P,
}

struct Live(Arc<Mutex<Book>>, Key);

impl Drop for Live {
    fn drop(&mut self) {
        *self.0.lock().unwrap().live.get_mut(&self.1).unwrap() -= 1;
    }
}

impl<P: Fn(Number) -> (Wait, End) + Send + Sync + 'static> TokenSource for Source<P> {
    async fn token(&self, request: TokenRequest) -> Result<Jwt, TokenError> {
        let key = key(request.params());
        let (number, _live) = {
            let mut book = self.book.lock().unwrap();
            let began = book.tick();
            book.calls.push(Call { key, began });
            let live = book.live.entry(key).or_default();
            *live += 1;
            let live = *live;
            book.most_live = book.most_live.max(live);
            (book.calls.len() - 1, Live(Arc::clone(&self.book), key))
        };
        let (wait, end) = (self.plan)(number);
        match wait {
            Wait::No => {}
            Wait::Turns(turns) => assert!(Impatient::new(std::future::pending::<()>(), turns).await.is_none()),
            Wait::Gate => self.gate.pass().await,
            Wait::Forever => keep_waker().await,
        }
        match end {
            End::Token => Ok(token(number)),
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

/// A token as it was resolved for a request, which is rejected now.
fn rejected(number: Number) -> ResolvedToken {
    let policy = ExpiryPolicy { refresh_ahead: 0.25, fallback_lifetime: Duration::from_secs(LIFETIME) };
    ResolvedToken::for_model(token(number), &policy)
}

pub(super) type Got = Result<Number, AuthErrorKind>;

#[derive(Clone)]
pub(super) struct World {
    pub(super) tokens: TokenCache,
    pub(super) time: Time,
    runtime: Option<Arc<Runtime>>,
    gate: Arc<Gate>,
    book: Arc<Mutex<Book>>,
}

impl World {
    pub(super) fn new(settings: Settings, plan: impl Fn(Number) -> (Wait, End) + Send + Sync + 'static) -> Self {
        let (book, gate) = (Arc::<Mutex<Book>>::default(), Arc::<Gate>::default());
        let time = Time::new();
        let tokens = TokenCache::new(CacheConfig {
            source: BoxTokenSource::new(Source { book: Arc::clone(&book), gate: Arc::clone(&gate), plan }),
            clock: Arc::new(time.clone()),
            expiry: ExpiryPolicy { refresh_ahead: 0.25, fallback_lifetime: Duration::from_secs(LIFETIME) },
            fetch_timeout: Duration::from_secs(FETCH_TIMEOUT),
            max_tokens: settings.max_tokens,
            max_concurrent_fetches: settings.max_concurrent_fetches,
        });
        let runtime = settings.home.map(|abilities| Runtime::new(time.clone(), abilities));
        let world = Self { tokens, time, runtime, gate, book };
        world.enter();
        world
    }

    fn enter(&self) {
        if let Some(runtime) = &self.runtime {
            runtime.enter();
        }
    }

    /// The same world, for threads that are on no runtime.
    pub(super) fn elsewhere(&self) -> Self {
        Self { runtime: None, ..self.clone() }
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

    pub(super) fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gate)
    }

    /// Opens the gate for current and later calls.
    pub(super) fn open(&self) {
        self.gate.open();
    }

    pub(super) fn get(&self, key: Key) -> Got {
        self.try_get(key, usize::MAX).expect("the future is polled until it is ready")
    }

    /// Polls the cache at most `polls` times. Asserts that the returned token was made for this key, and after all
    /// invalidations that had completed when this call began (rules B5, E1).
    pub(super) fn try_get(&self, key: Key, polls: usize) -> Option<Got> {
        let (floor, rejected) = {
            let book = self.book.lock().unwrap();
            (book.floors.get(&key).copied().unwrap_or(0), book.rejected.clone())
        };
        let params = params(key);
        let got = self.tokens.get(&params);
        let got = if polls == usize::MAX { Some(block_on(got)) } else { block_on(Impatient::new(got, polls)) };
        Some(match got? {
            Ok(jwt) => {
                let number = number(&jwt);
                let book = self.book.lock().unwrap();
                let call = &book.calls[number];
                assert_eq!(call.key, key, "a token for other params");
                assert!(call.began > floor, "e1: token {number} is from before an invalidation");
                assert!(!rejected.contains(&number), "e1: token {number} was rejected, but is still cached");
                Ok(number)
            }
            Err(error) => Err(error.kind()),
        })
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

    /// Reports a 401 to a request with this token.
    pub(super) fn reject(&self, key: Key, number: Number) {
        self.tokens.reject(&params(key), &rejected(number));
        self.book.lock().unwrap().rejected.push(number);
    }

    pub(super) fn calls(&self) -> usize {
        self.book.lock().unwrap().calls.len()
    }

    /// Lets time pass until all callers have ended.
    pub(super) fn pass_time(&self, callers: Vec<JoinHandle<Got>>) -> Vec<Got> {
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
            self.time.advance(FETCH_TIMEOUT / 2);
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

    pub(super) fn shut_down(&self) {
        self.runtime.as_ref().expect("a runtime").shut_down();
    }

    /// Waits for the runtime's tasks. Fetches on a driven runtime have ended then.
    pub(super) fn settle(&self) {
        if let Some(runtime) = &self.runtime {
            runtime.join();
        }
    }

    pub(super) fn end(self) {
        self.end_with(|| {});
    }

    /// Drops the last handle, completes `last_step`, and asserts that no fetch, task or call is left (rule C4). A
    /// source that keeps a waker also keeps its fetch in memory, so `last_step` must end first.
    pub(super) fn end_with(self, last_step: impl FnOnce()) {
        let Self { tokens, runtime, book, .. } = self;
        let (counter, state): (Arc<FetchCounter>, Weak<CacheState>) =
            (Arc::clone(&tokens.state.counter), Arc::downgrade(&tokens.state));
        drop(tokens);
        last_step();
        if let Some(runtime) = runtime {
            runtime.join();
            // Tasks that nobody drives cannot end by themselves.
            runtime.shut_down();
        }
        assert_eq!(state.strong_count(), 0, "the cache outlives its handles");
        assert_eq!(counter.running(), 0, "fetches are still running");
        assert_eq!(Arc::strong_count(&counter), 1, "fetches are still in memory");
        assert_eq!(
            book.lock().unwrap().live.values().sum::<usize>(),
            0,
            "calls that were neither finished nor dropped"
        );
    }
}

pub(super) fn join<T>(threads: Vec<JoinHandle<T>>) -> Vec<T> {
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}
