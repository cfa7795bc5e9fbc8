//! `ExpiryPolicy` and `Entry` in tables. Their effect on the wire is tested in `tests/it/freshness.rs`.

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

fn made_at(seconds: u64) -> ClockReading {
    ClockReading::uncorrected(at(seconds))
}

fn entry(payload: &str, refresh_ahead: f64, key_hash: u64) -> Entry {
    Entry::new(jwt(payload), made_at(0), false, &policy(refresh_ahead), key_hash)
}

/// Claims in seconds from the start.
fn claims(iat: i64, exp: i64) -> String {
    let start = i64::try_from(START).unwrap();
    format!(r#"{{"iat":{},"exp":{}}}"#, start + iat, start + exp)
}

#[test]
fn d1_token_without_an_age_is_used_for_the_shorter_of_two_times() {
    let seconds = |payload: &str| policy(0.25).usable_for(&jwt(payload), at(0)).as_secs();
    // A margin of 5 s, or of a tenth of a short lifetime.
    assert_eq!(seconds(&claims(0, 60)), 55);
    assert_eq!(seconds(&claims(0, 10)), 9);
    // The maker's clock is ahead: its lifetime counts, not its `exp`.
    assert_eq!(seconds(&claims(600, 660)), 55);
    // It is behind, or the token comes out of a cache of the source: its `exp` counts.
    assert_eq!(seconds(&claims(-40, 20)), 18);
    // `exp` alone, and neither.
    assert_eq!(seconds(&format!(r#"{{"exp":{}}}"#, START + 60)), 55);
    assert_eq!(seconds("{}"), 55);
    // Expired already.
    assert_eq!(seconds(&claims(0, -1)), 0);
    assert_eq!(seconds(&claims(60, 30)), 0);
    assert_eq!(seconds(r#"{"exp":-5}"#), 0);
    // As good as for ever.
    assert!(seconds(&format!(r#"{{"exp":{}}}"#, u64::MAX)) > 1 << 32);
}

#[test]
fn d1_token_with_an_age_is_used_whatever_the_clock_says() {
    let seconds = |payload: &str, age: u64| {
        let jwt = jwt(payload).with_age(Duration::from_secs(age));
        policy(0.25).usable_for(&jwt, at(0)).as_secs()
    };
    for clock in [-86_400, -60, 0, 60, 86_400] {
        assert_eq!(seconds(&claims(clock, clock + 60), 0), 55, "the clock is off by {clock} s");
        assert_eq!(seconds(&claims(clock, clock + 60), 40), 18);
        assert_eq!(seconds(&claims(clock, clock + 60), 61), 0);
    }
    // Without `iat` the clock is all there is.
    assert_eq!(seconds(&format!(r#"{{"exp":{}}}"#, START + 60), 40), 55);
    assert_eq!(seconds("{}", 40), 18);
}

#[test]
fn d1_small_step_back_of_the_clock_counts_as_none_and_a_large_one_ends_the_token() {
    let entry = Entry::new(jwt(&claims(10, 70)), made_at(10), false, &policy(0.25), 1);
    for (now, freshness) in [
        (10, Freshness::Fresh),
        (5, Freshness::Fresh),
        (4, Freshness::Expired),
        (64, Freshness::RefreshDue),
        (65, Freshness::Expired),
    ] {
        assert_eq!(entry.freshness(at(now)), freshness, "at {now} s");
    }
    assert!(!entry.is_expired(at(5)) && entry.is_expired(at(4)));
}

#[test]
fn d2_refresh_is_due_in_the_first_half_of_the_window_evenly() {
    let payload = claims(0, 60);
    let mut thirds = [0; 3];
    for key in 0..3000_u64 {
        let entry = entry(&payload, 0.25, key.wrapping_mul(0x1234_5678_9abc_def1));
        // The last quarter of 55 s; its first half ends 6.875 s before the end.
        assert_eq!(entry.freshness(at(41)), Freshness::Fresh);
        assert_eq!(entry.freshness(at(49)), Freshness::RefreshDue);
        assert_eq!(entry.freshness(at(55)), Freshness::Expired);
        let due = entry.refresh_after.into_inner();
        thirds[[43_542, 45_833].into_iter().filter(|third| due >= *third).count()] += 1;
    }
    assert!(thirds.iter().all(|third| (900..1100).contains(third)), "{thirds:?}");
    assert_eq!(entry(&payload, 0.0, 1).freshness(at(54)), Freshness::Fresh);
}

#[test]
fn d2_no_refresh_starts_more_than_five_minutes_ahead() {
    let day = 24 * 60 * 60;
    let entry = entry(&claims(0, 24 * 60 * 60), 0.25, 7);
    assert_eq!(entry.freshness(at(day - 5 - 301)), Freshness::Fresh);
    assert_eq!(entry.freshness(at(day - 5 - 149)), Freshness::RefreshDue);
}

#[test]
fn d3_each_failed_refresh_delays_the_next_for_longer() {
    let entry = entry(&claims(0, 3600), 0.25, 1);
    let now = at(3500);
    let due = |seconds| entry.freshness(now + Duration::from_secs(seconds)) == Freshness::RefreshDue;
    for wait in [1, 2, 4, 8, 16, 30, 30] {
        entry.refresh_failed(now, None);
        assert!(!due(wait - 1) && due(wait), "a wait of {wait} s");
    }
    entry.refresh_failed(now, Some(Duration::from_secs(90)));
    assert!(!entry.claim_refresh(now + Duration::from_secs(89), Duration::from_secs(9)));
    assert!(entry.claim_refresh(now + Duration::from_secs(90), Duration::from_secs(9)));
    assert!(!entry.claim_refresh(now + Duration::from_secs(90), Duration::from_secs(9)), "it is claimed");
}
