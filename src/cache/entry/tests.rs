//! `ExpiryPolicy` in tables. What comes of it on the wire is tested in `tests/freshness.rs`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::*;

const START: u64 = 1_800_000_000;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(START + seconds)
}

fn jwt(payload: &str) -> Jwt {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    Jwt::parse(format!("{}.{}.c2ln", part(r#"{"alg":"HS256"}"#), part(payload))).unwrap()
}

fn policy(refresh_ahead: f64) -> ExpiryPolicy {
    ExpiryPolicy { refresh_ahead, fallback_lifetime: Duration::from_secs(60) }
}

fn entry(payload: &str, refresh_ahead: f64, key_hash: u64) -> Entry {
    Entry::new(jwt(payload), at(0), &policy(refresh_ahead), key_hash)
}

#[test]
fn d1_until_when_a_token_is_used() {
    let seconds = |payload: &str| {
        policy(0.25).usable_until(&jwt(payload), at(0)).duration_since(at(0)).unwrap_or_default().as_secs()
    };
    let claims = |iat: i64, exp: i64| {
        let start = i64::try_from(START).unwrap();
        format!(r#"{{"iat":{},"exp":{}}}"#, start + iat, start + exp)
    };
    // At most 5 s of margin, a tenth of what is left of a shorter one.
    assert_eq!(seconds(&claims(0, 60)), 55);
    assert_eq!(seconds(&claims(0, 10)), 9);
    // The issuer's clock is ahead: its lifetime counts, not its `exp`.
    assert_eq!(seconds(&claims(600, 660)), 55);
    // Behind, or the token comes out of the source's own cache: its `exp` counts.
    assert_eq!(seconds(&claims(-40, 20)), 18);
    // `exp` alone, and none at all.
    assert_eq!(seconds(&format!(r#"{{"exp":{}}}"#, START + 60)), 55);
    assert_eq!(seconds("{}"), 55);
    // Never.
    assert_eq!(seconds(&claims(0, -1)), 0);
    assert_eq!(seconds(&claims(60, 30)), 0);
    assert_eq!(seconds(r#"{"exp":-5}"#), 0);
    // For ever.
    assert!(seconds(&format!(r#"{{"exp":{}}}"#, u64::MAX)) > 1 << 32);
}

#[test]
fn d2_a_refresh_is_due_in_the_last_part_of_the_lifetime() {
    let payload = format!(r#"{{"iat":{START},"exp":{}}}"#, START + 60);
    for key_hash in 0..1000 {
        let entry = entry(&payload, 0.25, key_hash);
        // A quarter of 55 s, up to a tenth of it later by the key.
        assert_eq!(entry.freshness(at(41)), Freshness::Fresh);
        assert_eq!(entry.freshness(at(43)), Freshness::RefreshDue);
        assert_eq!(entry.freshness(at(55)), Freshness::Expired);
    }
    assert_eq!(entry(&payload, 0.0, 1).freshness(at(54)), Freshness::Fresh);
}

#[test]
fn d2_no_refresh_begins_more_than_five_minutes_ahead() {
    let day = 24 * 60 * 60;
    let entry = entry(&format!(r#"{{"iat":{START},"exp":{}}}"#, START + day), 0.25, 7);
    assert_eq!(entry.freshness(at(day - 5 - 301)), Freshness::Fresh);
    assert_eq!(entry.freshness(at(day - 5 - 269)), Freshness::RefreshDue);
}

#[test]
fn d2_the_jitter_differs_from_key_to_key() {
    let payload = format!(r#"{{"iat":{START},"exp":{}}}"#, START + 60);
    let due: std::collections::HashSet<_> =
        (0..100).map(|key_hash| entry(&payload, 0.25, key_hash).refresh_at.into_inner()).collect();
    assert!(due.len() > 50, "{} different times", due.len());
}

#[test]
fn d3_each_failed_refresh_puts_the_next_off_for_longer() {
    let entry = entry(&format!(r#"{{"iat":{START},"exp":{}}}"#, START + 3600), 0.25, 1);
    let now = at(3500);
    let waits = [1, 2, 4, 8, 16, 30, 30].map(|wait| {
        entry.refresh_failed(now, None);
        let due = |seconds| millis(now + Duration::from_secs(seconds)) >= entry.refresh_at.load(Ordering::Relaxed);
        assert!(!due(wait - 1) && due(wait), "a wait of {wait} s");
        wait
    });
    assert_eq!(waits.len(), 7);
    entry.refresh_failed(now, Some(Duration::from_secs(90)));
    assert!(!entry.claim_refresh(now + Duration::from_secs(89), at(9999)));
    assert!(entry.claim_refresh(now + Duration::from_secs(90), at(9999)));
}
