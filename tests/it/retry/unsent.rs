//! Rule F6: while no attempt of a request was sent, `AiutaRetryPolicy` repeats any request whose token could not be
//! fetched for the moment. Once one was sent, `NoReplay` and the numbers of retries decide.

use http::header::LOCATION;
use tower::retry::Policy;
use tower::util::MapRequestLayer;
use tower_aiuta_auth::{Access, AiutaAuthLayer, NoReplay};
use tower_http::follow_redirect::FollowRedirectLayer;
use tower_http::follow_redirect::policy::clone_body_fn;

use super::*;

/// A path that needs a token.
const ITEMS: &str = "https://api.aiuta.com/v1/sku_items";

/// Returns a source that fails with `error` in the calls that `fails` selects. If it waits, the layer returns the error
/// from its future, otherwise already from `call`.
fn source(waits: bool, error: fn(&'static str) -> TokenError, fails: fn(usize) -> bool) -> Source {
    Source::from_fn(move |number, request| async move {
        if waits {
            tokio::task::yield_now().await;
        }
        if fails(number) { Err(error("busy")) } else { Ok(numbered_token(number, &request, secs(60))) }
    })
}

/// Returns a source whose first call fails.
fn failing_once(waits: bool) -> Source {
    source(waits, TokenError::transient, |number| number == 1)
}

fn layer(source: &Source) -> AiutaAuthLayer {
    jwt_with_clock(&ManualClock::default(), source.clone())
}

/// A request that needs a token.
fn secured(method: &str, uri: &str) -> Request<Full<Bytes>> {
    let mut request = request(method, uri);
    request.extensions_mut().insert(params("image-1"));
    request.extensions_mut().insert(Access::Jwt);
    request
}

fn no_replay(mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    request.extensions_mut().insert(NoReplay);
    request
}

/// Requests of all kinds: two starts, an upload, two others.
fn all_kinds() -> [Request<Full<Bytes>>; 5] {
    [
        secured("POST", SKU_IMAGES),
        secured("POST", TRY_ON),
        secured("POST", UPLOAD),
        secured("GET", ITEMS),
        secured("DELETE", "https://api.aiuta.com/v1/uploaded_images/7"),
    ]
}

/// Sends a request through policy and layer to `inner`. Returns the result, and how often the source was asked and the
/// request was sent.
async fn run(
    policy: AiutaRetryPolicy,
    source: Source,
    inner: &Recorder,
    request: Request<Full<Bytes>>,
) -> (Result<StatusCode, BoxError>, [usize; 2]) {
    let stack = ServiceBuilder::new().layer(RetryLayer::new(policy)).layer(layer(&source)).service(inner.clone());
    (send(&stack, request).await, [source.calls(), inner.count()])
}

/// An inner service whose connection is lost whenever it has received a request.
fn disconnecting() -> Recorder {
    Recorder::with_response(|_| async { Err("connection reset".into()) })
}

fn unavailable() -> Recorder {
    Recorder::with_status(|_| StatusCode::SERVICE_UNAVAILABLE)
}

#[tokio::test(start_paused = true)]
async fn f6_request_whose_token_failed_is_repeated_and_sent_once() {
    for waits in [false, true] {
        for request in all_kinds().into_iter().chain(all_kinds().map(no_replay)) {
            let name = format!("{} {}, source waits: {waits}", request.method(), request.uri());
            let (result, counts) = run(short_backoff(), failing_once(waits), &Recorder::new(), request).await;
            assert_eq!((result.unwrap(), counts), (StatusCode::OK, [2, 1]), "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn f6_unsent_request_is_repeated_as_often_as_a_read() {
    for read_retries in [0, 1, 4] {
        let policy = || short_backoff().read_retries(read_retries).upload_retries(7).start_retries(7);
        for request in all_kinds().into_iter().chain(all_kinds().map(no_replay)) {
            let source = source(true, TokenError::transient, |_| true);
            let (result, counts) = run(policy(), source, &Recorder::new(), request).await;
            assert!(auth_error(result).is_transient());
            assert_eq!(counts, [read_retries as usize + 1, 0]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn f6_permanent_auth_error_is_not_repeated() {
    for error in [TokenError::new as fn(&'static str) -> TokenError, TokenError::denied] {
        for request in all_kinds() {
            let (result, counts) =
                run(short_backoff(), source(false, error, |_| true), &Recorder::new(), request).await;
            assert_eq!((error_kind(result), counts), (AuthErrorKind::TokenSource, [1, 0]));
        }
    }
    let (result, counts) = run(short_backoff(), Source::new(), &Recorder::new(), post(SKU_IMAGES, "{}")).await;
    assert_eq!((error_kind(result), counts), (AuthErrorKind::MissingParams, [0, 0]));
}

#[tokio::test(start_paused = true)]
async fn f6_unsent_request_waits_for_retry_after_and_needs_the_budget() {
    let busy = || {
        Source::from_fn(|number, request| async move {
            match number {
                1 => Err(TokenError::transient("busy").with_retry_after(secs(20))),
                _ => Ok(numbered_token(number, &request, secs(60))),
            }
        })
    };
    let started = Instant::now();
    let (result, counts) = run(short_backoff(), busy(), &Recorder::new(), try_on("image-1")).await;
    assert_eq!((result.unwrap(), counts, started.elapsed().as_secs()), (StatusCode::OK, [2, 1], 20));

    let policy = short_backoff().budget(TpsBudget::new(secs(10), 0, 0.0));
    let (result, counts) = run(policy, busy(), &Recorder::new(), try_on("image-1")).await;
    assert_eq!((error_kind(result), counts), (AuthErrorKind::TokenSource, [1, 0]));
}

#[tokio::test(start_paused = true)]
async fn f6_no_replay_is_sent_once() {
    let policy = || short_backoff().start_retries(2);
    for request in all_kinds() {
        for status in [503, 429, 408] {
            let inner = Recorder::with_status(move |_| StatusCode::from_u16(status).unwrap());
            let (result, counts) = run(policy(), Source::new(), &inner, no_replay(request.clone())).await;
            assert_eq!((result.unwrap().as_u16(), counts), (status, [1, 1]));
        }
        let (result, counts) = run(policy(), Source::new(), &disconnecting(), no_replay(request.clone())).await;
        assert_eq!((result.unwrap_err().to_string().as_str(), counts), ("connection reset", [1, 1]));
        // Also if the first attempt was not sent.
        let (result, counts) = run(policy(), failing_once(true), &unavailable(), no_replay(request)).await;
        assert_eq!((result.unwrap(), counts), (StatusCode::SERVICE_UNAVAILABLE, [2, 1]));
    }
    // Without a layer, any result counts as sent.
    let request = || no_replay(request("GET", MODELS));
    assert_eq!(attempts(policy(), request(), 503).await, 1);
    assert_eq!(attempts_without_response(policy(), request()).await, 1);
}

#[tokio::test(start_paused = true)]
async fn f6_retries_before_and_after_sending_share_one_count() {
    let policy = |starts| short_backoff().start_retries(starts);
    // The first of three attempts of a read is not sent.
    let (_, counts) = run(policy(0), failing_once(false), &unavailable(), secured("GET", ITEMS)).await;
    assert_eq!(counts, [2, 2]);
    // A start may be sent again only if `start_retries` allows it. The attempt that was not sent is one of those.
    for (starts, sent) in [(0, 1), (1, 1), (2, 2)] {
        let (_, counts) = run(policy(starts), failing_once(false), &disconnecting(), try_on("image-1")).await;
        assert_eq!(counts, [2, sent], "start_retries({starts})");
    }
}

#[tokio::test(start_paused = true)]
async fn f6_start_is_not_repeated_if_the_token_of_its_redirect_failed() {
    // The redirect is followed with `GET`, to another URI and to that of the start.
    for location in ["/v1/sku_items", SKU_IMAGES] {
        for (start_retries, counts) in [(0, [2, 1]), (1, [3, 2])] {
            let source = source(true, TokenError::transient, |number| number == 2);
            let inner = Recorder::with_response(move |request| async move {
                let redirects = request.method == "POST";
                let response = Response::builder().status(if redirects { 303 } else { 200 });
                Ok(response.header(LOCATION, location).body(Full::default()).unwrap())
            });
            let stack = ServiceBuilder::new()
                .layer(RetryLayer::new(short_backoff().start_retries(start_retries)))
                .layer(FollowRedirectLayer::with_policy(clone_body_fn(|body: &Full<Bytes>| Some(body.clone()))))
                .layer(jwt(source.clone()).allow_unbound_tokens(true).build().unwrap())
                .service(inner.clone());
            // The params are in the body, so that the `GET` needs another token than the start.
            let start = post(SKU_IMAGES, serde_json::to_string(&params("image-1")).unwrap());
            let result = send(&stack, start).await;
            let starts = inner.requests().iter().filter(|request| request.method == "POST").count();
            assert_eq!([source.calls(), starts], counts, "{location}, start_retries({start_retries}): {result:?}");
        }
    }
}

/// A retry that repeats everything once.
#[derive(Clone)]
struct RepeatOnce(bool);

impl<R> Policy<Request<Full<Bytes>>, Response<R>, BoxError> for RepeatOnce {
    type Future = std::future::Ready<()>;

    fn retry(&mut self, _: &mut Request<Full<Bytes>>, _: &mut Result<Response<R>, BoxError>) -> Option<Self::Future> {
        std::mem::replace(&mut self.0, false).then(|| std::future::ready(()))
    }

    fn clone_request(&mut self, request: &Request<Full<Bytes>>) -> Option<Request<Full<Bytes>>> {
        Some(request.clone())
    }
}

/// Loses the connection each time, and forgets the token.
fn disconnecting_without_token(layer: &AiutaAuthLayer) -> Recorder {
    let tokens = layer.token_cache().unwrap().clone();
    Recorder::with_response(move |_| {
        tokens.clear();
        async { Err("connection reset".into()) }
    })
}

#[tokio::test(start_paused = true)]
async fn f6_start_is_not_repeated_if_a_retry_inside_has_sent_it() {
    // Both tries of the retry inside fail. Then the first one is sent, and the second one fails. The error is the
    // layer's own, but the layer has set the mark, which requests have from the second attempt on.
    for waits in [false, true] {
        let source = source(waits, TokenError::transient, |number| number != 3);
        let layer = layer(&source);
        let inner = disconnecting_without_token(&layer);
        let stack = ServiceBuilder::new()
            .layer(RetryLayer::new(short_backoff().read_retries(9)))
            .layer(RetryLayer::new(RepeatOnce(true)))
            .layer(&layer)
            .service(inner.clone());
        let result = send(&stack, try_on("image-1")).await;
        assert_eq!((error_kind(result), source.calls(), inner.count()), (AuthErrorKind::TokenSource, 4, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn f6_start_is_not_repeated_if_a_policy_inside_has_sent_it() {
    // The policy inside sends the start, repeats it, and gets an error of the layer. Already in the first attempt of
    // the policy outside, that error must not look as if nothing was sent.
    let source = source(true, TokenError::transient, |number| number != 1);
    let layer = layer(&source);
    let inner = disconnecting_without_token(&layer);
    let stack = ServiceBuilder::new()
        .layer(RetryLayer::new(short_backoff().read_retries(9)))
        .layer(RetryLayer::new(short_backoff().start_retries(1)))
        .layer(&layer)
        .service(inner.clone());
    let result = send(&stack, try_on("image-1")).await;
    assert_eq!((error_kind(result), source.calls(), inner.count()), (AuthErrorKind::TokenSource, 2, 1));
}

#[tokio::test(start_paused = true)]
async fn f6_start_is_not_repeated_if_its_uri_is_changed_inside() {
    // The policy can't tell that the layer's error is about the request that it keeps.
    for (request, counts) in [(request("POST", "/v1/sku_try_on_operations"), [1, 0]), (request("GET", "/v1/x"), [2, 1])]
    {
        let (source, inner) = (failing_once(false), Recorder::new());
        let stack = ServiceBuilder::new()
            .layer(RetryLayer::new(short_backoff()))
            .layer(MapRequestLayer::new(|mut request: Request<Full<Bytes>>| {
                *request.uri_mut() = format!("https://api.aiuta.com{}", request.uri().path()).parse().unwrap();
                request.extensions_mut().insert(params("image-1"));
                request
            }))
            .layer(layer(&source))
            .service(inner.clone());
        drop(send(&stack, request).await);
        assert_eq!([source.calls(), inner.count()], counts);
    }
}

#[tokio::test(start_paused = true)]
async fn f6_layer_for_another_origin_does_not_count_as_sending() {
    let outer = jwt(Source::new()).origins(["https://gateway.example"]).build().unwrap();
    let (source, inner) = (source(true, TokenError::transient, |number| number < 3), Recorder::new());
    let stack = ServiceBuilder::new()
        .layer(RetryLayer::new(short_backoff()))
        .layer(outer)
        .layer(layer(&source))
        .service(inner.clone());
    assert_eq!(send(&stack, try_on("image-1")).await.unwrap(), StatusCode::OK);
    assert_eq!((source.calls(), inner.count()), (3, 1));
}
