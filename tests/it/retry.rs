//! `AiutaRetryPolicy`: which requests are repeated, after which responses, and how long it waits. Time is paused, so
//! the measured time is the time that the policy waited.

mod unsent;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{Channel, Full};
use tokio::time::Instant;
use tower::retry::budget::TpsBudget;
use tower::retry::{Retry, RetryLayer};
use tower::{ServiceBuilder, ServiceExt};
use tower_aiuta_auth::testing::ManualClock;
use tower_aiuta_auth::{AiutaRetryPolicy, AuthErrorKind, BoxError, TokenError};

use crate::support::*;

const MODELS: &str = "https://api.aiuta.com/v1/try_on_models";
const UPLOAD: &str = "https://api.aiuta.com/digital-try-on/v1/uploaded_images";

/// Returns a policy with a short backoff, so that a measured wait comes from `Retry-After`.
fn short_backoff() -> AiutaRetryPolicy {
    AiutaRetryPolicy::new().backoff(Duration::from_millis(1), Duration::from_millis(1)).unwrap()
}

fn request(method: &str, uri: &str) -> Request<Full<Bytes>> {
    Request::builder().method(method).uri(uri).body(Full::from("the body")).unwrap()
}

/// Returns how often a request is sent to a server that always responds with `status`.
async fn attempts(policy: AiutaRetryPolicy, request: Request<Full<Bytes>>, status: u16) -> usize {
    let inner = Recorder::with_status(move |_| StatusCode::from_u16(status).unwrap());
    assert_eq!(send(&Retry::new(policy, inner.clone()), request).await.unwrap(), status);
    assert!(inner.requests().iter().all(|seen| seen.body == "the body"));
    inner.count()
}

/// Returns how often a request is sent if the connection fails each time.
async fn attempts_without_response(policy: AiutaRetryPolicy, request: Request<Full<Bytes>>) -> usize {
    let inner = Recorder::with_response(|_| async { Err("connection reset".into()) });
    let error = send(&Retry::new(policy, inner.clone()), request).await.unwrap_err();
    assert_eq!(error.to_string(), "connection reset");
    inner.count()
}

#[tokio::test(start_paused = true)]
async fn retry_repeats_only_operations_that_cost_nothing() {
    for (method, uri, sent) in [
        ("GET", MODELS, 3),
        ("GET", "https://api.aiuta.com/v1/sku_try_on_operations/7", 3),
        ("HEAD", MODELS, 3),
        ("DELETE", "https://api.aiuta.com/v1/uploaded_images/7", 3),
        ("POST", UPLOAD, 3),
        ("POST", "https://api.aiuta.com/studio/v1/uploaded_images/", 3),
        ("POST", SKU_IMAGES, 1),
        ("POST", TRY_ON, 1),
        ("POST", "https://api.aiuta.com/studio/v1/on_figure_operations", 1),
        ("PATCH", "https://api.aiuta.com/v1/sku_items/7/capabilities", 1),
    ] {
        assert_eq!(attempts(short_backoff(), request(method, uri), 503).await, sent, "{method} {uri}");
        assert_eq!(attempts_without_response(short_backoff(), request(method, uri)).await, sent, "{method} {uri}");
    }
}

#[tokio::test(start_paused = true)]
async fn retry_repeats_only_after_408_429_and_5xx() {
    for (status, sent) in
        [(200, 1), (304, 1), (400, 1), (401, 1), (403, 1), (404, 1), (408, 3), (422, 1), (429, 3), (500, 3), (503, 3)]
    {
        assert_eq!(attempts(short_backoff(), request("GET", MODELS), status).await, sent, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn retry_counts_are_configurable() {
    let policy = || short_backoff().read_retries(1).upload_retries(0).start_retries(1);
    assert_eq!(attempts(policy(), request("GET", MODELS), 503).await, 2);
    assert_eq!(attempts(policy(), request("POST", UPLOAD), 503).await, 1);
    // After a response the operation may have started, so it is not repeated. `start_retries` accepts that risk for
    // lost connections.
    assert_eq!(attempts(policy(), request("POST", SKU_IMAGES), 503).await, 1);
    assert_eq!(attempts_without_response(policy(), request("POST", SKU_IMAGES)).await, 2);
}

#[tokio::test(start_paused = true)]
async fn retry_backs_off_exponentially_with_jitter() {
    let mut first_waits = std::collections::HashSet::new();
    for _ in 0..8 {
        let started = Instant::now();
        let times = Arc::new(std::sync::Mutex::new(Vec::new()));
        let inner = Recorder::with_status({
            let times = times.clone();
            move |_| {
                times.lock().unwrap().push(started.elapsed());
                StatusCode::SERVICE_UNAVAILABLE
            }
        });
        send(&Retry::new(AiutaRetryPolicy::new().read_retries(5), inner), get(MODELS)).await.unwrap();
        let times = times.lock().unwrap().clone();
        let waits: Vec<_> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
        for (wait, base) in waits.iter().zip([1.0, 2.0, 4.0, 8.0, 8.0]) {
            assert!((base * 0.99..=base * 1.51).contains(wait), "{waits:?}");
        }
        first_waits.insert(times[1]);
    }
    assert!(first_waits.len() > 1, "no jitter: all waited {first_waits:?}");
}

/// Responds first with 429 and these headers, then with 200. Returns the final status and the time until then.
async fn status_and_wait(policy: AiutaRetryPolicy, headers: &'static [(&str, &str)]) -> (StatusCode, Duration) {
    let count = Arc::new(AtomicUsize::new(0));
    let inner = Recorder::with_response(move |_| {
        let first = count.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            let mut response = Response::builder().status(if first { 429 } else { 200 });
            for (name, value) in headers {
                response = response.header(*name, *value);
            }
            Ok(response.body(Full::default()).unwrap())
        }
    });
    let started = Instant::now();
    let status = send(&Retry::new(policy, inner), get(MODELS)).await.unwrap();
    (status, Duration::from_secs_f64(started.elapsed().as_secs_f64().round()))
}

#[tokio::test(start_paused = true)]
async fn retry_waits_for_retry_after() {
    let ok = |seconds| (StatusCode::OK, secs(seconds));
    assert_eq!(status_and_wait(short_backoff(), &[("retry-after", "7")]).await, ok(7));
    assert_eq!(status_and_wait(short_backoff(), &[("retry-after", " 0 ")]).await, ok(0));
    const BY_DATE: &[(&str, &str)] =
        &[("date", "Tue, 15 Nov 1994 08:12:31 GMT"), ("retry-after", "Tue, 15 Nov 1994 08:12:40 GMT")];
    assert_eq!(status_and_wait(short_backoff(), BY_DATE).await, ok(9));
    // A date in the past, and an invalid value.
    assert_eq!(status_and_wait(short_backoff(), &[("retry-after", "Tue, 15 Nov 1994 08:12:40 GMT")]).await, ok(0));
    assert_eq!(status_and_wait(short_backoff(), &[("retry-after", "soon")]).await, ok(0));
    // Longer than the maximum.
    assert_eq!(
        status_and_wait(short_backoff(), &[("retry-after", "31")]).await,
        (StatusCode::TOO_MANY_REQUESTS, secs(0))
    );
    assert_eq!(status_and_wait(short_backoff().max_retry_after(secs(60)), &[("retry-after", "31")]).await, ok(31));
}

#[tokio::test(start_paused = true)]
async fn retry_clones_share_one_budget() {
    // No reserve, and successful requests add nothing.
    let policy = short_backoff().budget(TpsBudget::new(secs(10), 0, 0.0));
    assert_eq!(attempts(policy, request("GET", MODELS), 503).await, 1);

    // Two successful requests allow one retry.
    let policy = short_backoff().budget(TpsBudget::new(secs(10), 0, 0.5));
    for _ in 0..2 {
        assert_eq!(attempts(policy.clone(), request("GET", MODELS), 200).await, 1);
    }
    assert_eq!(attempts(policy.clone(), request("GET", MODELS), 503).await, 2);
    assert_eq!(attempts(policy, request("GET", MODELS), 503).await, 1);
}

#[tokio::test(start_paused = true)]
async fn retry_sends_an_uncloneable_body_once() {
    let (mut sender, body) = Channel::<Bytes, BoxError>::new(2);
    let inner = Recorder::with_status(|_| StatusCode::SERVICE_UNAVAILABLE);
    let upload = Request::post(UPLOAD).body(BoxBody::new(body)).unwrap();
    sender.send_data(Bytes::from("a photo")).await.unwrap();
    drop(sender);
    assert_eq!(Retry::new(short_backoff(), inner.clone()).oneshot(upload).await.unwrap().status(), 503);
    assert_eq!(inner.only().body, "a photo");

    // An empty body is cloneable.
    let inner = Recorder::with_status(|_| StatusCode::SERVICE_UNAVAILABLE);
    let read = Request::get(MODELS).body(BoxBody::<Bytes, BoxError>::new(http_body_util::BodyExt::map_err(
        http_body_util::Empty::new(),
        |never| match never {},
    )));
    Retry::new(short_backoff(), inner.clone()).oneshot(read.unwrap()).await.unwrap();
    assert_eq!(inner.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn f2_retry_repeats_a_transient_source_error() {
    for (error, expected) in [
        (TokenError::transient as fn(&'static str) -> TokenError, Ok(StatusCode::OK)),
        (TokenError::new, Err(AuthErrorKind::TokenSource)),
        (TokenError::denied, Err(AuthErrorKind::TokenSource)),
    ] {
        let source = Source::from_fn(move |number, request| async move {
            if number == 1 { Err(error("no")) } else { Ok(numbered_token(number, &request, secs(60))) }
        });
        let layer = jwt(source).clock(ManualClock::default()).allow_unbound_tokens(true).build().unwrap();
        let stack = ServiceBuilder::new().layer(RetryLayer::new(short_backoff())).layer(layer).service(Recorder::new());
        // A read request that needs a token.
        let result = send(&stack, get("https://api.aiuta.com/v1/sku_items")).await;
        assert_eq!(result.map_err(|error| error_kind(Err::<(), _>(error))), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn retry_outside_the_layer_does_not_multiply_replays() {
    let layer = jwt_with_clock(&ManualClock::default(), Source::new());
    let inner = Recorder::with_status(|_| StatusCode::UNAUTHORIZED);
    let stack = ServiceBuilder::new().layer(RetryLayer::new(short_backoff())).layer(&layer).service(inner.clone());
    layer.token_cache().unwrap().get(&params("image-1")).await.unwrap();
    assert_eq!(send(&stack, try_on("image-1")).await.unwrap(), StatusCode::UNAUTHORIZED);
    assert_eq!(inner.count(), 2, "the policy does not repeat a 401");
}

#[test]
fn retry_rejects_an_invalid_backoff() {
    for (min, max) in [(2, 1), (0, 0)] {
        let error = AiutaRetryPolicy::new().backoff(secs(min), secs(max)).unwrap_err();
        assert_eq!(error.setting(), "backoff");
    }
}
