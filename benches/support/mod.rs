//! Shared by the benches: typical requests, and an inner service that looks at every header.
#![allow(dead_code, unreachable_pub, reason = "each bench uses only a part")]

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde::Serialize;
use tower::Service;
use tower_aiuta_auth::{AiutaAuthBuilder, AiutaAuthLayer, AuthParams, JwtSigner, NoReplay};

pub type Req = Request<Full<Bytes>>;

/// Returns whether to measure: `cargo bench` passes `--bench`, `cargo test` only checks that the bench runs.
pub fn measuring() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

const ISSUER: &str = "65f0c0ffee65f0c0ffee65f1";
const SECRET: &str = "a secret of thirty-two characters";
pub const SUBSCRIPTION_ID: &str = "65f0c0ffee65f0c0ffee65f0";

/// Returns a builder of a layer with typical tokens of about 330 bytes, each different. Their lifetime exceeds the
/// length of a bench.
pub fn jwt() -> AiutaAuthBuilder {
    let signer = JwtSigner::hs256(ISSUER, SECRET).expect("issuer and secret are valid");
    AiutaAuthLayer::builder().jwt(SUBSCRIPTION_ID, signer.lifetime(Duration::from_secs(3600)))
}

/// The claims that the signer of [`jwt`] signs, for use with jsonwebtoken directly.
#[derive(Serialize)]
pub struct Claims {
    iss: &'static str,
    iat: u64,
    exp: u64,
    #[serde(flatten)]
    params: AuthParams,
}

impl Claims {
    pub fn new(number: usize) -> Self {
        Self { iss: ISSUER, iat: 1_767_225_600, exp: 1_767_229_200, params: params(number) }
    }
}

/// Signs with jsonwebtoken directly, with the secret of [`jwt`].
pub fn encoder() -> impl Fn(&Claims) -> String {
    // With both backends in the build, jsonwebtoken needs a choice.
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    move |claims| encode(&Header::default(), claims, &key).expect("the claims can be signed")
}

/// A request that polls an operation, which needs no token.
pub fn poll(origin: &str) -> Req {
    Request::get(format!("{origin}/digital-try-on/v1/sku_images_operations/06f5948c-3f0e-4b52-9c1d-0123456789ab"))
        .header("accept", "application/json")
        .header("user-agent", "bench/1.0")
        .body(Full::default())
        .expect("a request")
}

/// The request that starts try-on number `number`, with its params in the body.
pub fn try_on(origin: &str, number: usize) -> Req {
    let body = format!(r#"{{"uploaded_image_id":"{}","sku_ids":["{}","{}"]}}"#, image(number), DRESS, BELT);
    Request::post(format!("{origin}/digital-try-on/v1/sku_images_operations"))
        .header("content-type", "application/json")
        .header("accept", "application/json")
        .header("user-agent", "bench/1.0")
        .body(Full::new(body.into()))
        .expect("a request")
}

/// The same request with its params in its extensions too.
pub fn try_on_with_params(origin: &str, number: usize) -> Req {
    let mut request = try_on(origin, number);
    request.extensions_mut().insert(params(number));
    request
}

/// The same request with its params in its extensions, and never replayed.
pub fn without_replay(origin: &str, number: usize) -> Req {
    let mut request = try_on_with_params(origin, number);
    request.extensions_mut().insert(NoReplay);
    request
}

/// The params of try-on number `number`.
pub fn params(number: usize) -> AuthParams {
    AuthParams::new().with("uploaded_image_id", image(number)).with("sku_ids", [DRESS, BELT])
}

const DRESS: &str = "summer-dress-0417-blue";
const BELT: &str = "belt-0007";

fn image(number: usize) -> String {
    format!("user_image-06f5948c-3f0e-4b52-9c1d-{number:012x}")
}

/// Answers with the number of bytes in the request's headers.
#[derive(Clone, Debug)]
pub struct Inner;

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

/// Sends a request through a service that never has to wait.
pub fn run<S: Service<Req, Response = Response<usize>>>(service: &mut S, request: Req) -> usize {
    let mut cx = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    match pin!(service.call(request)).poll(&mut cx) {
        Poll::Ready(Ok(response)) => response.into_body(),
        _ => unreachable!("the service never has to wait"),
    }
}
