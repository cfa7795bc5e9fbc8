//! Rule C2: a call that waits for its body, a token or a replay does not block other calls, and no lock is held while
//! foreign code runs.

use std::convert::Infallible;
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::SystemTime;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::Full;
use http_body_util::channel::Channel;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceExt};
use tower_aiuta_auth::{Clock, TokenCache};

use super::*;

/// Returns a source that waits for the gate when it is called for the image `slow`.
fn gated_for(slow: &'static str, gate: &Gate) -> Source {
    let gate = gate.clone();
    Source::from_fn(move |call, request| {
        let gate = gate.clone();
        async move {
            if request.params() == &params(slow) {
                gate.pass().await;
            }
            Ok(numbered_token(call, &request, secs(60)))
        }
    })
}

/// Polls a service ready and calls that same service, not a clone.
async fn call<S, B>(service: &mut S, request: Request<B>) -> S::Future
where
    S: Service<Request<B>, Error = BoxError>,
{
    ServiceExt::<Request<B>>::ready(service).await.expect("ready").call(request)
}

#[tokio::test]
async fn c2_hanging_source_delays_no_other_key_and_no_hit() {
    let gate = Gate::closed();
    let layer = jwt(gated_for("slow", &gate)).build().unwrap();
    let inner = Recorder::new();
    let service = service(&layer, &inner);
    let mut slow: Vec<_> = (0..3).map(|_| Box::pin(send(&service, try_on("slow")))).collect();
    for caller in &mut slow {
        assert!(caller.now_or_never().is_none());
    }
    for image in ["image-1", "image-1", "image-2", "image-2"] {
        let sent =
            send(&service, try_on(image)).now_or_never().expect("the request waits for the token of another key");
        assert_eq!(sent.unwrap(), 200);
    }
    gate.open(1);
    for caller in slow {
        assert_eq!(caller.await.unwrap(), 200);
    }
    assert_eq!(layer.token_cache().unwrap().stats().hits, 2);
}

#[tokio::test]
async fn c2_call_waiting_for_a_token_releases_its_permit() {
    let gate = Gate::closed();
    let layer = jwt(gated_for("slow", &gate)).build().unwrap();
    let inner = Recorder::new();
    let mut service = layer.layer(ConcurrencyLimit::new(inner.clone(), 1));
    let mut waiting = call(&mut service, try_on("slow")).await;
    let other = service.clone();
    for _ in 0..3 {
        send(&other, try_on("image-1")).now_or_never().expect("the permit is not free").unwrap();
        assert!((&mut waiting).now_or_never().is_none());
    }
    gate.open(1);
    assert_eq!(waiting.await.unwrap().status(), 200);
    assert_eq!(inner.count(), 4);
}

#[tokio::test]
async fn c2_call_waiting_for_its_body_releases_its_permit() {
    type Body = UnsyncBoxBody<Bytes, Infallible>;
    let layer = jwt(Source::new()).build().unwrap();
    let inner = Recorder::new();
    let mut service = layer.layer(ConcurrencyLimit::new(inner.clone(), 1));
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(4);
    let mut waiting = call(&mut service, Request::post(SKU_IMAGES).body(Body::new(body)).unwrap()).await;
    sender.send_data(Bytes::from_static(br#"{"uploaded_image_id":"#)).await.unwrap();
    assert!((&mut waiting).now_or_never().is_none());

    let other = try_on("image-1").map(|body: Full<Bytes>| Body::new(body));
    let sent = service.clone().oneshot(other).now_or_never().expect("the permit is not free");
    assert_eq!(sent.unwrap().status(), 200);

    sender.send_data(Bytes::from_static(br#""image-2"}"#)).await.unwrap();
    drop(sender);
    assert_eq!(waiting.await.unwrap().status(), 200);
    assert_eq!(inner.last().body, r#"{"uploaded_image_id":"image-2"}"#);
}

#[tokio::test]
async fn c2_failed_call_releases_its_permit() {
    let source = Source::from_fn(|_, _| async { Err(TokenError::new("no")) });
    let layer = jwt(source).build().unwrap();
    let mut service = layer.layer(ConcurrencyLimit::new(Recorder::new(), 1));
    let mut other = service.clone();
    for failing in [post(SKU_IMAGES, "{}"), post(SKU_IMAGES, "no JSON"), try_on("image-1")] {
        call(&mut service, failing).await.await.unwrap_err();
        call(&mut other, get("https://example.com/")).now_or_never().expect("the permit is not free").await.unwrap();
    }
}

#[tokio::test]
async fn c2_replay_waiting_for_a_token_holds_no_permit() {
    let (gate, rejected) = (Gate::closed(), RejectedTokens::default());
    let source = {
        let gate = gate.clone();
        Source::from_fn(move |call, request| {
            let gate = gate.clone();
            async move {
                if request.force_refresh() {
                    gate.pass().await;
                }
                Ok(numbered_token(call, &request, secs(60)))
            }
        })
    };
    let layer = jwt(source).build().unwrap();
    let inner = Recorder::rejecting(&rejected);
    let mut service = layer.layer(ConcurrencyLimit::new(inner.clone(), 1));
    send(&service, try_on("image-1")).await.unwrap();
    rejected.add(inner.last().token());
    let mut waiting = call(&mut service, try_on("image-1")).await;
    assert!((&mut waiting).now_or_never().is_none());
    send(&service, try_on("image-2")).now_or_never().expect("the permit is not free").unwrap();
    gate.open(1);
    assert_eq!(waiting.await.unwrap().status(), 200);
    assert_eq!(inner.count(), 4);
}

/// A service with one connection. A response occupies the connection until it is dropped.
struct Connection {
    inner: Recorder,
    free: Arc<Semaphore>,
    acquiring: Option<BoxFuture<'static, OwnedSemaphorePermit>>,
    acquired: Option<OwnedSemaphorePermit>,
}

impl Connection {
    fn new(inner: &Recorder, free: &Arc<Semaphore>) -> Self {
        Self { inner: inner.clone(), free: Arc::clone(free), acquiring: None, acquired: None }
    }
}

impl Clone for Connection {
    fn clone(&self) -> Self {
        Self::new(&self.inner, &self.free)
    }
}

impl Service<Request<Full<Bytes>>> for Connection {
    type Response = Response<OwnedSemaphorePermit>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.acquired.is_none() {
            let free = &self.free;
            let acquiring =
                self.acquiring.get_or_insert_with(|| Arc::clone(free).acquire_owned().map(Result::unwrap).boxed());
            self.acquired = Some(ready!(acquiring.poll_unpin(cx)));
            self.acquiring = None;
        }
        Service::<Request<Full<Bytes>>>::poll_ready(&mut self.inner, cx)
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        let permit = self.acquired.take().expect("polled ready");
        let response = self.inner.call(request);
        Box::pin(async move { Ok(response.await?.map(|_| permit)) })
    }
}

#[tokio::test]
async fn c2_replay_drops_the_first_response_before_it_acquires_a_permit() {
    let rejected = RejectedTokens::default();
    let layer = jwt(Source::new()).build().unwrap();
    let inner = Recorder::rejecting(&rejected);
    let free = Arc::new(Semaphore::new(1));
    let service = layer.layer(Connection::new(&inner, &free));
    let first = service.clone().oneshot(try_on("image-1")).await.unwrap();
    assert_eq!(free.available_permits(), 0, "the response occupies the connection");
    drop(first);
    rejected.add(inner.last().token());
    let replayed = service
        .clone()
        .oneshot(try_on("image-1"))
        .now_or_never()
        .expect("the replay waits for the permit of its own first response");
    assert_eq!(replayed.unwrap().status(), 200);
    assert_eq!(inner.count(), 3);

    rejected.add(inner.last().token());
    let limited = layer.layer(ConcurrencyLimit::new(inner.clone(), 1));
    assert_eq!(
        send(&limited, try_on("image-1"))
            .now_or_never()
            .expect("the replay waits for the permit of its own first response")
            .unwrap(),
        200
    );
}

/// Foreign code that the layer calls: a source, an error, a clock or a waker. Each call uses the cache.
#[derive(Clone, Default)]
struct CacheUser(Arc<(OnceLock<TokenCache>, AtomicBool, std::sync::atomic::AtomicUsize)>);

impl CacheUser {
    fn use_cache(&self) {
        let (tokens, busy, uses) = &*self.0;
        let Some(tokens) = tokens.get().filter(|_| !busy.swap(true, Ordering::SeqCst)) else { return };
        let _ = tokens.stats();
        let _ = tokens.get(&params("other")).now_or_never();
        tokens.invalidate(&params("other"));
        tokens.clear();
        uses.fetch_add(1, Ordering::SeqCst);
        busy.store(false, Ordering::SeqCst);
    }

    /// Returns how often it used the cache since the last call.
    fn uses(&self) -> usize {
        self.0.2.swap(0, Ordering::SeqCst)
    }
}

impl Clock for CacheUser {
    fn now(&self) -> SystemTime {
        self.use_cache();
        ManualClock::default().now()
    }
}

impl Wake for CacheUser {
    fn wake(self: Arc<Self>) {
        self.use_cache();
    }
}

/// Uses the cache when it is dropped.
struct UseOnDrop(CacheUser);

impl Drop for UseOnDrop {
    fn drop(&mut self) {
        self.0.use_cache();
    }
}

impl fmt::Debug for UseOnDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UseOnDrop")
    }
}

impl fmt::Display for UseOnDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("uses the cache")
    }
}

impl std::error::Error for UseOnDrop {}

/// Deadlocks if one of them is called while a lock is held.
#[test]
fn c2_sources_errors_wakers_and_clocks_may_use_the_cache() {
    let (source, clock, waker) = (CacheUser::default(), CacheUser::default(), Arc::new(CacheUser::default()));
    let gate = Gate::closed();
    let token_source = {
        let (source, gate) = (source.clone(), gate.clone());
        Source::from_fn(move |_, request| {
            let (source, gate) = (source.clone(), gate.clone());
            async move {
                source.use_cache();
                let _use_on_drop = UseOnDrop(source.clone());
                if request.params() == &params("image-1") {
                    gate.pass().await;
                }
                Err(TokenError::new(UseOnDrop(source)).with_retry_after(secs(0)))
            }
        })
    };
    let layer = jwt(token_source).clock(clock.clone()).build().unwrap();
    let tokens = layer.token_cache().unwrap();
    for user in [&source, &clock, &waker] {
        assert!(user.0.0.set(tokens.clone()).is_ok());
    }
    let inner = Recorder::new();
    let service = service(&layer, &inner);
    let task = Waker::from(Arc::clone(&waker));
    for _ in 0..3 {
        let mut request = Box::pin(send(&service, try_on("image-1")));
        assert!(request.poll_unpin(&mut Context::from_waker(&task)).is_pending());
        assert!(source.uses() > 0 && clock.uses() > 0);
        gate.open(1);
        assert!(waker.uses() > 0, "the task is woken");
        let Poll::Ready(result) = request.poll_unpin(&mut Context::from_waker(&task)) else { panic!("not ready") };
        assert_eq!(error_kind(result), AuthErrorKind::TokenSource);
        assert!(source.uses() > 1, "the call and its error are dropped");
        send(&service, try_on("image-2")).now_or_never().expect("the request waits").unwrap_err();
    }
    assert_eq!(inner.count(), 0);
}
