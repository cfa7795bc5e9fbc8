//! The token source: a signer that is fast or slow, fails, or never answers. It has a cache of its own, from which it
//! sometimes returns tokens that are revoked or expired.

use std::collections::HashMap;
use std::future::pending;
use std::panic;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::runtime::{Handle, RuntimeFlavor};
use tower_aiuta_auth::{AuthParams, Clock, Jwt, JwtSigner, TokenError, TokenRequest, TokenSource};

use crate::call;
use crate::clock::WallClock;
use crate::counts::Count;
use crate::invariants::{Invariant, Violations};
use crate::issued::{Issue, Issued, SHORT, Use};
use crate::rejected_keys::RejectedKeys;
use crate::rng::Rng;
use crate::source_calls::{OpenCall, SourceCalls};
use crate::timers::Timers;

/// Lifetime of a token. Short, so that many tokens expire during a run.
pub(crate) const LIFETIME: Duration = Duration::from_secs(4);

/// Seconds of backdating per partition. A partition is not signed, so the token's `iat` tells which partition it was
/// made for.
const PARTITION_STEP: u64 = 100_000;
/// Number of different values of `iat` within a partition. Consecutive tokens differ in it, so that no two are the
/// same.
const NONCES: u64 = 90_000;
/// Minimum backdating in seconds, for small differences between clocks.
const BACKDATE: u64 = 20;

/// Number of tokens in the source's own cache. When it is full, it is cleared.
const CACHED: usize = 4_096;

/// How long the source may hang without a runtime, where nothing but the clock ends a fetch.
const HANGS_WITHOUT_RUNTIME: Duration = Duration::from_millis(1_500);

/// How long the source takes on a runtime with a single thread.
const SLOW: Duration = Duration::from_millis(15);

/// Offsets of the layer's clock beyond this are false: tokens that are made by it are never accepted.
const FALSE_OFFSET: Duration = Duration::from_secs(1_800);

/// Returns the number of the params' partition, 0 if there is none.
pub(crate) fn partition_of(params: &AuthParams) -> u64 {
    params.partition().and_then(|name| name.parse().ok()).unwrap_or(0)
}

/// Returns the number of the partition that a token with these claims was made for.
pub(crate) fn partition_of_token(iat: u64, exp: u64) -> Option<u64> {
    Some(exp.checked_sub(iat)?.checked_sub(LIFETIME.as_secs() + BACKDATE)? / PARTITION_STEP)
}

/// How the source behaves; set by [`Chaos`](crate::chaos::Chaos).
#[derive(Default)]
pub(crate) struct SourceMode(AtomicU8);

impl SourceMode {
    /// Number of modes: fast, slow, failing, hanging.
    pub(crate) const KINDS: u64 = 4;

    pub(crate) fn set(&self, kind: u8) {
        self.0.store(kind, Ordering::Relaxed);
    }

    fn outcome(&self, rng: &mut Rng) -> Outcome {
        let (slow, failing, hanging) = match self.0.load(Ordering::Relaxed) {
            0 => (10, 1, 0),
            1 => (95, 1, 0),
            2 => (30, 40, 1),
            _ => (30, 5, 5),
        };
        let roll = rng.below(100);
        if roll < hanging {
            Outcome::Hangs
        } else if roll < hanging + failing {
            Outcome::Fails(rng.below(16))
        } else if roll < hanging + failing + slow {
            Outcome::Good(Some(rng.millis(1..=25)))
        } else {
            Outcome::Good(None)
        }
    }
}

enum Outcome {
    Good(Option<Duration>),
    Fails(u64),
    Hangs,
}

/// Where the source takes a token from.
enum Origin {
    Signer,
    /// Its own cache, marked as such.
    Cache,
    /// Its own cache, without the age.
    CacheUnmarked,
    /// The request, whose token it should not return.
    Replaced,
}

/// A token in the source's own cache.
struct Cached {
    token: Jwt,
    made: Instant,
}

/// What the source counts.
#[derive(Default)]
pub(crate) struct SourceCounts {
    /// Tokens from the source's own cache, marked or not.
    pub(crate) out_of_cache: Count,
    /// Tokens that can't be used: they have expired, were rejected, or should have been replaced.
    pub(crate) unusable: Count,
    pub(crate) without_age: Count,
    /// Tokens made by an offset that is on trial.
    pub(crate) trials: Count,
}

pub(crate) struct Source {
    pub(crate) signer: JwtSigner,
    pub(crate) mode: Arc<SourceMode>,
    pub(crate) rng: Mutex<Rng>,
    pub(crate) nonce: Count,
    pub(crate) cache: SourceCache,
    pub(crate) counts: Arc<SourceCounts>,
    pub(crate) source_calls: Arc<SourceCalls>,
    pub(crate) issued: Arc<Issued>,
    pub(crate) rejected_keys: Arc<RejectedKeys>,
    pub(crate) violations: Arc<Violations>,
    /// The layer's clock.
    pub(crate) clock: WallClock,
    pub(crate) timers: Timers,
}

#[derive(Default)]
pub(crate) struct SourceCache(Mutex<HashMap<AuthParams, Cached>>);

impl SourceCache {
    fn lock(&self) -> MutexGuard<'_, HashMap<AuthParams, Cached>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source {
    fn choose(&self, request: &TokenRequest) -> (Outcome, Origin) {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = self.mode.outcome(&mut rng);
        let origin = match rng.below(100) {
            0..15 => Origin::Cache,
            15..18 => Origin::CacheUnmarked,
            18..20 if request.force_refresh() => Origin::Replaced,
            _ => Origin::Signer,
        };
        (outcome, origin)
    }

    async fn make(&self, request: TokenRequest, call: &OpenCall) -> Result<Jwt, TokenError> {
        let (called, raw, now) = (Instant::now(), self.clock.now(), request.now());
        let (outcome, origin) = match self.rejected_keys.called(&request) {
            Some(true) => return Err(TokenError::transient("no token to replace a rejected one")),
            Some(false) => (Outcome::Good(None), Origin::Signer),
            None => self.choose(&request),
        };
        match outcome {
            Outcome::Good(mut delay) => {
                // Slow where the call may stand still, so that others have to do without it.
                let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
                if matches!(flavor, Ok(RuntimeFlavor::CurrentThread)) {
                    delay = Some(SLOW);
                }
                if let Some(delay) = delay {
                    self.timers.sleep(delay).await;
                }
            }
            Outcome::Fails(0) => panic::panic_any(Expected),
            Outcome::Fails(1) => {
                return Err(TokenError::transient("busy").with_retry_after(Duration::from_millis(10)));
            }
            Outcome::Fails(2..4) => return Ok(Jwt::parse("not a token")?),
            Outcome::Fails(4..8) => return Err(TokenError::denied("no")),
            Outcome::Fails(8..12) => return Err(TokenError::transient("try again")),
            Outcome::Fails(_) => return Err(TokenError::new("out of order")),
            Outcome::Hangs if Handle::try_current().is_ok() => pending().await,
            Outcome::Hangs => {
                self.timers.sleep(HANGS_WITHOUT_RUNTIME).await;
                return Err(TokenError::transient("hung"));
            }
        }
        let replaced = request.replaces().cloned();
        let token = match self.take(origin, &request) {
            Some(token) => token,
            None => self.sign(request).await?,
        };
        self.issue(&token, replaced.as_ref(), now, raw, called, call);
        Ok(token)
    }

    /// Returns a token that is there already.
    fn take(&self, origin: Origin, request: &TokenRequest) -> Option<Jwt> {
        let cache = self.cache.lock();
        let cached = || {
            let cached = cache.get(request.params())?;
            // It may be returned although a new token is needed, if it is not the one to be replaced.
            let is_another = request.replaces().is_some_and(|replaced| replaced.expose() != cached.token.expose());
            (!request.force_refresh() || is_another).then_some(cached)
        };
        let token = match origin {
            Origin::Signer => return None,
            Origin::Cache => {
                let cached = cached()?;
                let age = cached.token.age().unwrap_or_default() + cached.made.elapsed();
                cached.token.clone().out_of_cache(age)
            }
            Origin::CacheUnmarked => Jwt::parse(cached()?.token.expose()).expect("was parsed before"),
            Origin::Replaced => request.replaces()?.clone(),
        };
        self.counts.out_of_cache.add();
        Some(token)
    }

    async fn sign(&self, request: TokenRequest) -> Result<Jwt, TokenError> {
        let number = self.nonce.next();
        let backdate = BACKDATE + number % NONCES + partition_of(request.params()) * PARTITION_STEP;
        // Not forced: the signer would choose another `iat`, which tells the partition here.
        let unforced = TokenRequest::new(request.params().clone(), request.now());
        let token = self.signer.clone().backdate(Duration::from_secs(backdate)).token(unforced).await?;
        let mut cache = self.cache.lock();
        if cache.len() >= CACHED {
            cache.clear();
        }
        cache.insert(request.params().clone(), Cached { token: token.clone(), made: Instant::now() });
        drop(cache);
        if number.is_multiple_of(4) {
            self.counts.without_age.add();
            return Ok(Jwt::parse(token.expose())?);
        }
        Ok(token)
    }

    /// Remembers a token that is about to be returned.
    fn issue(
        &self,
        token: &Jwt,
        replaced: Option<&Jwt>,
        now: SystemTime,
        raw: SystemTime,
        called: Instant,
        call: &OpenCall,
    ) {
        let Some(fetch) = call.fetch else { return };
        let usable = usable_for(token, now);
        let was_rejected = self.issued.get(token.expose()).is_some_and(|before| before.rejected);
        let is_unusable = usable < SHORT;
        if is_unusable || was_rejected || replaced.is_some_and(|replaced| replaced.expose() == token.expose()) {
            self.counts.unusable.add();
        }
        let returned = Instant::now();
        let uses = vec![Use { raw, called, returned, usable }];
        self.issued.add(token, Issue { fetch, uses, is_unusable, rejected: false });
    }

    /// Rule H1: an offset that never helps is only used by the request whose response has suggested it.
    fn check_offset(&self, request: &TokenRequest, is_second: bool) {
        let ahead = request.now().duration_since(self.clock.now());
        let saw_false_date = is_second || call::with(|call| call.saw_false_date) == Some(true);
        if saw_false_date
            && ahead.as_ref().map_or_else(|error| error.duration(), |ahead| *ahead) > Duration::from_secs(5)
        {
            self.counts.trials.add();
        }
        let is_false = ahead.is_err_and(|error| error.duration() > FALSE_OFFSET);
        self.violations.check(Invariant::OffsetOnTrial, !is_false || saw_false_date, || {
            "the token source was called with a false time for another request than the one that met it".to_owned()
        });
    }
}

/// Returns how long the layer may use a token (rule D1).
fn usable_for(token: &Jwt, now: SystemTime) -> Duration {
    let (Some(exp), Some(iat)) = (token.expires_at(), token.issued_at()) else { return Duration::ZERO };
    let until = |from| exp.duration_since(from).unwrap_or_default();
    let lifetime = match token.age() {
        Some(age) => until(iat).saturating_sub(age),
        None => until(iat).min(until(now)),
    };
    lifetime - (lifetime / 10).min(Duration::from_secs(5))
}

impl TokenSource for Source {
    async fn token(&self, request: TokenRequest) -> Result<Jwt, TokenError> {
        let mut call = self.source_calls.begin(&request);
        self.check_offset(&request, call.is_second);
        let result = self.make(request, &call).await;
        call.returned(result.is_ok());
        result
    }
}

/// The payload of this source's panics.
struct Expected;

/// Keeps expected panics from being printed.
pub(crate) fn silence_expected_panics() {
    let default = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !info.payload().is::<Expected>() {
            default(info);
        }
    }));
}
