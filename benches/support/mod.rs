//! What the benches share: requests as they are in use, each another, and an inner service that looks at all it gets.
#![allow(dead_code, unreachable_pub, reason = "each bench uses a part of it")]

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

/// Whether to measure: `cargo bench` says so, `cargo test` only wants to know that it works.
pub fn measuring() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

const ISSUER: &str = "65f0c0ffee65f0c0ffee65f1";
const SECRET: &str = "a secret of thirty-two characters";
pub const SUBSCRIPTION_ID: &str = "65f0c0ffee65f0c0ffee65f0";

/// A layer with tokens as they are in use, about 330 bytes, each another. They outlive the bench, so that no time of day is in it.
pub fn jwt() -> AiutaAuthBuilder {
    let signer = JwtSigner::hs256(ISSUER, SECRET).expect("both are right");
    AiutaAuthLayer::builder().jwt(SUBSCRIPTION_ID, signer.lifetime(Duration::from_secs(3600)))
}

/// What the signer of [`jwt`] signs, for jsonwebtoken itself.
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

/// jsonwebtoken itself, with the key of [`jwt`].
pub fn encoder() -> impl Fn(&Claims) -> String {
    // Where both of its backends are in the build, it has to be told which.
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    move |claims| encode(&Header::default(), claims, &key).expect("it is signed")
}

/// A poll of an operation, which needs no token.
pub fn poll(origin: &str) -> Req {
    Request::get(format!("{origin}/digital-try-on/v1/sku_images_operations/06f5948c-3f0e-4b52-9c1d-0123456789ab"))
        .header("accept", "application/json")
        .header("user-agent", "bench/1.0")
        .body(Full::default())
        .expect("a request")
}

/// The request that starts try-on number `number`.
pub fn try_on(origin: &str, number: usize) -> Req {
    let body = format!(r#"{{"uploaded_image_id":"{}","sku_ids":["{}","{}"]}}"#, image(number), DRESS, BELT);
    Request::post(format!("{origin}/digital-try-on/v1/sku_images_operations"))
        .header("content-type", "application/json")
        .header("accept", "application/json")
        .header("user-agent", "bench/1.0")
        .body(Full::new(body.into()))
        .expect("a request")
}

/// The same, its params in its extensions.
pub fn try_on_with_params(origin: &str, number: usize) -> Req {
    let mut request = try_on(origin, number);
    request.extensions_mut().insert(params(number));
    request
}

/// The same, never to be sent twice.
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
        _ => unreachable!("nothing here has to wait"),
    }
}
