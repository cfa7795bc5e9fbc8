//! The token source: a signer that is fast or slow, fails, or never answers.

use std::future::pending;
use std::panic;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tower_aiuta_auth::{AuthParams, Jwt, JwtSigner, TokenError, TokenRequest, TokenSource};

use crate::counts::Count;
use crate::rng::Rng;
use crate::source_calls::SourceCalls;

/// Lifetime of a token. Short, so that many tokens expire during a run.
pub(crate) const LIFETIME: Duration = Duration::from_secs(4);

/// Seconds of backdating per partition. A partition is not signed, so the token's `iat` tells which partition it was
/// made for.
const PARTITION_STEP: u64 = 1_000;
/// Number of different values of `iat` within a partition. Consecutive tokens differ in it, so that no two are the
/// same.
const NONCES: u64 = 900;
/// Minimum backdating in seconds, for small differences between clocks.
const BACKDATE: u64 = 10;

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

pub(crate) struct Source {
    signer: JwtSigner,
    mode: Arc<SourceMode>,
    rng: Mutex<Rng>,
    nonce: Count,
    source_calls: Arc<SourceCalls>,
}

impl Source {
    pub(crate) fn new(signer: JwtSigner, mode: Arc<SourceMode>, rng: Rng, source_calls: Arc<SourceCalls>) -> Self {
        Self { signer, mode, rng: Mutex::new(rng), nonce: Count::default(), source_calls }
    }

    fn outcome(&self) -> Outcome {
        self.mode.outcome(&mut self.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl TokenSource for Source {
    async fn token(&self, request: TokenRequest) -> Result<Jwt, TokenError> {
        let call = self.source_calls.begin(request.params());
        match self.outcome() {
            Outcome::Good(delay) => {
                if let Some(delay) = delay {
                    tokio::time::sleep(delay).await;
                }
                let backdate = BACKDATE + self.nonce.next() % NONCES + partition_of(request.params()) * PARTITION_STEP;
                let token = self.signer.clone().backdate(Duration::from_secs(backdate)).token(request).await?;
                call.succeeded();
                Ok(token)
            }
            Outcome::Fails(0) => panic::panic_any(Expected),
            Outcome::Fails(1) => Err(TokenError::transient("busy").with_retry_after(Duration::from_millis(10))),
            Outcome::Fails(2..4) => Ok(Jwt::parse("not a token")?),
            Outcome::Fails(4..8) => Err(TokenError::denied("no")),
            Outcome::Fails(8..12) => Err(TokenError::transient("try again")),
            Outcome::Fails(_) => Err(TokenError::new("out of order")),
            Outcome::Hangs => pending().await,
        }
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
