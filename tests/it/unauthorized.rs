//! Rules E1, E2 and E4: a 401 forgets the token of the request, and a request may be replayed once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{Channel, Full};
use tower::ServiceExt;
use tower_aiuta_auth::testing::ManualClock;
use tower_aiuta_auth::{AiutaAuthLayer, AuthErrorKind, BoxError, Jwt, NoReplay, TokenError, TokenSource};

use crate::support::*;

/// Returns a layer whose cache holds token 1 for image-1, and an inner service that rejects this token.
async fn with_revoked_token(source: impl TokenSource) -> (AiutaAuthLayer, Recorder) {
    let layer = jwt_with_clock(&ManualClock::default(), source);
    let rejected = RejectedTokens::default();
    rejected.add(layer.token_cache().unwrap().get(&params("image-1")).await.unwrap().expose());
    (layer, Recorder::rejecting(&rejected))
}

/// Returns the number of the token of each request.
fn numbers(inner: &Recorder) -> Vec<u64> {
    inner.tokens().iter().map(|token| token_number(token)).collect()
}

#[tokio::test]
async fn e2_request_with_a_revoked_token_is_replayed_once() {
    let source = Source::new();
    let (layer, inner) = with_revoked_token(source.clone()).await;
    assert_eq!(send(&service(&layer, &inner), try_on("image-1")).await.unwrap(), 200);
    assert_eq!(numbers(&inner), [1, 2]);
    let stats = layer.token_cache().unwrap().stats();
    assert_eq!((stats.rejected, stats.replays, stats.fetches, stats.entries), (1, 1, 2, 1));
}

#[tokio::test]
async fn e2_replay_is_identical_except_for_the_token() {
    #[derive(Clone, Debug, PartialEq)]
    struct Mark(u8);

    let (layer, inner) = with_revoked_token(Source::new()).await;
    let uri = format!("{SKU_IMAGES}?a=%20b&a=c");
    let mut request = post(&uri, r#"{"uploaded_image_id":"image-1","sku_id":"dress-1"} "#);
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().append("x-trace", "1".parse().unwrap());
    request.headers_mut().append("x-trace", "2".parse().unwrap());
    request.extensions_mut().insert(Mark(7));
    send(&service(&layer, &inner), request).await.unwrap();

    let [first, second] = inner.requests().try_into().ok().unwrap();
    assert_ne!(first.headers["authorization"], second.headers["authorization"]);
    for seen in [&first, &second] {
        assert_eq!((seen.method.as_str(), seen.uri.to_string()), ("POST", uri.clone()));
        assert_eq!(seen.version, Version::HTTP_2);
        assert_eq!(seen.headers.get_all("x-trace").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(seen.extensions.get(), Some(&Mark(7)));
        assert_eq!(seen.body, r#"{"uploaded_image_id":"image-1","sku_id":"dress-1"} "#);
        assert_eq!(seen.credentials(), ["authorization"]);
        assert!(seen.headers["authorization"].is_sensitive());
    }
}

#[tokio::test]
async fn e2_token_fetched_for_the_request_is_not_replaced() {
    let source = Source::new();
    let layer = jwt_with_clock(&ManualClock::default(), source.clone());
    let inner = Recorder::with_status(|_| StatusCode::UNAUTHORIZED);
    assert_eq!(send(&service(&layer, &inner), try_on("image-1")).await.unwrap(), 401);
    assert_eq!((inner.count(), source.calls()), (1, 1));
    // The token is forgotten nevertheless.
    assert_eq!(layer.token_cache().unwrap().stats().entries, 0);
}

#[tokio::test]
async fn e2_no_replay_and_replay_unauthorized_prevent_the_replay() {
    let (layer, inner) = with_revoked_token(Source::new()).await;
    let mut request = try_on("image-1");
    request.extensions_mut().insert(NoReplay);
    assert_eq!(send(&service(&layer, &inner), request).await.unwrap(), 401);
    assert_eq!(inner.count(), 1);

    let layer = jwt(Source::new()).replay_unauthorized(false).build().unwrap();
    let inner = Recorder::with_status(|_| StatusCode::UNAUTHORIZED);
    layer.token_cache().unwrap().get(&params("image-1")).await.unwrap();
    assert_eq!(send(&service(&layer, &inner), try_on("image-1")).await.unwrap(), 401);
    assert_eq!((inner.count(), layer.token_cache().unwrap().stats().entries), (1, 0));
}

#[tokio::test]
async fn e2_request_without_buffered_body_is_not_replayed() {
    // The params are in the extensions, and the size of the body is unknown.
    let (layer, inner) = with_revoked_token(Source::new()).await;
    let (sender, body) = Channel::<Bytes, BoxError>::new(1);
    drop(sender);
    let mut request = Request::post(SKU_IMAGES).body(BoxBody::new(body)).unwrap();
    request.extensions_mut().insert(params("image-1"));
    let service = tower::Layer::layer(&layer, inner.clone());
    assert_eq!(service.oneshot(request).await.unwrap().status(), 401);
    assert_eq!(inner.count(), 1);

    // The size is known and over the limit.
    let layer = jwt(Source::new()).body_limit(10).build().unwrap();
    let inner = Recorder::with_status(|_| StatusCode::UNAUTHORIZED);
    layer.token_cache().unwrap().get(&params("image-1")).await.unwrap();
    assert_eq!(send(&crate::support::service(&layer, &inner), try_on("image-1")).await.unwrap(), 401);
    assert_eq!(inner.count(), 1);
}

#[tokio::test]
async fn e2_request_without_body_is_replayed() {
    let source = Source::new();
    let layer = jwt_with_clock(&ManualClock::default(), source);
    let params = tower_aiuta_auth::AuthParams::new().with("uploaded_image_id", "7");
    let rejected = RejectedTokens::default();
    rejected.add(layer.token_cache().unwrap().get(&params).await.unwrap().expose());
    let inner = Recorder::rejecting(&rejected);
    let request = Request::delete("https://api.aiuta.com/v1/uploaded_images/7").body(Full::default()).unwrap();
    assert_eq!(send(&service(&layer, &inner), request).await.unwrap(), 200);
    assert_eq!(numbers(&inner), [1, 2]);
}

/// Responds to every request with 401, a header and a body.
fn rejecting_everything() -> Recorder {
    Recorder::with_response(|_| async {
        Ok(Response::builder().status(401).header("www-authenticate", "Bearer").body(Full::from("why")).unwrap())
    })
}

#[tokio::test]
async fn e2_401_is_returned_unchanged_if_no_new_token_is_available() {
    let gate = Gate::closed();
    gate.open(1);
    for (name, second) in [
        (
            "an error",
            Source::from_fn(|number, request| async move {
                if number == 1 { Ok(numbered_token(1, &request, secs(60))) } else { Err(TokenError::new("no more")) }
            }),
        ),
        (
            "the same token again",
            Source::from_fn(|_, request| async move { Ok(numbered_token(1, &request, secs(60))) }),
        ),
        (
            "an error after waiting",
            Source::from_fn(move |number, request| {
                let gate = gate.clone();
                async move {
                    gate.pass().await;
                    if number == 1 {
                        gate.open(1);
                        return Ok(numbered_token(1, &request, secs(60)));
                    }
                    tokio::task::yield_now().await;
                    Err(TokenError::transient("busy"))
                }
            }),
        ),
    ] {
        let layer = jwt_with_clock(&ManualClock::default(), second.clone());
        layer.token_cache().unwrap().get(&params("image-1")).await.unwrap();
        let inner = rejecting_everything();
        let response = service(&layer, &inner).oneshot(try_on("image-1")).await.unwrap();
        assert_eq!(response.status(), 401, "{name}");
        assert_eq!(response.headers()["www-authenticate"], "Bearer", "{name}");
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        assert_eq!(body, "why", "{name}");
        // A source that returns the rejected token is asked a second time.
        let calls = if name == "the same token again" { 3 } else { 2 };
        assert_eq!((inner.count(), second.calls()), (1, calls), "{name}");
    }
}

#[tokio::test]
async fn e2_second_401_is_returned() {
    let source = Source::new();
    let layer = jwt_with_clock(&ManualClock::default(), source.clone());
    layer.token_cache().unwrap().get(&params("image-1")).await.unwrap();
    let inner = rejecting_everything();
    assert_eq!(send(&service(&layer, &inner), try_on("image-1")).await.unwrap(), 401);
    assert_eq!((numbers(&inner), source.calls()), (vec![1, 2], 2));
    // The second token is forgotten as well.
    let stats = layer.token_cache().unwrap().stats();
    assert_eq!((stats.rejected, stats.replays, stats.entries), (2, 1, 0));
}

#[tokio::test]
async fn e1_401_forgets_only_the_token_of_the_request() {
    let source = Source::new();
    let (layer, inner) = with_revoked_token(source.clone()).await;
    layer.token_cache().unwrap().get(&params("image-2")).await.unwrap();
    send(&service(&layer, &inner), try_on("image-1")).await.unwrap();
    assert_eq!(source.calls(), 3);
    send(&service(&layer, &inner), try_on("image-2")).await.unwrap();
    assert_eq!(source.calls(), 3, "the token for image-2 is still cached");
}

#[tokio::test]
async fn e1_late_401_keeps_the_newer_token() {
    let source = Source::new();
    let layer = jwt_with_clock(&ManualClock::default(), source.clone());
    let tokens = layer.token_cache().unwrap();
    let gate = Gate::closed();
    let inner = Recorder::rejecting_after(&gate, |number| number == 1);
    tokens.get(&params("image-1")).await.unwrap();
    let service = service(&layer, &inner);
    let slow = tokio::spawn({
        let service = service.clone();
        async move { send(&service, try_on("image-1")).await.unwrap() }
    });
    settle().await;
    tokens.invalidate(&params("image-1"));
    tokens.get(&params("image-1")).await.unwrap();
    gate.open(1);
    assert_eq!(slow.await.unwrap(), 200);
    assert_eq!((numbers(&inner), source.calls()), (vec![1, 2], 2), "the newer token is used, and none is fetched");
    assert_eq!(tokens.stats().entries, 1);
}

#[tokio::test]
async fn e1_refresh_started_before_the_401_is_not_cached() {
    // While the refresh of a token hangs, the token is rejected. Then the refresh returns a token made before the
    // rejection.
    let gate = Gate::closed();
    let source = Source::gated_calls(&gate, |number| number == 2);
    let clock = ManualClock::default();
    let layer = jwt_with_clock(&clock, source.clone());
    let inner = Recorder::with_status(|seen| match token_number(seen.token()) {
        1 | 2 => StatusCode::UNAUTHORIZED,
        _ => StatusCode::OK,
    });
    layer.token_cache().unwrap().get(&params("image-1")).await.unwrap();
    clock.advance(secs(49));
    assert_eq!(send(&service(&layer, &inner), try_on("image-1")).await.unwrap(), 200);
    assert_eq!(numbers(&inner), [1, 3]);
    gate.open(1);
    settle().await;
    send(&service(&layer, &inner), try_on("image-1")).await.unwrap();
    assert_eq!(numbers(&inner), [1, 3, 3]);
}

#[tokio::test]
async fn e1_awaited_fetch_started_before_the_401_is_not_cached() {
    // A token has expired and a caller waits for its successor when the 401 to a request with the first token arrives.
    let (fetch_gate, response_gate) = (Gate::closed(), Gate::closed());
    let source = Source::gated_calls(&fetch_gate, |number| number == 2);
    let clock = ManualClock::default();
    let layer = jwt_with_clock(&clock, source);
    let inner = Recorder::rejecting_after(&response_gate, |number| number == 1);
    let spawn = || tokio::spawn(service(&layer, &inner).oneshot(try_on("image-1")));
    layer.token_cache().unwrap().get(&params("image-1")).await.unwrap();
    let with_the_first = spawn();
    settle().await;
    clock.advance(secs(60));
    let waiting = spawn();
    settle().await;
    response_gate.open(1);
    assert_eq!(with_the_first.await.unwrap().unwrap().status(), 200);
    assert_eq!(numbers(&inner), [1, 3], "the rejected request does not wait for the fetch that began before");
    // That fetch ends last. Its waiter gets the token, which is not cached.
    fetch_gate.open(1);
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
    send(&service(&layer, &inner), try_on("image-1")).await.unwrap();
    assert_eq!(numbers(&inner), [1, 3, 2, 3]);
}

#[tokio::test]
async fn e4_twenty_requests_with_a_revoked_token_cause_one_fetch() {
    for hangs in [false, true] {
        let fetch_gate = Gate::closed();
        let source = Source::gated_calls(&fetch_gate, move |number| hangs && number > 1);
        let layer = jwt_with_clock(&ManualClock::default(), source.clone());
        layer.token_cache().unwrap().get(&params("image-1")).await.unwrap();
        let response_gate = Gate::closed();
        let inner = Recorder::rejecting_after(&response_gate, |number| number == 1);
        let callers: Vec<_> = (0..20)
            .map(|_| {
                let service = service(&layer, &inner);
                tokio::spawn(async move { send(&service, try_on("image-1")).await.unwrap() })
            })
            .collect();
        settle().await;
        assert_eq!(inner.count(), 20, "all requests are in flight");
        // Half of the 401s arrive while the new token is fetched, the others after that.
        for _ in 0..10 {
            response_gate.open(1);
            settle().await;
        }
        fetch_gate.open(100);
        settle().await;
        response_gate.open(10);
        for caller in callers {
            assert_eq!(caller.await.unwrap(), 200);
        }
        assert_eq!((inner.count(), source.calls()), (40, 2));
    }
}

#[tokio::test]
async fn e4_request_is_sent_at_most_twice() {
    let sent = Arc::new(AtomicUsize::new(0));
    let source = Source::new();
    let layer = jwt_with_clock(&ManualClock::default(), source.clone());
    let inner = Recorder::with_status({
        let sent = sent.clone();
        move |_| {
            sent.fetch_add(1, Ordering::SeqCst);
            StatusCode::UNAUTHORIZED
        }
    });
    let service = service(&layer, &inner);
    for (expected, what) in [(1, "no token is cached"), (1, "the token was forgotten"), (1, "forgotten again")] {
        sent.store(0, Ordering::SeqCst);
        send(&service, try_on("image-1")).await.unwrap();
        assert_eq!(sent.load(Ordering::SeqCst), expected, "{what}");
    }
    sent.store(0, Ordering::SeqCst);
    // Which ends the wait after two rejections (rule E5).
    layer.token_cache().unwrap().invalidate(&params("image-1"));
    layer.token_cache().unwrap().clear();
    layer.token_cache().unwrap().get(&params("image-1")).await.unwrap();
    send(&service, try_on("image-1")).await.unwrap();
    assert_eq!(sent.load(Ordering::SeqCst), 2);
}

/// Sends requests in turn, and returns their statuses and the numbers of their tokens.
async fn in_turn(layer: &AiutaAuthLayer, inner: &Recorder, requests: usize) -> (Vec<StatusCode>, Vec<u64>) {
    let before = inner.count();
    let mut statuses = Vec::new();
    for _ in 0..requests {
        statuses.push(send(&service(layer, inner), try_on("image-1")).await.unwrap());
    }
    (statuses, numbers(inner)[before..].to_vec())
}

#[tokio::test]
async fn e5_waits_between_fetches_double_while_every_token_is_rejected() {
    let (clock, source) = (ManualClock::default(), Source::with_lifetime(secs(3600)));
    let layer = jwt_with_clock(&clock, source.clone());
    let inner = rejecting_everything();
    let (statuses, tokens) = in_turn(&layer, &inner, 100).await;
    assert_eq!(statuses, [StatusCode::UNAUTHORIZED; 100]);
    assert_eq!((source.calls(), inner.count()), (2, 100), "the others carry the last token, and are not replayed");
    assert_eq!((tokens[0], &tokens[1..]), (1, &[2; 99][..]));

    let mut fetched_at = Vec::new();
    for second in 1..=130 {
        clock.advance(secs(1));
        let before = source.calls();
        in_turn(&layer, &inner, 3).await;
        if source.calls() > before {
            fetched_at.push(second);
        }
    }
    assert_eq!(fetched_at, [1, 3, 7, 15, 31, 61, 91, 121], "waits of 1, 2, 4, 8, 16 and 30 s");
}

#[tokio::test]
async fn e5_success_and_invalidation_end_the_wait() {
    for ending in ["a success", "invalidate", "clear"] {
        let (clock, source) = (ManualClock::default(), Source::with_lifetime(secs(3600)));
        let layer = jwt_with_clock(&clock, source.clone());
        let rejected = RejectedTokens::default();
        let inner = Recorder::rejecting(&rejected);
        let tokens = layer.token_cache().unwrap();
        for number in 1..=2 {
            tokens.get(&params("image-1")).await.unwrap();
            rejected.add(tokens.get(&params("image-1")).await.unwrap().expose());
            // The first is replaced by the replay, and the second one is rejected in the next round.
            let status = send(&service(&layer, &inner), try_on("image-1")).await.unwrap();
            assert_eq!(status, 200, "round {number}");
        }
        // Each round ended with a success, so there was no wait.
        assert_eq!((source.calls(), tokens.stats().replays), (3, 2));

        // Two rejections without a success between.
        let inner = rejecting_everything();
        in_turn(&layer, &inner, 2).await;
        let calls = source.calls();
        in_turn(&layer, &inner, 3).await;
        assert_eq!(source.calls(), calls, "it waits");
        match ending {
            "a success" => assert_eq!(in_turn(&layer, &Recorder::new(), 1).await.0, [200]),
            "invalidate" => drop(tokens.invalidate(&params("image-1"))),
            _ => tokens.clear(),
        }
        in_turn(&layer, &inner, 1).await;
        assert_eq!(source.calls(), calls + 1, "{ending}");
    }
}

#[tokio::test]
async fn e5_other_statuses_than_401_are_a_success_unless_the_token_may_not_have_been_checked() {
    for (status, is_success) in
        [(200, true), (404, true), (403, true), (422, true), (408, false), (429, false), (503, false)]
    {
        let (clock, source) = (ManualClock::default(), Source::with_lifetime(secs(3600)));
        let layer = jwt_with_clock(&clock, source.clone());
        let inner = rejecting_everything();
        in_turn(&layer, &inner, 2).await;
        let other = Recorder::with_status(move |_| StatusCode::from_u16(status).unwrap());
        in_turn(&layer, &other, 1).await;
        in_turn(&layer, &inner, 1).await;
        assert_eq!(source.calls(), if is_success { 3 } else { 2 }, "{status}");
    }
}

#[tokio::test]
async fn e5_source_that_fails_is_asked_once_for_requests_that_are_rejected_in_turn() {
    let source = Source::from_fn(|number, request| async move {
        if number == 1 { Ok(numbered_token(1, &request, secs(60))) } else { Err(TokenError::transient("down")) }
    });
    let clock = ManualClock::default();
    let layer = jwt_with_clock(&clock, source.clone());
    let gates: Vec<_> = (0..20).map(|_| Gate::closed()).collect();
    let next = Arc::new(AtomicUsize::new(0));
    let inner = Recorder::with_response({
        let gates = gates.clone();
        move |_| {
            let gate = gates[next.fetch_add(1, Ordering::SeqCst) % gates.len()].clone();
            async move {
                gate.pass().await;
                Ok(Response::builder().status(401).body(Full::default()).unwrap())
            }
        }
    });
    layer.token_cache().unwrap().get(&params("image-1")).await.unwrap();
    let calls: Vec<_> = (0..20).map(|_| tokio::spawn(service(&layer, &inner).oneshot(try_on("image-1")))).collect();
    settle().await;
    for (gate, call) in gates.iter().zip(calls) {
        gate.open(1);
        assert_eq!(call.await.unwrap().unwrap().status(), 401);
    }
    assert_eq!((source.calls(), inner.count()), (2, 20));
    // After a second the source is asked again.
    clock.advance(secs(1));
    assert_eq!(
        layer.token_cache().unwrap().get(&params("image-1")).await.unwrap_err().kind(),
        AuthErrorKind::TokenSource
    );
    assert_eq!(source.calls(), 3);
}

#[tokio::test]
async fn e2_rejected_token_out_of_the_cache_of_the_source_is_replaced() {
    for cached in [true, false] {
        let source = Source::from_fn(move |_, request| async move {
            // The source's cache has a token that was revoked.
            let token = numbered_token(if request.force_refresh() { 2 } else { 1 }, &request, secs(60));
            Ok(if cached && !request.force_refresh() { token.out_of_cache(secs(20)) } else { token })
        });
        let layer = jwt_with_clock(&ManualClock::default(), source.clone());
        let inner = Recorder::with_status(|sent| match token_number(sent.token()) {
            1 => StatusCode::UNAUTHORIZED,
            _ => StatusCode::OK,
        });
        let calls = (0..1000).map(|_| {
            let service = service(&layer, &inner);
            async move { send(&service, try_on("image-1")).await.unwrap() }
        });
        let statuses = futures::future::join_all(calls).await;
        let rejected = statuses.iter().filter(|status| **status == StatusCode::UNAUTHORIZED).count();
        if cached {
            assert_eq!((rejected, source.calls()), (0, 2), "one more fetch for all");
        } else {
            assert!(rejected > 0, "a token that was made for the request would be rejected again");
        }
    }
}

#[tokio::test]
async fn e2_token_that_expired_before_the_401_came_is_replaced() {
    for (seconds, status, sent) in [(54, 401, 1), (55, 200, 2)] {
        let (clock, gate) = (ManualClock::default(), Gate::closed());
        let source = Source::new();
        let layer = jwt_with_clock(&clock, source.clone());
        let inner = Recorder::rejecting_after(&gate, |number| number == 1);
        let call = tokio::spawn(service(&layer, &inner).oneshot(try_on("image-1")));
        settle().await;
        clock.advance(secs(seconds));
        gate.open(1);
        assert_eq!(call.await.unwrap().unwrap().status(), status, "after {seconds} s");
        assert_eq!(inner.count(), sent);
    }
}

#[tokio::test]
async fn e1_rejected_token_returned_again_is_not_cached() {
    let source = Source::from_fn(|_, request| async move { Ok(numbered_token(1, &request, secs(60))) });
    let layer = jwt_with_clock(&ManualClock::default(), source.clone());
    let inner = Recorder::with_status(|_| StatusCode::UNAUTHORIZED);
    layer.token_cache().unwrap().get(&params("image-1")).await.unwrap();
    for _ in 0..3 {
        assert_eq!(send(&service(&layer, &inner), try_on("image-1")).await.unwrap(), 401);
    }
    assert_eq!((inner.count(), layer.token_cache().unwrap().stats().entries), (3, 0));
    let _: Jwt = layer.token_cache().unwrap().get(&params("image-1")).await.unwrap();
}

#[tokio::test]
async fn e5_late_401_of_an_older_token_does_not_bring_it_back() {
    // Token 2 is rejected while a request with token 1 is still in flight. The 401 of this request arrives while a
    // fetch replaces token 2. Then this fetch fails.
    let (older, fetch) = (Gate::closed(), Gate::closed());
    let source = Source::from_fn({
        let fetch = fetch.clone();
        move |number, request| {
            let fetch = fetch.clone();
            async move {
                if number < 3 {
                    return Ok(numbered_token(number, &request, secs(60)));
                }
                fetch.pass().await;
                Err(TokenError::transient("down"))
            }
        }
    });
    let clock = ManualClock::default();
    let layer = jwt_with_clock(&clock, source.clone());
    let inner = Recorder::with_response({
        let older = older.clone();
        move |request| {
            let gate = (token_number(request.token()) == 1).then(|| older.clone());
            async move {
                if let Some(gate) = gate {
                    gate.pass().await;
                }
                Ok(Response::builder().status(401).body(Full::default()).unwrap())
            }
        }
    });
    let tokens = layer.token_cache().unwrap();
    let spawn = || tokio::spawn(service(&layer, &inner).oneshot(try_on("image-1")));
    tokens.get(&params("image-1")).await.unwrap();
    let with_token_1 = spawn();
    settle().await;
    clock.advance(secs(49));
    tokens.get(&params("image-1")).await.unwrap();
    settle().await;
    let with_token_2 = spawn();
    settle().await;
    older.open(1);
    settle().await;
    fetch.open(1);
    for call in [with_token_1, with_token_2] {
        assert_eq!(call.await.unwrap().unwrap().status(), 401);
    }
    assert_eq!((numbers(&inner), source.calls()), (vec![1, 2], 3));

    // During the pause, requests carry token 2. The next fetch replaces token 2.
    older.open(1);
    assert_eq!(in_turn(&layer, &inner, 1).await, (vec![StatusCode::UNAUTHORIZED], vec![2]));
    clock.advance(secs(1));
    fetch.open(1);
    tokens.get(&params("image-1")).await.unwrap_err();
    let replaced: Vec<_> = source.requests()[2..]
        .iter()
        .map(|request| request.replaces().map(|token| token_number(token.expose())))
        .collect();
    assert_eq!(replaced, [Some(2), Some(2)]);
}
