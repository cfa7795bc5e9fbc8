//! Rules G1–G3: what a source may do to the layer, and what the signer signs. Rules D1 and D5, as far as they are the
//! signer's.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tower_aiuta_auth::testing::{FakeAiuta, ManualClock};
use tower_aiuta_auth::{
    AiutaAuthLayer, AuthErrorKind, AuthParams, BoxError, BoxTokenSource, Clock, Jwt, JwtSigner, TokenError,
    TokenRequest, TokenSource, source_fn,
};

use crate::support::*;

#[tokio::test]
async fn g1_next_request_fetches_again_after_any_error() {
    for (name, first, expected) in [
        ("a permanent error", Err(TokenError::new("broken")), AuthErrorKind::TokenSource),
        ("a transient error", Err(TokenError::transient("busy")), AuthErrorKind::TokenSource),
        ("a denial", Err(TokenError::denied("not yours")), AuthErrorKind::TokenSource),
        ("an invalid token", Jwt::parse("").map_err(TokenError::from), AuthErrorKind::InvalidToken),
    ] {
        let first = std::sync::Mutex::new(Some(first));
        let source = Source::from_fn(move |number, request| {
            let result = first.lock().unwrap().take();
            async move { result.unwrap_or_else(|| Ok(numbered_token(number, &request, secs(60)))) }
        });
        let layer = jwt(source).build().unwrap();
        let inner = Recorder::new();
        let service = service(&layer, &inner);
        assert_eq!(error_kind(send(&service, try_on("image-1")).await), expected, "{name}");
        assert_eq!(inner.count(), 0, "{name}: no request is sent");
        assert_eq!(send(&service, try_on("image-1")).await.unwrap(), 200, "{name}");
    }
}

/// Panics in its first call, or when that call is polled. Later calls succeed.
struct Panicking(&'static str, AtomicUsize);

impl TokenSource for Panicking {
    fn token(&self, request: TokenRequest) -> impl Future<Output = Result<Jwt, TokenError>> + Send {
        let first = self.1.fetch_add(1, Ordering::SeqCst) == 0;
        assert!(!(first && self.0 == "called"), "called");
        async move {
            tokio::task::yield_now().await;
            assert!(!(first && self.0 == "polled"), "polled");
            Ok(numbered_token(1, &request, secs(60)))
        }
    }
}

#[tokio::test]
async fn g1_source_panic_is_an_error_for_the_waiting_requests() {
    // A panic in the call happens before other requests can join. A panic in a later poll fails all three.
    for (when, failures) in [("called", 1), ("polled", 3)] {
        let layer = jwt(Panicking(when, AtomicUsize::new(0))).build().unwrap();
        let service = service(&layer, &Recorder::new());
        let callers = (0..3).map(|_| tokio::spawn(tower::ServiceExt::oneshot(service.clone(), try_on("image-1"))));
        let mut kinds = Vec::new();
        for caller in callers.collect::<Vec<_>>() {
            let result = caller.await.expect("the panic is contained in the fetch");
            kinds.extend(result.err().map(|error| error_kind(Err::<(), _>(error))));
        }
        assert_eq!(kinds, vec![AuthErrorKind::TokenSource; failures], "{when}");
        assert_eq!(send(&service, try_on("image-1")).await.unwrap(), 200, "{when}");
    }
}

#[tokio::test(start_paused = true)]
async fn g1_panic_in_the_drop_of_a_source_call_is_contained() {
    struct PanicsWhenDropped;
    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }
    struct HangsThenPanics;
    impl TokenSource for HangsThenPanics {
        async fn token(&self, _: TokenRequest) -> Result<Jwt, TokenError> {
            let _panics = PanicsWhenDropped;
            std::future::pending().await
        }
    }
    let layer = jwt(HangsThenPanics).build().unwrap();
    let service = service(&layer, &Recorder::new());
    for _ in 0..2 {
        assert_eq!(error_kind(send(&service, try_on("image-1")).await), AuthErrorKind::FetchTimeout);
    }
}

#[tokio::test]
async fn g1_invalid_token_is_never_sent() {
    let header = "eyJhbGciOiJIUzI1NiJ9";
    let payload = "eyJleHAiOjQwMDAwMDAwMDB9"; // {"exp":4000000000}
    let bad = [
        String::new(),
        "   ".to_owned(),
        "\n".to_owned(),
        "token".to_owned(),
        format!("{header}.{payload}"),
        format!("{header}.{payload}."),
        format!("{header}.{payload}.c2ln.c2ln"),
        format!(".{payload}.c2ln"),
        format!("{header}.{payload}.c2ln\n"),
        format!(" {header}.{payload}.c2ln"),
        format!("{header}.{payload}.c2ln\r\nx-api-key: 1"),
        format!("{header}.{payload}.ünsigned"),
        format!("{header}.{payload}=.c2ln"),
        format!("{header}.W10.c2ln"),                  // []
        format!("{header}.WzEsMl0.c2ln"),              // [1,2]
        format!("{header}.eyJleHAiOiJzb29uIn0.c2ln"),  // {"exp":"soon"}
        format!("e30.{payload}.c2ln"),                 // {} as header
        format!("eyJhbGciOiJub25lIn0.{payload}.c2ln"), // {"alg":"none"}
        format!("{header}.not-json.c2ln"),
    ];
    for token in bad {
        let given = token.clone();
        let layer = jwt(source_fn(move |_| {
            let token = given.clone();
            async move { Ok::<_, BoxError>(token) }
        }))
        .build()
        .unwrap();
        let inner = Recorder::new();
        let error = auth_error(send(&service(&layer, &inner), try_on("image-1")).await);
        assert_eq!(error.kind(), AuthErrorKind::InvalidToken, "{token:?}");
        assert_eq!((inner.count(), error.is_transient()), (0, false), "{token:?}");
    }
}

#[tokio::test]
async fn g1_error_keeps_cause_transience_and_retry_after() {
    let source = source_fn(|_| async {
        Err::<String, _>(TokenError::transient("the vault is sealed").with_retry_after(secs(7)))
    });
    let layer = jwt(source).build().unwrap();
    let error = auth_error(send(&service(&layer, &Recorder::new()), try_on("image-1")).await);
    assert!(error.is_transient());
    assert_eq!(error.retry_after(), Some(secs(7)));
    let cause = std::error::Error::source(&error).unwrap();
    assert!(cause.downcast_ref::<TokenError>().unwrap().is_transient());
    assert_eq!(std::error::Error::source(cause).unwrap().to_string(), "the vault is sealed");
}

/// Returns a source whose first call fails with this `retry_after`. Later calls succeed.
fn pausing(pause: std::time::Duration) -> Source {
    Source::from_fn(move |number, request| async move {
        match number {
            1 => Err(TokenError::transient("too many").with_retry_after(pause)),
            _ => Ok(numbered_token(number, &request, secs(60))),
        }
    })
}

#[tokio::test]
async fn g2_source_is_not_called_during_retry_after() {
    let source = pausing(secs(30));
    let clock = ManualClock::default();
    let layer = jwt_with_clock(&clock, source.clone());
    let service = service(&layer, &Recorder::new());
    let ask = async |image: &str| auth_error(send(&service, try_on(image)).await);

    assert_eq!(ask("image-1").await.retry_after(), Some(secs(30)));
    clock.advance(secs(20));
    // The pause applies to other params as well.
    for image in ["image-1", "image-2"] {
        let error = ask(image).await;
        assert_eq!((error.kind(), error.retry_after()), (AuthErrorKind::TokenSource, Some(secs(10))));
        assert!(error.is_transient());
    }
    clock.advance(secs(9));
    ask("image-1").await;
    assert_eq!(source.calls(), 1);
    clock.advance(secs(1));
    assert_eq!(send(&service, try_on("image-1")).await.unwrap(), 200);
}

#[tokio::test]
async fn g2_retry_after_pauses_only_the_partition() {
    let source = Source::from_fn(|number, request| async move {
        match request.params().partition() {
            Some("alice") => Err(TokenError::denied("too many").with_retry_after(secs(30))),
            _ => Ok(numbered_token(number, &request, secs(60))),
        }
    });
    let layer = jwt_with_clock(&ManualClock::default(), source.clone());
    let service = service(&layer, &Recorder::new());
    let ask =
        async |image: &str, partition: &str| send(&service, with_params(params(image).with_partition(partition))).await;
    assert!(ask("image-1", "alice").await.is_err());
    assert!(ask("image-2", "alice").await.is_err());
    assert_eq!(source.calls(), 1);
    assert!(ask("image-1", "bob").await.is_ok());
    assert!(send(&service, try_on("image-1")).await.is_ok());
}

#[tokio::test]
async fn g2_pause_is_at_most_five_minutes() {
    let clock = ManualClock::default();
    let source = pausing(secs(3600));
    let layer = jwt_with_clock(&clock, source.clone());
    let service = service(&layer, &Recorder::new());
    assert!(send(&service, try_on("image-1")).await.is_err());
    clock.advance(secs(299));
    assert!(send(&service, try_on("image-1")).await.is_err());
    assert_eq!(source.calls(), 1);
    clock.advance(secs(1));
    assert_eq!(send(&service, try_on("image-1")).await.unwrap(), 200);
}

#[tokio::test(start_paused = true)]
async fn g2_retry_after_is_at_most_five_minutes() {
    let five_minutes = Some(secs(300));
    assert_eq!(TokenError::new("").with_retry_after(secs(300)).retry_after(), five_minutes);
    assert_eq!(TokenError::new("").with_retry_after(Duration::MAX).retry_after(), five_minutes);
    let layer = jwt_with_clock(&ManualClock::default(), pausing(Duration::MAX));
    for _ in 0..2 {
        let error = auth_error(send(&service(&layer, &Recorder::new()), try_on("image-1")).await);
        assert_eq!(error.retry_after(), five_minutes);
        // This would overflow without the limit.
        let _ = std::time::Instant::now() + error.retry_after().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn g2_pause_for_this_key_does_not_pause_others() {
    for partition in [None, Some("alice")] {
        let of = |image: &str| partition.into_iter().fold(params(image), AuthParams::with_partition);
        let source = Source::from_fn(|number, request| async move {
            match number {
                1 => Err(TokenError::transient("too many").with_retry_after(secs(30)).for_this_key()),
                _ => Ok(numbered_token(number, &request, secs(60))),
            }
        });
        let clock = ManualClock::default();
        let layer = jwt_with_clock(&clock, source.clone());
        let tokens = layer.token_cache().unwrap();
        assert!(tokens.get(&of("image-1")).await.is_err());
        let error = tokens.get(&of("image-1")).await.unwrap_err();
        assert_eq!((error.retry_after(), source.calls()), (Some(secs(30)), 1));
        tokens.get(&of("image-2")).await.unwrap();
        tokens.get(&of("image-1").with_partition("bob")).await.unwrap();
        clock.advance(secs(30));
        tokens.get(&of("image-1")).await.unwrap();
        assert_eq!(source.calls(), 4);
    }
}

#[tokio::test(start_paused = true)]
async fn g2_longest_of_several_pauses_counts() {
    // The pause of the source, that of a partition, and that of a key. All calls start before the first one fails.
    let gate = Gate::closed();
    let source = Source::from_fn({
        let gate = gate.clone();
        move |number, request| {
            let gate = gate.clone();
            async move {
                if number <= 3 {
                    gate.pass().await;
                }
                let error = TokenError::transient("busy").with_retry_after(secs(10 * number as u64));
                match number {
                    1 | 2 => Err(error),
                    3 => Err(error.for_this_key()),
                    _ => Ok(numbered_token(number, &request, secs(60))),
                }
            }
        }
    });
    let clock = ManualClock::default();
    let layer = jwt_with_clock(&clock, source.clone());
    let tokens = layer.token_cache().unwrap();
    let key = params("image-3").with_partition("alice");
    let of_alice = params("image-2").with_partition("alice");
    let others = params("image-1");
    let first = [others.clone(), of_alice.clone(), key.clone()].map(|params| {
        let tokens = tokens.clone();
        tokio::spawn(async move { tokens.get(&params).await })
    });
    settle().await;
    gate.open(3);
    for call in first {
        assert!(call.await.unwrap().is_err());
    }
    for (params, seconds) in [(&others, 10), (&of_alice, 20), (&key, 30)] {
        assert_eq!(tokens.get(params).await.unwrap_err().retry_after(), Some(secs(seconds)));
    }
    for params in [&others, &of_alice, &key] {
        clock.advance(secs(9));
        assert!(tokens.get(params).await.is_err());
        clock.advance(secs(1));
        tokens.get(params).await.unwrap();
    }
}

#[tokio::test]
async fn g2_paused_keys_and_partitions_are_bounded() {
    for by_key in [true, false] {
        let source = Source::from_fn(move |number, _| async move {
            let error = TokenError::transient("too many").with_retry_after(secs(if number == 1 { 10 } else { 60 }));
            Err(if by_key { error.for_this_key() } else { error })
        });
        let layer = jwt_with_clock(&ManualClock::default(), source.clone());
        let tokens = layer.token_cache().unwrap();
        let key = |number: usize| match by_key {
            true => params(&format!("image-{number}")),
            false => params("image-1").with_partition(number.to_string()),
        };
        for number in 0..1025 {
            tokens.get(&key(number)).await.unwrap_err();
        }
        assert_eq!(source.calls(), 1025);
        // The pause that would have ended first was dropped.
        for number in 1..1025 {
            tokens.get(&key(number)).await.unwrap_err();
        }
        assert_eq!(source.calls(), 1025);
        tokens.get(&key(0)).await.unwrap_err();
        assert_eq!(source.calls(), 1026);
    }
}

#[tokio::test]
async fn g2_longer_pause_is_not_cut_short() {
    let (clock, gate) = (ManualClock::default(), Gate::closed());
    let source = {
        let gate = gate.clone();
        Source::from_fn(move |number, request| {
            let gate = gate.clone();
            async move {
                match number {
                    1 => {
                        gate.pass().await;
                        Err(TokenError::transient("busy").with_retry_after(secs(1)))
                    }
                    2 => Err(TokenError::transient("busy").with_retry_after(secs(60))),
                    _ => Ok(numbered_token(number, &request, secs(60))),
                }
            }
        })
    };
    let layer = jwt_with_clock(&clock, source.clone());
    let service = service(&layer, &Recorder::new());
    // The first call started before the second failed, and fails later.
    let tokens = layer.token_cache().unwrap().clone();
    let (keys, settled) = ((params("image-1"), params("image-2")), settle());
    let (first, second) = futures::future::join(tokens.get(&keys.0), async {
        settled.await;
        let second = tokens.get(&keys.1).await;
        gate.open(1);
        second
    })
    .await;
    assert!(first.is_err() && second.is_err());
    clock.advance(secs(30));
    assert!(send(&service, try_on("image-3")).await.is_err(), "the pause of 60 s goes on");
    clock.advance(secs(30));
    assert_eq!(send(&service, try_on("image-3")).await.unwrap(), 200);
}

#[tokio::test]
async fn g2_cached_tokens_are_served_during_a_pause() {
    let source = Source::from_fn(|number, request| async move {
        match number {
            2 => Err(TokenError::transient("too many").with_retry_after(secs(300))),
            _ => Ok(numbered_token(number, &request, secs(60))),
        }
    });
    let clock = ManualClock::default();
    let layer = jwt_with_clock(&clock, source.clone());
    let service = service(&layer, &Recorder::new());
    assert!(send(&service, try_on("image-1")).await.is_ok());
    assert!(send(&service, try_on("image-2")).await.is_err());
    // The token becomes due for a refresh, which the pause prevents.
    for _ in 0..5 {
        clock.advance(secs(10));
        assert!(send(&service, try_on("image-1")).await.is_ok());
    }
    assert_eq!(source.calls(), 2);
    clock.advance(secs(10));
    assert_eq!(error_kind(send(&service, try_on("image-1")).await), AuthErrorKind::TokenSource);
    assert_eq!(source.calls(), 2);
}

/// Returns the claims of the token that the signer makes.
async fn signed(signer: &JwtSigner, request: TokenRequest) -> Result<serde_json::Value, TokenError> {
    Ok(claims(signer.token(request).await?.expose()))
}

#[tokio::test]
async fn g3_payload_holds_issuer_times_and_params() {
    let clock = ManualClock::default();
    let now = unix_seconds(clock.now());
    let signer = JwtSigner::hs256("issuer-1", b"secret").unwrap();
    let params = AuthParams::new()
        .with("uploaded_image_id", "image-1")
        .with("sku_ids", ["dress-1", "belt-7"])
        .with("hijab_protection", true)
        .with("product_id", 42)
        .with_partition("customer-1");
    let request = TokenRequest::new(params, clock.now());
    let mut expected = json!({
        "iss": "issuer-1", "iat": now - 5, "exp": now + 60,
        "uploaded_image_id": "image-1", "sku_ids": ["dress-1", "belt-7"], "hijab_protection": true, "product_id": 42,
    });
    assert_eq!(signed(&signer, request.clone()).await.unwrap(), expected);

    let signer = signer.lifetime(secs(600)).backdate(secs(0));
    expected["iat"] = now.into();
    expected["exp"] = (now + 600).into();
    assert_eq!(signed(&signer, request.clone()).await.unwrap(), expected);
    // A forced token within the same second differs.
    expected["iat"] = (now - 1).into();
    assert_eq!(signed(&signer, request.with_force_refresh()).await.unwrap(), expected);
}

/// The signer does not parse its tokens, so the times that it stores must equal those that parsing finds.
#[tokio::test]
async fn g3_signed_token_has_the_times_that_parsing_finds() {
    let clock = ManualClock::default();
    let request = TokenRequest::new(params("image-1"), clock.now());
    for lifetime in [secs(60), secs(u64::MAX)] {
        let signed = JwtSigner::hs256("issuer-1", "secret").unwrap().lifetime(lifetime);
        let signed = signed.token(request.clone()).await.unwrap();
        let parsed = Jwt::parse(signed.expose()).unwrap();
        assert_eq!((signed.issued_at(), signed.expires_at()), (parsed.issued_at(), parsed.expires_at()));
        assert!(signed.issued_at() < signed.expires_at());
    }
    // Over 8 KiB (rule B4), because the issuer id is part of the token.
    let too_long = JwtSigner::hs256("i".repeat(8 * 1024), "secret").unwrap();
    let inner = Recorder::new();
    let layer = jwt(too_long).build().unwrap();
    assert_eq!(error_kind(send(&service(&layer, &inner), try_on("image-1")).await), AuthErrorKind::InvalidToken);
    assert_eq!(inner.count(), 0);
}

#[tokio::test]
async fn g3_param_named_like_a_registered_claim_is_an_error() {
    let signer = JwtSigner::hs256("issuer-1", "secret").unwrap();
    for name in ["iss", "sub", "aud", "exp", "nbf", "iat", "jti"] {
        let layer = jwt(signer.clone()).build().unwrap();
        let inner = Recorder::new();
        let request = with_params(params("image-1").with(name, "mine"));
        let error = auth_error(send(&service(&layer, &inner), request).await);
        assert_eq!((error.kind(), inner.count()), (AuthErrorKind::TokenSource, 0), "{name}");
        let source = std::error::Error::source(&error).and_then(|error| error.source()).unwrap();
        assert!(source.to_string().contains(&format!("`{name}`")), "{source}");
    }
}

#[tokio::test]
async fn g3_independent_verifier_accepts_the_tokens() {
    let clock = ManualClock::default();
    let aiuta = FakeAiuta::new().with_clock(clock.clone());
    let signer = JwtSigner::hs256(aiuta.issuer(), aiuta.secret()).unwrap();
    let layer = AiutaAuthLayer::builder().jwt(aiuta.subscription_id(), signer).clock(clock.clone()).build().unwrap();
    let mut request = try_on("image-1");
    *request.body_mut() = http_body_util::Full::from(r#"{"uploaded_image_id":"image-1","sku_id":"dress-1"}"#);
    // 400: the image is unknown, so the token was accepted.
    let response = tower::ServiceExt::oneshot(tower::Layer::layer(&layer, aiuta), request).await.unwrap();
    assert_eq!(response.status(), 400);
}

#[tokio::test]
async fn g1_shared_and_boxed_sources_are_sources() {
    let source = Arc::new(Source::new());
    for layer in
        [jwt(Arc::clone(&source)).build().unwrap(), jwt(BoxTokenSource::new(Arc::clone(&source))).build().unwrap()]
    {
        assert!(send(&service(&layer, &Recorder::new()), try_on("image-1")).await.is_ok());
    }
    assert_eq!(source.calls(), 2);
}

#[tokio::test]
async fn d1_signer_sets_age_to_time_since_iat() {
    let clock = ManualClock::default();
    let signer = JwtSigner::hs256("issuer-1", "secret").unwrap();
    let request = TokenRequest::new(params("image-1"), clock.now());
    let age = async |signer: &JwtSigner, request: TokenRequest| {
        let token = signer.token(request.clone()).await.unwrap();
        assert!(!token.is_out_of_cache());
        assert_eq!(token.issued_at().unwrap() + token.age().unwrap(), request.now());
        token.age().unwrap()
    };
    assert_eq!(age(&signer, request.clone()).await, secs(5));
    assert_eq!(age(&signer, request.clone().with_force_refresh()).await, secs(6));
    assert_eq!(age(&signer, request.clone().with_force_refresh()).await, secs(7));
    let signer = signer.backdate(secs(60));
    assert_eq!(age(&signer, request.with_force_refresh()).await, secs(61));

    // `iat` is a whole second, so it lacks the fraction too.
    let fraction = std::time::Duration::from_millis(900);
    let request = TokenRequest::new(params("image-1"), clock.now() + fraction);
    assert_eq!(age(&signer, request).await, secs(60) + fraction);
}

#[tokio::test]
async fn d5_signer_never_makes_same_token_twice_when_forced() {
    let clock = ManualClock::default();
    let now = unix_seconds(clock.now());
    let signer = JwtSigner::hs256("issuer-1", "secret").unwrap();
    let request = TokenRequest::new(params("image-1"), clock.now());
    let mut tokens = HashSet::new();
    let unforced = signer.token(request.clone()).await.unwrap();
    tokens.insert(unforced.expose().to_owned());
    for number in 1..=100 {
        // A clone shares the count.
        let token = signer.clone().token(request.clone().with_force_refresh()).await.unwrap();
        let claims = claims(token.expose());
        assert_eq!((claims["iat"].as_u64(), claims["exp"].as_u64()), (Some(now - 5 - number), Some(now + 60)));
        assert!(tokens.insert(token.expose().to_owned()), "{number}");
    }
    // Tokens that are not forced stay the same.
    assert_eq!(signer.token(request.clone()).await.unwrap().expose(), unforced.expose());

    // The partition is not signed.
    for partition in ["alice", "bob"] {
        let params = params("image-1").with_partition(partition);
        let request = TokenRequest::new(params, clock.now()).with_force_refresh();
        assert!(tokens.insert(signer.token(request).await.unwrap().expose().to_owned()), "{partition}");
    }
    // The next second begins anew, and the previous one is remembered.
    let next = TokenRequest::new(params("image-1"), clock.now() + secs(1)).with_force_refresh();
    assert_eq!(signed(&signer, next).await.unwrap()["iat"], now + 1 - 6);
    assert!(tokens.insert(signer.token(request.with_force_refresh()).await.unwrap().expose().to_owned()));
}

#[tokio::test]
async fn d5_signer_counts_forced_tokens_of_each_key_apart() {
    let clock = ManualClock::default();
    let signer = JwtSigner::hs256("issuer-1", "secret").unwrap();
    let forced = async |image: &str| {
        let request = TokenRequest::new(params(image), clock.now()).with_force_refresh();
        signed(&signer, request).await.unwrap()["iat"].as_u64().unwrap()
    };
    for _ in 0..100 {
        forced("image-1").await;
    }
    // A few keys may share the counter of another one.
    let mut not_affected = 0;
    for key in 0..20 {
        not_affected += usize::from(forced(&format!("other-{key}")).await == unix_seconds(clock.now()) - 6);
    }
    assert!(not_affected > 10, "{not_affected}");
}

#[test]
fn d5_signer_makes_distinct_forced_tokens_on_several_threads() {
    let clock = ManualClock::default();
    let signer = JwtSigner::hs256("issuer-1", "secret").unwrap();
    let mut tokens: Vec<String> = std::thread::scope(|scope| {
        let threads = (0..4_u64).map(|thread| {
            let (signer, clock) = (signer.clone(), clock.clone());
            scope.spawn(move || {
                let forced = (0..100).map(|number| {
                    // The threads read the clock at the end of one second and at the beginning of the next.
                    let now = clock.now() + secs((thread + number / 7) % 2);
                    let request = TokenRequest::new(params("image-1"), now).with_force_refresh();
                    futures::executor::block_on(signer.token(request)).unwrap().expose().to_owned()
                });
                forced.collect::<Vec<_>>()
            })
        });
        threads.collect::<Vec<_>>().into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 400);
}

#[tokio::test]
async fn d5_signer_counts_forced_tokens_through_rotations() {
    let signer = JwtSigner::hs256("issuer-1", "old").unwrap();
    let request = TokenRequest::new(params("image-1"), ManualClock::default().now()).with_force_refresh();
    let mut tokens = HashSet::new();
    for secret in ["old", "new", "old", "new", "old"] {
        signer.rotate("issuer-1", secret).unwrap();
        for _ in 0..3 {
            let token = signer.token(request.clone()).await.unwrap();
            assert!(tokens.insert(token.expose().to_owned()), "{secret}");
        }
    }
}
