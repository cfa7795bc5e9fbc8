//! [`Entry`]: a token in the cache, with its expiry time and the time of its next refresh. The code here does not read
//! the clock. It gets every time as an argument.
//!
//! The time since the fetch started is the difference of two uncorrected readings of the [`Clock`](crate::Clock). So a
//! new offset does not change how long a token is used, and neither does the clock of another machine.

use std::time::{Duration, SystemTime};

use super::clock::ClockReading;
use crate::jwt::Jwt;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// Maximum time by which a lifetime is shortened, so that no token expires on its way to Aiuta (rule D1).
const MAX_MARGIN: Duration = Duration::from_secs(5);

/// If the clock goes back by at most this time, tokens stay valid (rule D1). Small steps back are normal when a clock
/// is adjusted.
const MAX_STEP_BACK: Duration = Duration::from_secs(5);

/// A refresh starts at most this long before the token expires (rule D2).
const MAX_REFRESH_AHEAD: Duration = Duration::from_secs(5 * 60);

/// Maximum wait after a failed refresh. The waits are 1 s, 2 s, 4 s and so on (rule D3).
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// The settings that decide how long a token is used.
#[derive(Clone, Debug)]
pub(crate) struct ExpiryPolicy {
    pub(crate) refresh_ahead: f64,
    pub(crate) fallback_lifetime: Duration,
}

impl ExpiryPolicy {
    /// Returns how long a token is used from the start of its fetch (rule D1). `now` is the time that the source got.
    ///
    /// If the token has an age, all times come from the clock of the token's maker. The clock of this machine does not
    /// matter then.
    fn usable_for(&self, jwt: &Jwt, now: SystemTime) -> Duration {
        let until = |exp: SystemTime, from| exp.duration_since(from).unwrap_or_default();
        let lifetime = match (jwt.expires_at(), jwt.issued_at(), jwt.age()) {
            (Some(exp), Some(iat), Some(age)) => until(exp, iat).saturating_sub(age),
            (Some(exp), Some(iat), None) => until(exp, iat).min(until(exp, now)),
            (Some(exp), None, _) => until(exp, now),
            (None, _, age) => self.fallback_lifetime.saturating_sub(age.unwrap_or_default()),
        };
        lifetime - (lifetime / 10).min(MAX_MARGIN)
    }

    /// Returns when a token is refreshed, as the time since the start of its fetch. Returns `None` if refreshing is
    /// turned off.
    ///
    /// The refresh period is a fraction of the lifetime, `refresh_ahead`, at its end. The returned time is in the first
    /// half of this period. It depends on the hash of the key, so that tokens that were fetched together are refreshed
    /// at different times (rule D2).
    fn refresh_after(&self, usable_for: Duration, key_hash: u64) -> Option<Duration> {
        if self.refresh_ahead <= 0.0 {
            return None;
        }
        let ahead = usable_for.mul_f64(self.refresh_ahead).min(MAX_REFRESH_AHEAD);
        Some(usable_for - ahead + ahead.mul_f64(unit_interval(key_hash) / 2.0))
    }
}

/// Maps a keyed hash to a number from 0 to 1. Mixes the bits first, because the store uses bits of the same hash.
fn unit_interval(hash: u64) -> f64 {
    // Fibonacci hashing: an odd number near 2^64 / φ spreads all bits into the upper ones.
    let mixed = hash.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    mixed as f64 / f64::from(u32::MAX)
}

/// Whether a token may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    Fresh,
    /// Usable, and a refresh should start.
    RefreshDue,
    Expired,
}

/// A token, with the times that decide whether it may be used.
pub(crate) struct Entry {
    jwt: Jwt,
    /// The reading of the clock when the fetch started. Its offset corrected the time for the source.
    pub(crate) made: ClockReading,
    usable_for: Duration,
    /// When the next refresh may start, in milliseconds since the start of the fetch.
    refresh_after: AtomicU64,
    failed_refreshes: AtomicU32,
    /// Whether this token replaced a rejected token and the API has not accepted it yet (rule E5).
    on_trial: AtomicBool,
}

impl Entry {
    /// Creates an entry for a token whose fetch started at `made`. `on_trial` says whether the token replaces a
    /// rejected one.
    pub(crate) fn new(jwt: Jwt, made: ClockReading, on_trial: bool, policy: &ExpiryPolicy, key_hash: u64) -> Self {
        let usable_for = policy.usable_for(&jwt, made.corrected());
        let refresh_after = policy.refresh_after(usable_for, key_hash).map_or(u64::MAX, millis);
        Self {
            jwt,
            made,
            usable_for,
            refresh_after: AtomicU64::new(refresh_after),
            failed_refreshes: AtomicU32::new(0),
            on_trial: AtomicBool::new(on_trial),
        }
    }

    pub(crate) fn jwt(&self) -> &Jwt {
        &self.jwt
    }

    /// Returns the time since the fetch started. `None` if the clock was set back to before that.
    fn elapsed(&self, now: SystemTime) -> Option<Duration> {
        match now.duration_since(self.made.raw) {
            Ok(elapsed) => Some(elapsed),
            Err(error) if error.duration() <= MAX_STEP_BACK => Some(Duration::ZERO),
            Err(_) => None,
        }
    }

    /// Returns whether the token has expired. `now` is the uncorrected time of the clock.
    pub(crate) fn is_expired(&self, now: SystemTime) -> bool {
        self.elapsed(now).is_none_or(|elapsed| elapsed >= self.usable_for)
    }

    /// Returns how long the token can still be used.
    pub(crate) fn usable_left(&self, now: SystemTime) -> Duration {
        self.elapsed(now).map_or(Duration::ZERO, |elapsed| self.usable_for.saturating_sub(elapsed))
    }

    pub(crate) fn freshness(&self, now: SystemTime) -> Freshness {
        match self.elapsed(now) {
            Some(elapsed) if elapsed < self.usable_for => {
                let due = millis(elapsed) >= self.refresh_after.load(Ordering::Relaxed);
                if due { Freshness::RefreshDue } else { Freshness::Fresh }
            }
            _ => Freshness::Expired,
        }
    }

    /// Claims a refresh that is due. Returns `true` to exactly one caller, and this caller must start the refresh. If
    /// the caller never reports a result, the refresh is due again after `retry_in`.
    pub(crate) fn claim_refresh(&self, now: SystemTime, retry_in: Duration) -> bool {
        let elapsed = self.elapsed(now).unwrap_or_default();
        let (due, next) = (self.refresh_after.load(Ordering::Relaxed), millis(elapsed.saturating_add(retry_in)));
        millis(elapsed) >= due
            && self.refresh_after.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Delays the next refresh. The wait doubles with each failure, and is at least `pause`, the pause that the source
    /// asked for (rules D3, G2).
    pub(crate) fn refresh_failed(&self, now: SystemTime, pause: Option<Duration>) {
        let failures = self.failed_refreshes.fetch_add(1, Ordering::Relaxed);
        let wait = Duration::from_secs(1 << failures.min(5)).min(MAX_BACKOFF).max(pause.unwrap_or_default());
        let at = self.elapsed(now).unwrap_or_default().saturating_add(wait);
        self.refresh_after.store(millis(at), Ordering::Relaxed);
    }

    pub(crate) fn is_on_trial(&self) -> bool {
        self.on_trial.load(Ordering::Relaxed)
    }

    /// Clears `on_trial`. Returns the old value.
    pub(crate) fn end_trial(&self) -> bool {
        self.on_trial.swap(false, Ordering::Relaxed)
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1000).saturating_add(duration.subsec_millis().into())
}

#[cfg(all(test, not(tower_aiuta_auth_model)))]
mod tests;
