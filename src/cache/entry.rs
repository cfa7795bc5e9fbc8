//! A cached token: until when it is used, and when its next refresh is due. Pure decisions on plain values of time, all
//! of them [corrected](super::clock).

use std::time::{Duration, SystemTime};

use crate::jwt::Jwt;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What a lifetime is cut by at most, so that no token expires on its way (rule D1).
const MAX_MARGIN: Duration = Duration::from_secs(5);

/// How long before the end a refresh begins at the earliest (rule D2).
const MAX_REFRESH_AHEAD: Duration = Duration::from_secs(5 * 60);

/// The waits after failed refreshes: 1 s, 2 s, 4 s … up to this (rule D3).
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// The settings that freshness depends on.
#[derive(Clone, Debug)]
pub(crate) struct ExpiryPolicy {
    pub(crate) refresh_ahead: f64,
    pub(crate) fallback_lifetime: Duration,
}

impl ExpiryPolicy {
    /// Until when a token fetched at `start` is used: `min(exp, start + (exp − iat))` less a margin (rule D1).
    ///
    /// `exp − iat` is what the issuer meant to give, whatever its clock says, so that a clock ahead of ours grants nothing more.
    pub(crate) fn usable_until(&self, jwt: &Jwt, start: SystemTime) -> SystemTime {
        let end = match (jwt.expires_at(), jwt.issued_at()) {
            (Some(exp), Some(iat)) => {
                let lifetime = exp.duration_since(iat).unwrap_or_default();
                start.checked_add(lifetime).map_or(exp, |end| end.min(exp))
            }
            (Some(exp), None) => exp,
            (None, _) => start.checked_add(self.fallback_lifetime).unwrap_or(start),
        };
        let left = end.duration_since(start).unwrap_or_default();
        start + left - (left / 10).min(MAX_MARGIN)
    }

    /// When the refresh of a token begins: in the last `refresh_ahead` of its time, up to a tenth of that later by the key's hash, so
    /// that tokens fetched together are not refreshed together (rule D2). `None` if that is turned off.
    fn refresh_from(&self, start: SystemTime, until: SystemTime, key_hash: u64) -> Option<SystemTime> {
        if self.refresh_ahead <= 0.0 {
            return None;
        }
        let lifetime = until.duration_since(start).unwrap_or_default();
        let ahead = lifetime.mul_f64(self.refresh_ahead).min(MAX_REFRESH_AHEAD);
        let jitter = ahead.mul_f64(unit_interval(key_hash) / 10.0);
        until.checked_sub(ahead).map(|from| from + jitter)
    }
}

/// A keyed hash as a number from 0 to 1; mixed once more, since the cache chooses its place by the same bits.
fn unit_interval(hash: u64) -> f64 {
    // Fibonacci hashing: an odd number near 2^64 / φ spreads all bits into the upper ones.
    let mixed = hash.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    mixed as f64 / f64::from(u32::MAX)
}

/// Whether a cached token may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    Fresh,
    /// Usable, and a refresh should start.
    RefreshDue,
    Expired,
}

/// A token, with the times that decide whether it is used.
pub(crate) struct Entry {
    jwt: Jwt,
    /// Start of the fetch. Before it the token is not used: the clock went back.
    not_before: SystemTime,
    usable_until: SystemTime,
    /// Time at which the next refresh may start, in milliseconds since the epoch.
    refresh_at: AtomicU64,
    failed_refreshes: AtomicU32,
}

impl Entry {
    /// An entry for a token whose fetch started at `start`.
    pub(crate) fn new(jwt: Jwt, start: SystemTime, policy: &ExpiryPolicy, key_hash: u64) -> Self {
        let usable_until = policy.usable_until(&jwt, start);
        let refresh_at = policy.refresh_from(start, usable_until, key_hash).map_or(u64::MAX, millis);
        let (refresh_at, failed_refreshes) = (AtomicU64::new(refresh_at), AtomicU32::new(0));
        Self { jwt, not_before: start, usable_until, refresh_at, failed_refreshes }
    }

    pub(crate) fn jwt(&self) -> &Jwt {
        &self.jwt
    }

    /// Returns whether the token's time is over, whatever the clock said before.
    pub(crate) fn is_expired(&self, now: SystemTime) -> bool {
        now >= self.usable_until
    }

    pub(crate) fn freshness(&self, now: SystemTime) -> Freshness {
        if now < self.not_before || self.is_expired(now) {
            Freshness::Expired
        } else if millis(now) >= self.refresh_at.load(Ordering::Relaxed) {
            Freshness::RefreshDue
        } else {
            Freshness::Fresh
        }
    }

    /// Claims the refresh that is due. Returns true to one caller, which starts it. If that caller never reports a
    /// result, the refresh is due again at `retry_at`.
    pub(crate) fn claim_refresh(&self, now: SystemTime, retry_at: SystemTime) -> bool {
        let due = self.refresh_at.load(Ordering::Relaxed);
        millis(now) >= due
            && self.refresh_at.compare_exchange(due, millis(retry_at), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Delays the next refresh: by a wait that doubles with each failure, and at least as long as the source asked for
    /// (rules D3, G2).
    pub(crate) fn refresh_failed(&self, now: SystemTime, pause: Option<Duration>) {
        let failures = self.failed_refreshes.fetch_add(1, Ordering::Relaxed);
        let wait = Duration::from_secs(1 << failures.min(5)).min(MAX_BACKOFF);
        let at = now + wait.max(pause.unwrap_or_default());
        self.refresh_at.store(millis(at), Ordering::Relaxed);
    }
}

/// Milliseconds since the epoch.
fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_secs().saturating_mul(1000).saturating_add(since.subsec_millis().into())
}

#[cfg(all(test, not(tower_aiuta_auth_model)))]
mod tests;
