//! Rules D1–D5 by requests: how long a token is used, and how it is refreshed. Unit tests cover the arithmetic.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use serde_json::json;
use tower_aiuta_auth::testing::ManualClock;
use tower_aiuta_auth::{AiutaAuthLayer, Clock, FetchReason, Jwt, TokenError, TokenRequest};

use crate::support::*;

/// Sends one request, and returns the number of its token.
async fn token_used(layer: &AiutaAuthLayer) -> u64 {
    let inner = Recorder::new();
    send(&service(layer, &inner), try_on("image-1")).await.unwrap();
    token_number(inner.only().token())
}

/// Returns a layer without refresh ahead.
fn without_refresh(clock: &ManualClock, source: Source) -> AiutaAuthLayer {
    jwt(source).clock(clock.clone()).refresh_ahead(0.0).build().unwrap()
}

/// Sends a request at each of these times, in seconds from now, and returns the numbers of their tokens.
async fn tokens_used_at(layer: &AiutaAuthLayer, clock: &ManualClock, times: &[u64]) -> Vec<u64> {
    let start = clock.now();
    let mut numbers = Vec::new();
    for time in times {
        clock.set(start + secs(*time));
        numbers.push(token_used(layer).await);
        settle().await;
    }
    numbers
}

/// Returns a source whose tokens have the claims that `claims` makes from the time and the number of the call.
fn with_claims(claims: impl Fn(u64, usize) -> serde_json::Value + Send + Sync + 'static) -> Source {
    Source::from_fn(move |number, request| {
        let mut claims = claims(unix_seconds(request.now()), number);
        claims["number"] = number.into();
        async move { Ok(Jwt::parse(token(&claims))?) }
    })
}

#[tokio::test]
async fn d1_token_is_used_until_its_end_less_a_margin() {
    let clock = ManualClock::default();
    let layer = without_refresh(&clock, Source::new());
    assert_eq!(tokens_used_at(&layer, &clock, &[0, 30, 54, 55, 109, 110]).await, [1, 1, 1, 2, 2, 3]);
}

/// A source whose tokens have no `exp`, so that they can be made at any time.
fn without_exp() -> Source {
    Source::from_fn(|number, _| async move { Ok(Jwt::parse(token(&json!({ "number": number })))?) })
}

#[tokio::test(start_paused = true)]
async fn g1_clock_at_the_end_of_time_is_only_a_clock() {
    // The last second that a `SystemTime` can show, and times before it.
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(i64::MAX.unsigned_abs());
    for before_end in [0, 1, 4, 30, 86_400] {
        let clock = ManualClock::new(end - secs(before_end));
        let (source, rejected) = (without_exp(), RejectedTokens::default());
        let layer = jwt(source.clone()).clock(clock.clone()).build().unwrap();
        let dated = {
            let rejected = rejected.clone();
            Recorder::with_response(move |request| {
                let status = if rejected.contains(request.token()) { 401 } else { 200 };
                let response = http::Response::builder().status(status).header("date", "Fri, 31 Dec 9999 23:59:59 GMT");
                async move { Ok(response.body(http_body_util::Full::default())?) }
            })
        };
        let service = service(&layer, &dated);
        for _ in 0..3 {
            assert_eq!(send(&service, try_on("image-1")).await.unwrap(), 200);
        }
        rejected.add(dated.last().token());
        for _ in 0..3 {
            assert_eq!(send(&service, try_on("image-1")).await.unwrap(), 200);
        }
        layer.token_cache().unwrap().clear();
        assert_eq!(send(&service, try_on("image-1")).await.unwrap(), 200);
        assert_eq!((source.calls(), layer.stats().replayed), (3, 1), "{before_end} s before the end");
    }
}

#[test]
fn g1_clock_at_the_end_of_time_without_a_runtime() {
    let clock = ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(i64::MAX.unsigned_abs()));
    let source = Source::from_fn(|number, _| async move {
        match number {
            1 => Err(TokenError::transient("busy").with_retry_after(secs(300))),
            _ => Ok(Jwt::parse(token(&json!({ "number": number })))?),
        }
    });
    let layer = jwt(source).clock(clock.clone()).build().unwrap();
    let service = service(&layer, &Recorder::new());
    let get = || send(&service, try_on("image-1")).now_or_never().expect("the request waits");
    // The clock can't show the end of the pause.
    get().unwrap_err();
    // A clock that was set back to before the start of the pause says nothing about it.
    clock.step_back(secs(300));
    assert_eq!(get().unwrap(), 200);
}

#[tokio::test]
async fn g1_hit_before_1970_refreshes_only_when_due() {
    for start in [SystemTime::UNIX_EPOCH - secs(86_400), SystemTime::UNIX_EPOCH - secs(30)] {
        let clock = ManualClock::new(start);
        let source = without_exp();
        let layer = jwt(source.clone()).clock(clock.clone()).build().unwrap();
        assert_eq!(tokens_used_at(&layer, &clock, &[0, 1, 2, 20, 40]).await, [1; 5]);
        assert_eq!(source.calls(), 1);
        assert_eq!(tokens_used_at(&layer, &clock, &[9, 10, 11, 12]).await, [1, 2, 2, 2]);
        assert_eq!(source.calls(), 2);
    }
}

#[tokio::test]
async fn d1_lifetime_is_exp_minus_iat_when_the_issuer_clock_is_ahead() {
    // The issuer's clock is an hour ahead: `exp` alone would give the token 61 minutes.
    let source = with_claims(|now, _| json!({"iat": now + 3600, "exp": now + 3660}));
    let clock = ManualClock::default();
    let layer = without_refresh(&clock, source);
    assert_eq!(tokens_used_at(&layer, &clock, &[0, 54, 55]).await, [1, 1, 2]);
}

#[tokio::test]
async fn d1_lifetime_counts_from_the_start_of_the_fetch() {
    let clock = ManualClock::default();
    let slow = clock.clone();
    let source = Source::from_fn(move |number, request| {
        let token = numbered_token(number, &request, secs(60));
        slow.advance(secs(20));
        async move { Ok(token) }
    });
    let layer = without_refresh(&clock, source);
    assert_eq!(token_used(&layer).await, 1);
    clock.advance(secs(34));
    assert_eq!(token_used(&layer).await, 1);
    clock.advance(secs(1));
    assert_eq!(token_used(&layer).await, 2);
}

#[tokio::test]
async fn d1_small_clock_step_back_keeps_the_token_and_a_large_one_ends_it() {
    let clock = ManualClock::default();
    let layer = jwt_with_clock(&clock, Source::new());
    assert_eq!(token_used(&layer).await, 1);
    clock.step_back(secs(5));
    assert_eq!(token_used(&layer).await, 1);
    clock.step_back(secs(1));
    assert_eq!(token_used(&layer).await, 2);
    clock.advance(secs(30));
    assert_eq!(token_used(&layer).await, 2);
}

/// A source behind a clock that is off by `offset` seconds, which tells the age of its tokens.
fn with_age(offset: i64, age: u64) -> Source {
    Source::from_fn(move |number, request| async move {
        let now = i64::try_from(unix_seconds(request.now())).unwrap() + offset;
        let claims = json!({"iat": now - i64::try_from(age).unwrap(), "exp": now + 60, "number": number});
        Ok(Jwt::parse(token(&claims))?.with_age(secs(age)))
    })
}

#[tokio::test]
async fn d1_token_with_an_age_is_used_whatever_the_clocks_say() {
    for offset in [-86_400, -60, 0, 60, 86_400] {
        for age in [0, 40] {
            let (clock, source) = (ManualClock::default(), with_age(offset, age));
            let layer = jwt(source.clone()).clock(clock.clone()).refresh_ahead(0.0).build().unwrap();
            // 60 s from the start of the fetch, less the margin.
            assert_eq!(tokens_used_at(&layer, &clock, &[0, 54, 55]).await, [1, 1, 2], "{offset} s, {age} s old");
        }
    }
}

#[tokio::test]
async fn d1_token_without_exp_has_the_fallback_lifetime() {
    let clock = ManualClock::default();
    let source = with_claims(|_, _| json!({}));
    let layer = jwt(source).clock(clock.clone()).fallback_lifetime(secs(600)).refresh_ahead(0.0).build().unwrap();
    assert_eq!(tokens_used_at(&layer, &clock, &[0, 594, 595]).await, [1, 1, 2]);

    let source = with_claims(|_, _| json!({}));
    let layer = jwt(source).clock(clock).fallback_lifetime(Duration::MAX).build().unwrap();
    assert_eq!((token_used(&layer).await, token_used(&layer).await), (1, 1));
}

#[tokio::test]
async fn d1_extreme_claims_do_not_panic() {
    for (claims, kept) in [
        (json!({"exp": u64::MAX}), true),
        (json!({"exp": u64::MAX, "iat": u64::MAX}), false),
        (json!({"exp": u64::MAX, "iat": -1}), true),
        (json!({"exp": 1e300}), true),
        (json!({"exp": -1}), false),
        (json!({"exp": i64::MIN, "iat": i64::MAX}), false),
        (json!({"exp": 4_000_000_000.75, "iat": 0.25}), true),
        (json!({"exp": null}), true),
    ] {
        let source = with_claims({
            let claims = claims.clone();
            move |_, _| claims.clone()
        });
        let layer = jwt_with_clock(&ManualClock::default(), source);
        let numbers = (token_used(&layer).await, token_used(&layer).await);
        // A token that arrives expired makes the source be asked a second time (rule D4), the first time.
        assert_eq!(numbers, if kept { (1, 1) } else { (2, 3) }, "{claims}");
    }
}

#[tokio::test]
async fn d2_token_near_its_end_is_served_while_one_refresh_runs() {
    let gate = Gate::closed();
    let source = Source::gated(&gate);
    let clock = ManualClock::default();
    let layer = jwt_with_clock(&clock, source.clone());
    gate.open(1);
    assert_eq!(token_used(&layer).await, 1);
    // The refresh waits at the gate. No request waits for it or starts another.
    assert_eq!(tokens_used_at(&layer, &clock, &[40, 49, 50, 51]).await, [1, 1, 1, 1]);
    assert_eq!(source.calls(), 2);
    gate.open(1);
    settle().await;
    assert_eq!(token_used(&layer).await, 2);
    let stats = layer.token_cache().unwrap().stats();
    assert_eq!((stats.misses, stats.hits, stats.fetches, stats.refreshes), (1, 5, 2, 1));
}

#[tokio::test]
async fn d2_unused_token_is_not_refreshed() {
    let clock = ManualClock::default();
    let source = Source::new();
    let layer = jwt_with_clock(&clock, source.clone());
    assert_eq!(tokens_used_at(&layer, &clock, &[0, 40]).await, [1, 1]);
    clock.advance(secs(3600));
    settle().await;
    assert_eq!(source.calls(), 1);
}

/// Returns a source that fails while `fail` is set. Its tokens are used for 595 s, and refreshed from 521 s on at the
/// latest.
fn failing(fail: &Arc<AtomicBool>) -> Source {
    let fail = fail.clone();
    Source::from_fn(move |number, request| {
        let result = match fail.load(Ordering::SeqCst) {
            true => Err(TokenError::transient("down")),
            false => Ok(numbered_token(number, &request, secs(600))),
        };
        async move { result }
    })
}

#[tokio::test]
async fn d3_failed_refresh_keeps_the_token_and_backs_off() {
    let fail = Arc::new(AtomicBool::new(false));
    let source = failing(&fail);
    let clock = ManualClock::default();
    let layer = jwt_with_clock(&clock, source.clone());
    assert_eq!(token_used(&layer).await, 1);
    fail.store(true, Ordering::SeqCst);
    let start = clock.now();
    let mut tried_at = Vec::new();
    for time in 521..545 {
        clock.set(start + secs(time));
        let before = source.calls();
        assert_eq!(token_used(&layer).await, 1, "the valid token is still served");
        if source.calls() > before {
            tried_at.push(time);
        }
    }
    assert_eq!(tried_at, [521, 522, 524, 528, 536], "waits of 1, 2, 4 and 8 s");
}

#[tokio::test]
async fn d3_refresh_backoff_never_delays_a_miss() {
    let fail = Arc::new(AtomicBool::new(false));
    let source = failing(&fail);
    let clock = ManualClock::default();
    let layer = jwt_with_clock(&clock, source.clone());
    assert_eq!(token_used(&layer).await, 1);
    fail.store(true, Ordering::SeqCst);
    let start = clock.now();
    for time in [521, 522, 524, 528, 536, 552, 582] {
        clock.set(start + secs(time));
        assert_eq!(token_used(&layer).await, 1);
    }
    // The next refresh would start at 612 s. The token is used until 595 s.
    fail.store(false, Ordering::SeqCst);
    clock.set(start + secs(595));
    assert_eq!(token_used(&layer).await, source.calls() as u64);
}

#[tokio::test]
async fn d3_refresh_that_returns_the_same_token_backs_off() {
    let clock = ManualClock::default();
    let end = unix_seconds(clock.now()) + 600;
    let source = with_claims(move |_, _| json!({"exp": end}));
    let constant = Source::from_fn({
        let source = source.clone();
        move |_, request| {
            let source = source.clone();
            async move {
                let claims = json!({"exp": end, "number": 1});
                tower_aiuta_auth::TokenSource::token(&source, request).await?;
                Ok(Jwt::parse(token(&claims))?)
            }
        }
    });
    let layer = jwt_with_clock(&clock, constant.clone());
    let times: Vec<u64> = std::iter::once(0).chain(521..535).collect();
    assert!(tokens_used_at(&layer, &clock, &times).await.iter().all(|number| *number == 1));
    assert_eq!(constant.calls(), 5, "one miss, and refreshes at 521, 522, 524 and 528 s");
}

#[tokio::test]
async fn d4_source_that_returns_expired_tokens_twice_is_asked_once_for_30_seconds() {
    let gate = Gate::closed();
    let source = Source::from_fn({
        let gate = gate.clone();
        move |number, request| {
            let gate = gate.clone();
            async move {
                gate.pass().await;
                let now = unix_seconds(request.now());
                Ok(Jwt::parse(token(&json!({"iat": now - 100, "exp": now - 40, "number": number})))?)
            }
        }
    });
    let clock = ManualClock::default();
    let layer = jwt_with_clock(&clock, source.clone());
    let inner = Recorder::new();
    let callers: Vec<_> = (0..5)
        .map(|_| {
            let service = service(&layer, &inner);
            tokio::spawn(async move { send(&service, try_on("image-1")).await.unwrap() })
        })
        .collect();
    settle().await;
    gate.open(10);
    for caller in callers {
        assert_eq!(caller.await.unwrap(), 200);
    }
    // The second token serves those who wait, and is not cached.
    assert_eq!((source.calls(), inner.count()), (2, 5));
    assert!(inner.tokens().iter().all(|token| token_number(token) == 2));
    assert_eq!(layer.token_cache().unwrap().stats().entries, 0);
    assert_eq!((token_used(&layer).await, source.calls()), (3, 3));
    clock.advance(secs(30));
    assert_eq!((token_used(&layer).await, source.calls()), (5, 5));
}

#[tokio::test]
async fn d4_token_that_arrives_expired_is_not_sent_if_the_next_one_is_valid() {
    for wait in [false, true] {
        let source = Source::from_fn(move |number, request| async move {
            if wait {
                tokio::task::yield_now().await;
            }
            let now = unix_seconds(request.now());
            let age = if number == 1 { 61 } else { 0 };
            Ok(Jwt::parse(token(&json!({"iat": now - age, "exp": now - age + 60, "number": number})))?)
        });
        let layer = jwt_with_clock(&ManualClock::default(), source.clone());
        let inner = Recorder::new();
        let calls = (0..5).map(|_| {
            let service = service(&layer, &inner);
            async move { send(&service, try_on("image-1")).await.unwrap() }
        });
        assert_eq!(futures::future::join_all(calls).await, [200; 5]);
        assert!(inner.tokens().iter().all(|token| token_number(token) == 2));
        assert_eq!((source.calls(), layer.token_cache().unwrap().stats().entries), (2, 1));
        let [first, second] = source.requests().try_into().unwrap();
        assert!(!first.force_refresh() && first.replaces().is_none());
        let replaced = second.replaces().map(|token| token_number(token.expose()));
        assert_eq!((second.force_refresh(), replaced, second.reason()), (true, Some(1), FetchReason::Miss));
        assert_eq!(first.deadline(), second.deadline(), "within the same deadline");
    }
}

#[tokio::test]
async fn d5_fetch_after_401_sets_force_refresh() {
    let source = Source::new();
    let layer = jwt_with_clock(&ManualClock::default(), source.clone());
    let rejected = RejectedTokens::default();
    let inner = Recorder::rejecting(&rejected);
    let service = service(&layer, &inner);
    let force_refresh = || source.requests().iter().map(|request| request.force_refresh()).collect::<Vec<_>>();

    send(&service, try_on("image-1")).await.unwrap();
    rejected.add(inner.last().token());
    send(&service, try_on("image-1")).await.unwrap();
    assert_eq!(force_refresh(), [false, true]);

    let replaced = |request: &TokenRequest| request.replaces().map(|token| token_number(token.expose()));
    assert_eq!(replaced(&source.requests()[1]), Some(1));

    // After `invalidate` and `clear` as well, for a key that was cached.
    layer.token_cache().unwrap().invalidate(&params("image-1"));
    send(&service, try_on("image-1")).await.unwrap();
    send(&service, try_on("image-2")).await.unwrap();
    assert_eq!(force_refresh(), [false, true, true, false]);
    layer.token_cache().unwrap().clear();
    send(&service, try_on("image-2")).await.unwrap();
    assert_eq!(force_refresh(), [false, true, true, false, true]);
    let request = source.requests().pop().unwrap();
    assert_eq!((replaced(&request), request.reason()), (Some(4), FetchReason::Rejected));
}

#[tokio::test]
async fn d5_clear_of_more_keys_than_are_remembered_forces_each_until_its_token_would_have_expired() {
    let (clock, source) = (ManualClock::default(), Source::new());
    let layer = jwt_with_clock(&clock, source.clone());
    let tokens = layer.token_cache().unwrap();
    let forced = async |keys: std::ops::Range<usize>| {
        let before = source.calls();
        for key in keys {
            tokens.get(&params(&format!("image-{key}"))).await.unwrap();
        }
        source.requests()[before..].iter().filter(|request| request.force_refresh()).count()
    };
    assert_eq!(forced(0..1500).await, 0);
    tokens.clear();
    // A second one does not shorten that.
    tokens.clear();
    assert_eq!(forced(0..1500).await, 1500);
    clock.advance(secs(55));
    assert_eq!(forced(2000..2100).await, 0);
}

#[tokio::test]
async fn d5_none_of_the_last_four_rejected_tokens_comes_back() {
    // The fifth fetch returns one of the rejected tokens, then the source has a new one.
    for returned in 1..=4 {
        let source = Source::from_fn(move |call, request| async move {
            Ok(numbered_token(if call == 5 { returned } else { call }, &request, secs(60)))
        });
        let layer = jwt_with_clock(&ManualClock::default(), source.clone());
        let tokens = layer.token_cache().unwrap();
        for _ in 0..4 {
            tokens.get(&params("image-1")).await.unwrap();
            tokens.invalidate(&params("image-1"));
        }
        let jwt = tokens.get(&params("image-1")).await.unwrap();
        assert_eq!((token_number(jwt.expose()), source.calls()), (6, 6), "token {returned} came back");
    }
}

#[tokio::test]
async fn d2_tokens_fetched_together_are_refreshed_over_the_first_half_of_the_window() {
    let (clock, source) = (ManualClock::default(), Source::new());
    let layer = jwt_with_clock(&clock, source.clone());
    let tokens = layer.token_cache().unwrap();
    let keys: Vec<_> = (0..2000).map(|key| params(&format!("image-{key}"))).collect();
    let start = clock.now();
    let mut fetches = Vec::new();
    // 60 s less the margin: the window is 41.25 s to 55 s, and its first half ends at 48.125 s.
    for tenth in [0, 412, 429, 447, 464, 482] {
        clock.set(start + Duration::from_millis(tenth * 100));
        let before = source.calls();
        for key in &keys {
            tokens.get(key).await.unwrap();
        }
        settle().await;
        fetches.push(source.calls() - before);
    }
    assert_eq!(fetches[..2], [2000, 0]);
    assert!(fetches[2..].iter().all(|quarter| (400..600).contains(quarter)), "{fetches:?}");
    assert_eq!(source.calls(), 4000);
}

#[tokio::test]
async fn d5_fetch_after_401_without_replay_sets_force_refresh() {
    let source = Source::new();
    let layer = jwt_with_clock(&ManualClock::default(), source.clone());
    let gate = Gate::closed();
    let inner = Recorder::rejecting_after(&gate, |number| number == 1);
    let service = service(&layer, &inner);
    let first = tokio::spawn({
        let service = service.clone();
        async move { send(&service, try_on("image-1")).await.unwrap() }
    });
    settle().await;
    gate.open(1);
    assert_eq!(first.await.unwrap(), 401, "a token fetched for this request is not replaced");
    assert_eq!(send(&service, try_on("image-1")).await.unwrap(), 200);
    assert!(source.requests()[1].force_refresh());
}
