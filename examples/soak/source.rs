//! Where tokens come from: a signer that is quick, slow, busy, out of order, or never answers.

use std::future::pending;
use std::panic;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tower_aiuta_auth::{AuthParams, Jwt, JwtSigner, TokenError, TokenRequest, TokenSource};

use crate::counts::Count;
use crate::ledger::Ledger;
use crate::rng::Rng;

/// How long tokens are good for: short, so that many of them reach their end.
pub(crate) const LIFETIME: Duration = Duration::from_secs(4);

/// How far `iat` is set back says whose a token is, since a partition is never signed: so many seconds for each.
const PARTITION_STEP: u64 = 1_000;
/// Less than this within one partition, and never the same twice in a row, so that no two tokens are the same.
const NONCES: u64 = 900;
/// At least this, for clocks that differ a little.
const BACKDATE: u64 = 10;

/// Partitions are called by numbers; 0 is none.
pub(crate) fn partition_of(params: &AuthParams) -> u64 {
    params.partition().and_then(|name| name.parse().ok()).unwrap_or(0)
}

/// Whose a token with these claims is.
pub(crate) fn partition_of_token(iat: u64, exp: u64) -> Option<u64> {
    Some(exp.checked_sub(iat)?.checked_sub(LIFETIME.as_secs() + BACKDATE)? / PARTITION_STEP)
}

/// How the source is, as the weather sets it.
#[derive(Default)]
pub(crate) struct Mood(AtomicU8);

impl Mood {
    /// Quick, slow, failing, hanging.
    pub(crate) const KINDS: u64 = 4;

    pub(crate) fn set(&self, kind: u8) {
        self.0.store(kind, Ordering::Relaxed);
    }

    fn fate(&self, rng: &mut Rng) -> Fate {
        let (slow, failing, hanging) = match self.0.load(Ordering::Relaxed) {
            0 => (10, 1, 0),
            1 => (95, 1, 0),
            2 => (30, 40, 1),
            _ => (30, 5, 5),
        };
        let roll = rng.below(100);
        if roll < hanging {
            Fate::Hangs
        } else if roll < hanging + failing {
            Fate::Fails(rng.below(16))
        } else if roll < hanging + failing + slow {
            Fate::Good(Some(rng.millis(1..=25)))
        } else {
            Fate::Good(None)
        }
    }
}

enum Fate {
    Good(Option<Duration>),
    Fails(u64),
    Hangs,
}

pub(crate) struct Source {
    signer: JwtSigner,
    mood: Arc<Mood>,
    rng: Mutex<Rng>,
    nonce: Count,
    ledger: Arc<Ledger>,
}

impl Source {
    pub(crate) fn new(signer: JwtSigner, mood: Arc<Mood>, rng: Rng, ledger: Arc<Ledger>) -> Self {
        Self { signer, mood, rng: Mutex::new(rng), nonce: Count::default(), ledger }
    }

    fn fate(&self) -> Fate {
        self.mood.fate(&mut self.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl TokenSource for Source {
    async fn token(&self, request: TokenRequest) -> Result<Jwt, TokenError> {
        let call = self.ledger.begin(request.params());
        match self.fate() {
            Fate::Good(delay) => {
                if let Some(delay) = delay {
                    tokio::time::sleep(delay).await;
                }
                let backdate = BACKDATE + self.nonce.next() % NONCES + partition_of(request.params()) * PARTITION_STEP;
                let token = self.signer.clone().backdate(Duration::from_secs(backdate)).token(request).await?;
                call.good();
                Ok(token)
            }
            Fate::Fails(0) => panic::panic_any(Expected),
            Fate::Fails(1) => Err(TokenError::transient("busy").with_retry_after(Duration::from_millis(10))),
            Fate::Fails(2..4) => Ok(Jwt::parse("no token")?),
            Fate::Fails(4..8) => Err(TokenError::denied("no")),
            Fate::Fails(8..12) => Err(TokenError::transient("try again")),
            Fate::Fails(_) => Err(TokenError::new("out of order")),
            Fate::Hangs => pending().await,
        }
    }
}

/// What a source of ours panics with.
struct Expected;

/// Expected panics print nothing.
pub(crate) fn silence_expected_panics() {
    let default = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !info.payload().is::<Expected>() {
            default(info);
        }
    }));
}
