//! What the layer adds to a request, beside the same request through the bare inner service: `cargo bench --bench overhead`.
//!
//! The inner service reads every header of what it gets, so that nothing the layer did can be optimized away. Requests are made
//! outside of what is timed.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use divan::{Bencher, black_box};
use http::{Request, Response};
use http_body_util::Full;
use tower::{Layer, Service};
use tower_aiuta_auth::{AiutaAuthLayer, AuthParams, Jwt, NoReplay, TokenError, TokenRequest, TokenSource};

type Req = Request<Full<Bytes>>;

fn main() {
    divan::main();
}

/// Answers with the number of bytes in the request's headers.
#[derive(Clone)]
struct Inner;

impl Service<Req> for Inner {
    type Response = Response<usize>;
    type Error = Infallible;
    type Future = Ready<Result<Response<usize>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let bytes = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        ready(Ok(Response::new(black_box(bytes))))
    }
}

/// Makes the same token for all params; the cache takes it for many.
struct OneToken;

impl TokenSource for OneToken {
    async fn token(&self, _: TokenRequest) -> Result<Jwt, TokenError> {
        // {"exp":4000000000}, and a signature of the usual length
        let signature = "c".repeat(43);
        Ok(Jwt::parse(format!("eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjQwMDAwMDAwMDB9.{signature}"))?)
    }
}

fn jwt() -> AiutaAuthLayer {
    AiutaAuthLayer::jwt("65f0c0ffee65f0c0ffee65f0", OneToken).expect("the settings are right")
}

fn request(method: &str, path: &str, body: impl Into<Bytes>) -> Req {
    Request::builder()
        .method(method)
        .uri(format!("https://api.aiuta.com/digital-try-on/v1/{path}"))
        .header("content-type", "application/json")
        .header("accept", "application/json")
        .header("user-agent", "bench/1.0")
        .body(Full::new(body.into()))
        .expect("a request")
}

fn try_on(number: usize) -> Req {
    let body = format!(r#"{{"uploaded_image_id":"user_image-06f5948c-{number}","sku_ids":["dress-1","belt-7"]}}"#);
    request("POST", "sku_images_operations", body)
}

fn with_params(number: usize) -> Req {
    let mut request = try_on(number);
    let params = AuthParams::new()
        .with("uploaded_image_id", format!("user_image-06f5948c-{number}"))
        .with("sku_ids", ["dress-1", "belt-7"]);
    request.extensions_mut().insert(params);
    request
}

fn run<S: Service<Req, Response = Response<usize>>>(service: &mut S, request: Req) -> usize {
    let mut cx = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    match pin!(service.call(request)).poll(&mut cx) {
        Poll::Ready(Ok(response)) => response.into_body(),
        _ => unreachable!("nothing here has to wait"),
    }
}

/// Times `layer` around the inner service on the requests that `make` makes for the numbers below `keys`, each sent once before.
fn bench(bencher: Bencher<'_, '_>, layer: &AiutaAuthLayer, keys: usize, make: impl Fn(usize) -> Req) {
    let mut service = layer.layer(Inner);
    for number in 0..keys {
        run(&mut service, make(number));
    }
    let mut next = (0..keys).cycle();
    bencher
        .with_inputs(|| make(next.next().expect("a cycle has no end")))
        .bench_local_values(|request| run(&mut service, request));
}

#[divan::bench]
fn floor_try_on(bencher: Bencher<'_, '_>) {
    bencher.with_inputs(|| with_params(1)).bench_local_values(|request| run(&mut Inner, request));
}

#[divan::bench]
fn api_key(bencher: Bencher<'_, '_>) {
    let layer = AiutaAuthLayer::api_key("0123456789abcdef0123456789abcdef").expect("the key is right");
    bench(bencher, &layer, 1, try_on);
}

#[divan::bench]
fn user_id(bencher: Bencher<'_, '_>) {
    bench(bencher, &jwt(), 1, |_| request("GET", "sku_images_operations/06f5948c", ""));
}

#[divan::bench(args = [1, 1_000, 10_000])]
fn jwt_hit_by_extension(bencher: Bencher<'_, '_>, keys: usize) {
    bench(bencher, &jwt(), keys, |number| {
        let mut request = with_params(number);
        request.extensions_mut().insert(NoReplay);
        request
    });
}

#[divan::bench(args = [1, 1_000, 10_000])]
fn jwt_hit_by_extension_able_to_replay(bencher: Bencher<'_, '_>, keys: usize) {
    bench(bencher, &jwt(), keys, with_params);
}

#[divan::bench]
fn jwt_hit_by_body(bencher: Bencher<'_, '_>) {
    bench(bencher, &jwt(), 1_000, try_on);
}

#[divan::bench]
fn untrusted_origin(bencher: Bencher<'_, '_>) {
    bench(bencher, &jwt(), 1, |_| {
        Request::get("https://storage.example/photo.png").body(Full::default()).expect("a request")
    });
}
