//! Rules F1–F5: readiness, other Tower middleware, errors and boxed stacks.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower::buffer::Buffer;
use tower::limit::{ConcurrencyLimitLayer, RateLimitLayer};
use tower::load_shed::LoadShedLayer;
use tower::timeout::TimeoutLayer;
use tower::util::{BoxCloneService, BoxCloneSyncService};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_aiuta_auth::testing::ManualClock;
use tower_aiuta_auth::{AiutaAuth, AiutaAuthLayer, AuthError, BoxError};

use crate::support::*;

type Req = Request<Full<Bytes>>;
type Res = Response<Full<Bytes>>;
type Boxed = BoxCloneService<Req, Res, BoxError>;

/// Sends misses, a hit, a replay and a foreign request through a stack that contains `layer` and ends at the recorder.
async fn exercise(layer: &AiutaAuthLayer, inner: &Recorder, rejected: &RejectedTokens, stack: Boxed, name: &str) {
    let tokens = layer.token_cache().unwrap();
    for image in ["image-1", "image-1", "image-2"] {
        assert_eq!(send(&stack, try_on(image)).await.unwrap(), StatusCode::OK, "{name}");
    }
    rejected.add(tokens.get(&params("image-1")).await.unwrap().expose());
    assert_eq!(send(&stack, try_on("image-1")).await.unwrap(), StatusCode::OK, "{name}: replayed");
    assert_eq!(send(&stack, get("https://example.com/photo")).await.unwrap(), StatusCode::OK, "{name}: foreign host");
    assert_eq!(inner.count(), 6, "{name}");
    let credentials: Vec<_> = inner.requests().iter().map(|seen| seen.credentials().len()).collect();
    assert_eq!(credentials, [1, 1, 1, 1, 1, 0], "{name}");
}

/// Returns a layer, its inner service and the tokens that the service rejects.
fn parts() -> (AiutaAuthLayer, Recorder, RejectedTokens) {
    let rejected = RejectedTokens::default();
    let inner = Recorder::with_status({
        let rejected = rejected.clone();
        move |seen| match seen.headers.contains_key("authorization") && rejected.contains(seen.token()) {
            true => StatusCode::UNAUTHORIZED,
            false => StatusCode::OK,
        }
    });
    // The source waits, so that a miss waits too.
    let source = Source::from_fn(|number, request| async move {
        tokio::task::yield_now().await;
        Ok(numbered_token(number, &request, secs(60)))
    });
    (jwt_with_clock(&ManualClock::default(), source), inner, rejected)
}

#[tokio::test(start_paused = true)]
async fn f1_layer_works_outside_other_middleware() {
    // The recorder and the services of these layers panic if they are called without being polled ready.
    type Make = fn(&AiutaAuthLayer, Recorder) -> Boxed;
    let stacks: [(&str, Make); 7] = [
        ("Buffer", |auth, inner| BoxCloneService::new(auth.layer(Buffer::new(inner, 1)))),
        ("ConcurrencyLimit", |auth, inner| {
            BoxCloneService::new(ServiceBuilder::new().layer(auth).layer(ConcurrencyLimitLayer::new(1)).service(inner))
        }),
        ("RateLimit", |auth, inner| {
            let limited = RateLimitLayer::new(1, Duration::from_millis(1)).layer(inner);
            BoxCloneService::new(auth.layer(Buffer::new(limited, 1)))
        }),
        ("LoadShed", |auth, inner| {
            BoxCloneService::new(ServiceBuilder::new().layer(auth).layer(LoadShedLayer::new()).service(inner))
        }),
        ("Timeout", |auth, inner| {
            BoxCloneService::new(ServiceBuilder::new().layer(auth).layer(TimeoutLayer::new(secs(9))).service(inner))
        }),
        ("FollowRedirect", |auth, inner| {
            let follow = tower_http::follow_redirect::FollowRedirectLayer::new();
            BoxCloneService::new(ServiceBuilder::new().layer(auth).layer(follow).service(inner))
        }),
        ("BoxCloneSyncService", |auth, inner| BoxCloneService::new(auth.layer(BoxCloneSyncService::new(inner)))),
    ];
    for (name, stack) in stacks {
        let (layer, inner, rejected) = parts();
        exercise(&layer, &inner, &rejected, stack(&layer, inner.clone()), name).await;
    }
}

#[tokio::test(start_paused = true)]
async fn f1_layer_works_inside_other_middleware() {
    type Make = fn(AiutaAuth<Recorder>) -> Boxed;
    let stacks: [(&str, Make); 7] = [
        ("Buffer", |auth| BoxCloneService::new(Buffer::new(auth, 1))),
        ("ConcurrencyLimit", |auth| BoxCloneService::new(ConcurrencyLimitLayer::new(1).layer(auth))),
        ("RateLimit", |auth| {
            let limited = RateLimitLayer::new(1, Duration::from_millis(1)).layer(auth);
            BoxCloneService::new(Buffer::new(limited, 1))
        }),
        ("LoadShed", |auth| BoxCloneService::new(LoadShedLayer::new().layer(auth))),
        ("Timeout", |auth| BoxCloneService::new(TimeoutLayer::new(secs(9)).layer(auth))),
        ("FollowRedirect", |auth| {
            BoxCloneService::new(tower_http::follow_redirect::FollowRedirectLayer::new().layer(auth))
        }),
        ("BoxCloneSyncService", |auth| BoxCloneService::new(BoxCloneSyncService::new(auth))),
    ];
    for (name, stack) in stacks {
        let (layer, inner, rejected) = parts();
        exercise(&layer, &inner, &rejected, stack(service(&layer, &inner)), name).await;
    }
}

#[tokio::test]
async fn f1_request_that_does_not_wait_uses_the_service_polled_ready() {
    // Clones of this service are never ready, so that only the one that was polled can be called.
    struct OnlyOriginal(Recorder, bool);
    impl Clone for OnlyOriginal {
        fn clone(&self) -> Self {
            Self(self.0.clone(), false)
        }
    }
    impl Service<Req> for OnlyOriginal {
        type Response = Res;
        type Error = BoxError;
        type Future = <Recorder as Service<Req>>::Future;
        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            if self.1 { Service::<Req>::poll_ready(&mut self.0, cx) } else { Poll::Pending }
        }
        fn call(&mut self, request: Req) -> Self::Future {
            self.0.call(request)
        }
    }
    let source = Source::new();
    let layer = jwt_with_clock(&ManualClock::default(), source);
    let inner = Recorder::new();
    let mut service = layer.layer(OnlyOriginal(inner.clone(), true));
    for request in [
        try_on("image-1"), // a miss with a source that does not wait
        try_on("image-1"), // a hit
        post(SKU_IMAGES, r#"{"uploaded_image_id":"image-1","sku_id":"dress-1"}"#),
        get("https://api.aiuta.com/v1/try_on_models"),
        get("https://example.com/"),
    ] {
        service.ready().await.unwrap().call(request).await.unwrap();
    }
    assert_eq!(inner.count(), 5);
}

#[tokio::test]
async fn f1_failed_request_keeps_no_permit() {
    let (layer, inner) = (jwt(Source::new()).build().unwrap(), Recorder::new());
    let mut failing = layer.layer(ConcurrencyLimitLayer::new(1).layer(inner));
    let other = failing.clone();
    let ready: &mut AiutaAuth<_> = ServiceExt::<Req>::ready(&mut failing).await.unwrap();
    assert!(ready.call(post(SKU_IMAGES, "{}")).await.is_err());
    // The service that failed is still alive, and the only permit is free.
    assert_eq!(other.oneshot(try_on("image-1")).now_or_never().unwrap().unwrap().status(), StatusCode::OK);
    drop(failing);
}

/// Retries everything that failed, once.
#[derive(Clone)]
struct Once(bool);

impl tower::retry::Policy<Req, Res, BoxError> for Once {
    type Future = std::future::Ready<()>;

    fn retry(&mut self, _: &mut Req, result: &mut Result<Res, BoxError>) -> Option<Self::Future> {
        let failed = result.as_ref().map_or(true, |response| response.status().is_server_error());
        (failed && !std::mem::replace(&mut self.0, true)).then(|| std::future::ready(()))
    }

    fn clone_request(&mut self, request: &Req) -> Option<Req> {
        Some(request.clone())
    }
}

#[tokio::test]
async fn f2_retry_authenticates_every_attempt() {
    let clock = ManualClock::default();
    let layer = jwt_with_clock(&clock, Source::new());
    // The token expires between the attempts.
    let inner = Recorder::with_status({
        let clock = clock.clone();
        move |seen| {
            clock.advance(secs(60));
            if token_number(seen.token()) == 1 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
        }
    });
    let stack =
        ServiceBuilder::new().layer(tower::retry::RetryLayer::new(Once(false))).layer(&layer).service(inner.clone());
    assert_eq!(send(&stack, try_on("image-1")).await.unwrap(), StatusCode::OK);
    let numbers: Vec<_> = inner.tokens().iter().map(|token| token_number(token)).collect();
    assert_eq!(numbers, [1, 2]);
}

#[tokio::test]
async fn f2_retry_fetches_again_after_a_source_error() {
    let source = Source::from_fn(|number, request| async move {
        match number {
            1 => Err(tower_aiuta_auth::TokenError::transient("busy")),
            _ => Ok(numbered_token(number, &request, secs(60))),
        }
    });
    let layer = jwt(source).build().unwrap();
    let inner = Recorder::new();
    let stack =
        ServiceBuilder::new().layer(tower::retry::RetryLayer::new(Once(false))).layer(&layer).service(inner.clone());
    assert_eq!(send(&stack, try_on("image-1")).await.unwrap(), StatusCode::OK);
    assert_eq!(token_number(inner.only().token()), 2);
}

#[tokio::test(start_paused = true)]
async fn f2_fetch_completes_after_a_timeout_outside_the_layer() {
    let source = Source::from_fn(|number, request| async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok(numbered_token(number, &request, secs(60)))
    });
    let layer = jwt_with_clock(&ManualClock::default(), source.clone());
    let inner = Recorder::new();
    let stack =
        ServiceBuilder::new().layer(TimeoutLayer::new(Duration::from_millis(30))).layer(&layer).service(inner.clone());
    assert!(send(&stack, try_on("image-1")).await.unwrap_err().is::<tower::timeout::error::Elapsed>());
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(send(&stack, try_on("image-1")).await.unwrap(), StatusCode::OK);
    assert_eq!((source.calls(), inner.count()), (1, 1));
}

#[derive(Debug, PartialEq)]
struct Broken(u8);

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("broken")
    }
}

impl std::error::Error for Broken {}

#[tokio::test]
async fn f3_inner_service_errors_pass_through() {
    let layer = jwt(Source::new()).build().unwrap();
    // From `call`, for each kind of request.
    let inner = tower::service_fn(|_: Req| async { Err::<Res, _>(Broken(7)) });
    for request in [get("https://example.com/"), get("https://api.aiuta.com/v1/try_on_models"), try_on("image-1")] {
        let error = layer.layer(inner).oneshot(request).await.unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&Broken(7)));
    }
    // From `poll_ready`.
    #[derive(Clone)]
    struct NeverReady;
    impl Service<Req> for NeverReady {
        type Response = Res;
        type Error = Broken;
        type Future = std::future::Ready<Result<Res, Broken>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
            Poll::Ready(Err(Broken(8)))
        }
        fn call(&mut self, _: Req) -> Self::Future {
            unreachable!("it is never ready")
        }
    }
    let error = layer.layer(NeverReady).oneshot(try_on("image-1")).await.unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&Broken(8)));
}

#[tokio::test]
async fn f3_auth_errors_downcast() {
    let layer = jwt(Source::new()).build().unwrap();
    let error = layer.layer(Recorder::new()).oneshot(post(SKU_IMAGES, "")).await.unwrap_err();
    assert!(error.is::<AuthError>());
}

#[tokio::test]
async fn f5_stack_boxed_once_works_in_a_spawned_task() {
    let layer = AiutaAuthLayer::api_key("key").unwrap();
    let stack = ServiceBuilder::new()
        .layer(TimeoutLayer::new(secs(9)))
        .layer(layer)
        .layer(TimeoutLayer::new(secs(3)))
        .service(Recorder::new());
    let stack: BoxCloneSyncService<Req, Res, BoxError> = BoxCloneSyncService::new(stack);
    let answer = tokio::spawn(async move { stack.oneshot(get("https://api.aiuta.com/v1/x")).await.unwrap().status() });
    assert_eq!(answer.await.unwrap(), StatusCode::OK);
}

#[test]
fn f1_inner_service_is_accessible() {
    let layer = AiutaAuthLayer::api_key("key").unwrap();
    let mut service = layer.layer(Arc::new(7));
    assert_eq!(**service.get_ref(), 7);
    *Arc::make_mut(service.get_mut()) = 8;
    assert_eq!(*service.into_inner(), 8);
}
