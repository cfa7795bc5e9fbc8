//! Allocations of a request in the layer. A hit that cannot be replayed allocates nothing.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use allocation_counter::measure;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service};
use tower_aiuta_auth::{AiutaAuth, AiutaAuthLayer, AuthParams, JwtSigner, NoReplay};

type Req = Request<Full<Bytes>>;

/// An inner service that allocates nothing. Responds with whether the request carries a token.
#[derive(Clone)]
struct Inner;

impl Service<Req> for Inner {
    type Response = Response<bool>;
    type Error = Infallible;
    type Future = Ready<Result<Response<bool>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        ready(Ok(Response::new(request.headers().contains_key(AUTHORIZATION))))
    }
}

fn jwt() -> AiutaAuth<Inner> {
    let signer = JwtSigner::hs256("issuer", "secret").expect("valid secrets");
    AiutaAuthLayer::jwt("65f0c0ffee65f0c0ffee65f0", signer).expect("valid settings").layer(Inner)
}

fn try_on() -> Req {
    let params = AuthParams::new().with("uploaded_image_id", "photo-1").with("sku_ids", ["dress-1", "belt-7"]);
    let body = r#"{"uploaded_image_id":"photo-1","sku_ids":["dress-1","belt-7"]}"#;
    Request::post("https://api.aiuta.com/digital-try-on/v1/sku_images_operations")
        .header("content-type", "application/json")
        .extension(params)
        .body(Full::from(body))
        .expect("a request")
}

/// Returns a poll of an operation whose header map is full, so that one more header makes it grow.
fn poll_with_full_headers() -> Req {
    let mut request = Request::get("https://api.aiuta.com/digital-try-on/v1/sku_images_operations/1");
    let headers = request.headers_mut().expect("a valid request");
    while headers.len() < 4 || headers.len() < headers.capacity() {
        let name = HeaderName::try_from(format!("x-{}", headers.len())).expect("a name");
        headers.insert(name, HeaderValue::from_static("value"));
    }
    request.body(Full::default()).expect("a request")
}

/// Returns the number of allocations of one request, and whether it was sent with a token.
fn send(service: &mut AiutaAuth<Inner>, request: Req) -> (u64, bool) {
    let mut authorized = false;
    let mut request = Some(request);
    let allocations = measure(|| {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(service.poll_ready(&mut cx).is_ready());
        let request = request.take().expect("measured once");
        let Poll::Ready(Ok(response)) = pin!(service.call(request)).poll(&mut cx) else {
            panic!("the request has to wait")
        };
        authorized = response.into_body();
    });
    (allocations.count_total, authorized)
}

#[test]
fn hit_with_no_replay_allocates_nothing() {
    let mut service = jwt();
    let without_replay = || {
        let mut request = try_on();
        request.extensions_mut().insert(NoReplay);
        request
    };
    let (miss, _) = send(&mut service, without_replay());
    assert!(miss > 0, "the first request fetches a token");
    assert_eq!(send(&mut service, without_replay()), (0, true));
}

#[test]
fn hit_without_params_allocates_nothing() {
    let signer = JwtSigner::hs256("issuer", "secret").expect("valid secrets");
    let layer = AiutaAuthLayer::builder().jwt("65f0c0ffee65f0c0ffee65f0", signer).allow_unbound_tokens(true);
    let mut service = layer.build().expect("valid settings").layer(Inner);
    let list = || {
        let mut request = try_on();
        *request.method_mut() = Method::GET;
        request.extensions_mut().clear();
        request.extensions_mut().insert(NoReplay);
        request
    };
    send(&mut service, list());
    assert_eq!(send(&mut service, list()), (0, true));
}

#[test]
fn hit_with_replay_allocates_no_more_than_its_copy() {
    let mut service = jwt();
    send(&mut service, try_on());

    let original = try_on();
    let copy = measure(|| {
        // The layer boxes the copy to keep its future small.
        let (headers, extensions) = (original.headers().clone(), original.extensions().clone());
        black_box(Box::new((headers, extensions, original.uri().clone(), original.body().clone())));
    });
    let (allocations, authorized) = send(&mut service, try_on());
    assert!(authorized);
    assert!(allocations > 0, "the request is copied for the replay");
    assert!(allocations <= copy.count_total, "{allocations} allocations, {} for the copy", copy.count_total);
}

#[test]
fn inserting_a_credential_allocates_no_more_than_the_header_map() {
    let mut plain = poll_with_full_headers();
    let insertion = measure(|| {
        plain.headers_mut().insert(HeaderName::from_static("x-user-id"), HeaderValue::from_static("id"));
    });
    assert!(insertion.count_total > 0, "the header map has to grow");

    let api_key = AiutaAuthLayer::api_key("key").expect("a valid key").layer(Inner);
    for mut service in [api_key, jwt()] {
        // The first request includes allocations made once per process and thread.
        send(&mut service, poll_with_full_headers());
        let (allocations, _) = send(&mut service, poll_with_full_headers());
        assert_eq!(allocations, insertion.count_total);
    }
}

/// Checks the counter itself: reading a body allocates.
#[test]
fn allocation_counter_counts() {
    let body = try_on().into_body();
    let reading = measure(|| {
        let collected = futures::executor::block_on(body.collect()).expect("a complete body");
        assert!(!black_box(collected.to_bytes().to_vec()).is_empty());
    });
    assert!(reading.count_total > 0);
}
