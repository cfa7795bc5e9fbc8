//! Rule C4 if `call` runs outside a runtime and its future is polled on one. The source, and a body that is not
//! buffered, are first polled by the future. The service that was polled ready is kept until something is pending.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::Request;
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service};
use tower_aiuta_auth::TokenError;

use super::*;

type Client = AiutaAuth<ConcurrencyLimit<Recorder>>;

/// Returns a client that is ready, and holds the only permit of the service below the layer.
fn ready_client(source: &Source, inner: &Recorder) -> Client {
    let layer = jwt(source.clone()).build().unwrap();
    let mut client = layer.layer(ConcurrencyLimit::new(inner.clone(), 1));
    assert!(ready(&mut client), "the permit is free");
    client
}

/// Polls the service ready. Returns whether it is.
fn ready(client: &mut Client) -> bool {
    ServiceExt::<Request<Full<Bytes>>>::ready(client).now_or_never().is_some_and(|ready| ready.is_ok())
}

#[test]
fn c4_call_outside_a_runtime_leaves_a_source_with_timers_to_the_future() {
    let source = Source::from_fn(|call, request| {
        // The source may need the runtime before its future is polled.
        let waits = tokio::time::sleep(secs(1));
        async move {
            waits.await;
            Ok(numbered_token(call, &request, secs(60)))
        }
    });
    let inner = Recorder::new();
    let mut client = ready_client(&source, &inner);
    let response = paused_runtime().block_on(client.call(try_on("image-1"))).unwrap();
    assert_eq!((response.status().as_u16(), source.calls(), inner.count()), (200, 1, 1));
}

#[test]
fn c4_call_outside_a_runtime_leaves_a_source_with_sockets_to_the_future() {
    let runtime = runtime();
    let listener = runtime.block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move { listener.accept().await.unwrap().0.write_all(b"ok").await.unwrap() });
    let source = Source::from_fn(move |call, request| async move {
        let mut stream = tokio::net::TcpStream::connect(address).await.map_err(TokenError::new)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map_err(TokenError::new)?;
        assert_eq!(answer, "ok");
        Ok(numbered_token(call, &request, secs(60)))
    });
    let inner = Recorder::new();
    let mut client = ready_client(&source, &inner);
    let response = runtime.block_on(client.call(try_on("image-1"))).unwrap();
    assert_eq!((response.status().as_u16(), source.calls(), inner.count()), (200, 1, 1));
}

#[test]
fn c4_call_outside_a_runtime_leaves_a_body_with_timers_to_the_future() {
    type Body = UnsyncBoxBody<Bytes, BoxError>;
    let body = || -> Body {
        let parts = [r#"{"uploaded_image_id":"image-1","#, r#""sku_id":"dress-1"}"#];
        let frames = stream::iter(parts).then(|part| async move {
            tokio::time::sleep(secs(1)).await;
            Ok(Frame::data(Bytes::from(part)))
        });
        StreamBody::new(frames).boxed_unsync()
    };
    for with_params in [false, true] {
        let (source, inner) = (Source::new(), Recorder::new());
        let mut client = service(&jwt(source.clone()).build().unwrap(), &inner);
        let mut request = Request::post(SKU_IMAGES).body(body()).unwrap();
        if with_params {
            request.extensions_mut().insert(params("image-1"));
        }
        let client: &mut AiutaAuth<Recorder> =
            ServiceExt::<Request<Body>>::ready(&mut client).now_or_never().unwrap().unwrap();
        let sending = client.call(request);
        let response = paused_runtime().block_on(sending).unwrap();
        assert_eq!((response.status().as_u16(), source.calls()), (200, 1), "with params: {with_params}");
        assert_eq!(inner.only().body, r#"{"uploaded_image_id":"image-1","sku_id":"dress-1"}"#);
    }
}

#[test]
fn c4_call_outside_a_runtime_keeps_the_ready_service_until_something_is_pending() {
    let gate = Gate::closed();
    let (source, inner) = (Source::gated(&gate), Recorder::new());
    let mut client = ready_client(&source, &inner);
    let mut other = client.clone();
    let mut request = client.call(try_on("image-1")).boxed();
    assert!(!ready(&mut other), "the request holds the only permit before it is polled");
    assert_eq!(source.calls(), 0);

    let runtime = runtime();
    runtime.block_on(async { assert!((&mut request).now_or_never().is_none()) });
    assert_eq!(source.calls(), 1);
    assert!(ready(&mut other), "the permit is free");
    let response = runtime.block_on(other.call(listing()));
    assert_eq!(response.unwrap().status(), 200, "another request is sent meanwhile");
    assert_eq!(inner.count(), 1);

    gate.open(1);
    assert_eq!(runtime.block_on(request).unwrap().status(), 200);
    assert_eq!(inner.count(), 2);
}

/// Returns a request that needs no token.
fn listing() -> Request<Full<Bytes>> {
    get("https://api.aiuta.com/v1/try_on_models")
}

#[test]
fn c4_call_outside_a_runtime_sends_on_the_ready_service_if_nothing_is_pending() {
    let (source, inner) = (Source::new(), Recorder::new());
    let mut client = ready_client(&source, &inner);
    let mut queued = client.clone();
    assert!(!ready(&mut queued));
    let mut request = client.call(try_on("image-1"));
    runtime().block_on(async { assert!((&mut request).now_or_never().unwrap().is_ok()) });
    assert_eq!((source.calls(), inner.count()), (1, 1));
}

#[test]
fn c4_call_outside_a_runtime_sends_a_cached_token_at_once() {
    let (source, inner, called) = (Source::new(), Recorder::new(), Arc::new(AtomicUsize::new(0)));
    let layer = jwt(source.clone()).build().unwrap();
    let mut client = layer.layer(tower::service_fn({
        let (inner, called) = (inner.clone(), Arc::clone(&called));
        move |request: Request<Full<Bytes>>| {
            called.fetch_add(1, Ordering::SeqCst);
            inner.clone().oneshot(request)
        }
    }));
    let request = client.call(try_on("image-1"));
    assert_eq!(called.load(Ordering::SeqCst), 0);
    assert_eq!(executor::block_on(request).unwrap().status(), 200);
    let request = client.call(try_on("image-1"));
    assert_eq!(called.load(Ordering::SeqCst), 2, "the request is sent in `call`");
    assert_eq!(executor::block_on(request).unwrap().status(), 200);
    assert_eq!((source.calls(), inner.count()), (1, 2));
}
