//! Rules G1–G3: what a source may do to the layer, and what the signer signs. Rules D1 and D5, as far as they are the
//! signer's.

mod pauses;

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
async fn g1_source_fn_sees_the_request_and_returns_a_string_or_a_jwt() {
    let request = TokenRequest::new(params("image-1").with_partition("alice"), ManualClock::default().now());
    let request = request.replacing(Jwt::parse(token(&json!({"exp": 1}))).unwrap()).with_force_refresh();
    // A token whose claims tell what the closure has seen.
    fn seen(request: &TokenRequest) -> String {
        token(&json!({
            "params": request.params(),
            "partition": request.params().partition(),
            "now": unix_seconds(request.now()),
            "forced": request.force_refresh(),
            "replaces": request.replaces().map(|token| claims(token.expose())),
            "deadline": request.deadline().is_some(),
            "reason": format!("{:?}", request.reason()),
        }))
    }
    let as_string = source_fn(|request| async move { Ok::<_, BoxError>(seen(&request)) });
    let as_jwt = source_fn(|request| async move { Ok::<_, BoxError>(Jwt::parse(seen(&request))?.with_age(secs(3))) });
    let expected = seen(&request);
    assert_eq!(as_string.token(request.clone()).await.unwrap().expose(), expected);
    let token = as_jwt.token(request).await.unwrap();
    assert_eq!((token.expose(), token.age()), (expected.as_str(), Some(secs(3))), "the Jwt is not parsed again");

    // The layer's own request has a deadline and a reason.
    let layer = jwt(as_string).build().unwrap();
    let recorder = Recorder::new();
    send(&service(&layer, &recorder), try_on("image-1")).await.unwrap();
    let seen = claims(recorder.only().token());
    assert_eq!((&seen["deadline"], &seen["reason"], &seen["forced"]), (&json!(true), &json!("Miss"), &json!(false)));
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
