//! Rule G1: if foreign code panics while a fetch runs, all waiting requests still end, and the next one is served.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

use futures::FutureExt;
use futures::future::join_all;
use tokio::time::Instant;
use tower_aiuta_auth::{AuthErrorKind, TokenError};
use tracing::span;

use crate::support::*;

/// The payload of a panic, which panics again when it is dropped.
struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("a payload was dropped");
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    NewSpan,
    Record,
    Enter,
    Exit,
    TryClose,
}

/// A subscriber that panics once in the method that is set.
#[derive(Default)]
struct Panicking {
    once_in: Mutex<Option<(Method, Payload)>>,
    panics: AtomicUsize,
    spans: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
enum Payload {
    Text,
    PanicsWhenDropped,
}

impl Panicking {
    fn called(&self, method: Method) {
        let payload = {
            let mut once_in = self.once_in.lock().unwrap();
            match *once_in {
                Some((set, payload)) if set == method => {
                    *once_in = None;
                    payload
                }
                _ => return,
            }
        };
        self.panics.fetch_add(1, Ordering::SeqCst);
        match payload {
            Payload::Text => panic!("the subscriber panics in {method:?}"),
            Payload::PanicsWhenDropped => std::panic::panic_any(PanicsWhenDropped),
        }
    }
}

struct Subscriber(Arc<Panicking>);

impl tracing::Subscriber for Subscriber {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "tower_aiuta_auth"
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        self.0.called(Method::NewSpan);
        span::Id::from_u64(self.0.spans.fetch_add(1, Ordering::SeqCst) + 1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {
        self.0.called(Method::Record);
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {}

    fn enter(&self, _: &span::Id) {
        self.0.called(Method::Enter);
    }

    fn exit(&self, _: &span::Id) {
        self.0.called(Method::Exit);
    }

    fn try_close(&self, _: span::Id) -> bool {
        self.0.called(Method::TryClose);
        false
    }
}

#[tokio::test(start_paused = true)]
async fn g1_subscriber_panic_leaves_no_request_waiting() {
    use Method::*;
    let panicking = Arc::new(Panicking::default());
    let _default = tracing::subscriber::set_default(Subscriber(Arc::clone(&panicking)));
    for payload in [Payload::Text, Payload::PanicsWhenDropped] {
        for (method, calls) in [(Record, 1), (Enter, 2), (Exit, 2)] {
            let gate = Gate::closed();
            let (source, inner) = (Source::gated(&gate), Recorder::new());
            let service = service(&jwt(source.clone()).build().unwrap(), &inner);
            let callers: Vec<_> = (0..20)
                .map(|_| {
                    let service = service.clone();
                    tokio::spawn(async move { send(&service, try_on("image-1")).await })
                })
                .collect();
            settle().await;
            *panicking.once_in.lock().unwrap() = Some((method, payload));
            let began = Instant::now();
            gate.open(100);
            // A panic in `record` does not change the result. The others end the fetch without one, and a waiter starts
            // another.
            for caller in join_all(callers).await {
                assert_eq!(caller.expect("no caller panics").unwrap(), 200, "{method:?}, {payload:?}");
            }
            assert_eq!(began.elapsed().as_secs(), 0, "no caller waits for a timeout: {method:?}, {payload:?}");
            assert_eq!(panicking.panics.swap(0, Ordering::SeqCst), 1, "{method:?}, {payload:?}");
            assert_eq!((source.calls(), inner.count()), (calls, 20), "{method:?}, {payload:?}");
            assert_eq!(send(&service, try_on("image-2")).await.unwrap(), 200, "{method:?}, {payload:?}");
        }
    }
}

/// The request that starts the fetch may panic itself, since it polls the source first.
#[tokio::test(start_paused = true)]
async fn g1_request_after_one_that_panicked_in_a_subscriber_is_served() {
    use Method::*;
    let panicking = Arc::new(Panicking::default());
    let _default = tracing::subscriber::set_default(Subscriber(Arc::clone(&panicking)));
    for payload in [Payload::Text, Payload::PanicsWhenDropped] {
        for method in [NewSpan, Enter, Exit, Record, TryClose] {
            let (source, inner) = (Source::new(), Recorder::new());
            let layer = jwt(source.clone()).max_concurrent_fetches(1).build().unwrap();
            let service = service(&layer, &inner);
            *panicking.once_in.lock().unwrap() = Some((method, payload));
            let first = {
                let service = service.clone();
                tokio::spawn(async move { send(&service, try_on("image-1")).await })
            };
            let result = first.await;
            assert_eq!(panicking.panics.swap(0, Ordering::SeqCst), 1, "{method:?}, {payload:?}");
            if let Ok(result) = result {
                assert_eq!(result.unwrap(), 200, "{method:?}, {payload:?}");
            } else if let Err(error) = result {
                std::mem::forget(error.into_panic());
            }
            let began = Instant::now();
            for image in ["image-1", "image-2"] {
                assert_eq!(send(&service, try_on(image)).await.unwrap(), 200, "{method:?}, {payload:?}");
            }
            assert_eq!(began.elapsed().as_secs(), 0, "{method:?}, {payload:?}");
        }
    }
}

/// The waiting request that drives the fetch panics itself, and the other one does not.
#[test]
fn g1_subscriber_panic_without_a_runtime_leaves_no_request_waiting() {
    use Method::*;
    let panicking = Arc::new(Panicking::default());
    let _default = tracing::subscriber::set_default(Subscriber(Arc::clone(&panicking)));
    for payload in [Payload::Text, Payload::PanicsWhenDropped] {
        for method in [Enter, Exit, Record] {
            let gate = Gate::closed();
            let service = service(&jwt(Source::gated(&gate)).build().unwrap(), &Recorder::new());
            let start = || {
                let service = service.clone();
                async move { send(&service, try_on("image-1")).await }.boxed()
            };
            let [mut first, mut other] = std::array::from_fn(|_| start());
            assert!((&mut first).now_or_never().is_none());
            let wakes = Arc::new(CountingWaker::default());
            let waker = Waker::from(Arc::clone(&wakes));
            assert!(other.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            *panicking.once_in.lock().unwrap() = Some((method, payload));
            let panicked = catch_unwind(AssertUnwindSafe(|| (&mut first).now_or_never()));
            if method == Record {
                // Nothing is recorded before the fetch ends.
                assert!(panicked.is_ok());
            } else {
                std::mem::forget(panicked.expect_err("the subscriber panics in the request's poll"));
                assert!(wakes.0.load(Ordering::SeqCst) > 0, "{method:?}, {payload:?}");
            }
            gate.open(2);
            assert_eq!(futures::executor::block_on(other).unwrap(), 200, "{method:?}, {payload:?}");
            assert_eq!(panicking.panics.swap(0, Ordering::SeqCst), 1, "{method:?}, {payload:?}");
            assert_eq!(futures::executor::block_on(start()).unwrap(), 200, "{method:?}, {payload:?}");
        }
    }
}

struct PanickingWaker(Payload);

impl Wake for PanickingWaker {
    fn wake(self: Arc<Self>) {
        match self.0 {
            Payload::Text => panic!("the waker panics"),
            Payload::PanicsWhenDropped => std::panic::panic_any(PanicsWhenDropped),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn g1_waker_panic_leaves_no_request_waiting() {
    for payload in [Payload::Text, Payload::PanicsWhenDropped] {
        let gate = Gate::closed();
        let source = Source::gated(&gate);
        let service = service(&jwt(source.clone()).build().unwrap(), &Recorder::new());
        let waker = Waker::from(Arc::new(PanickingWaker(payload)));
        let start = || {
            let service = service.clone();
            async move { send(&service, try_on("image-1")).await }.boxed()
        };
        // Requests with such a waker join before and after the others.
        let mut first = start();
        assert!(first.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let others: Vec<_> = (0..20).map(|_| tokio::spawn(start())).collect();
        settle().await;
        let mut last = start();
        assert!(last.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        gate.open(1);
        let began = Instant::now();
        for other in others {
            assert_eq!(other.await.unwrap().unwrap(), 200);
        }
        assert_eq!((first.await.unwrap().as_u16(), last.await.unwrap().as_u16()), (200, 200));
        assert_eq!((began.elapsed().as_secs(), source.calls()), (0, 1));
        gate.open(1);
        assert_eq!(send(&service, try_on("image-2")).await.unwrap(), 200);
    }
}

/// Counts how often it is woken.
#[derive(Default)]
struct CountingWaker(AtomicUsize);

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Without a runtime the source wakes the waiting requests, so the panic would reach the source.
#[test]
fn g1_waker_panic_without_a_runtime_reaches_neither_the_source_nor_other_requests() {
    for payload in [Payload::Text, Payload::PanicsWhenDropped] {
        let gate = Gate::closed();
        let service = service(&jwt(Source::gated(&gate)).build().unwrap(), &Recorder::new());
        let start = || {
            let service = service.clone();
            async move { send(&service, try_on("image-1")).await }.boxed()
        };
        let panics = Waker::from(Arc::new(PanickingWaker(payload)));
        let wakes: [Arc<CountingWaker>; 2] = Default::default();
        let [mut first, mut other, mut last] = std::array::from_fn(|_| start());
        assert!(first.as_mut().poll(&mut Context::from_waker(&panics)).is_pending());
        for (request, wakes) in [&mut other, &mut last].into_iter().zip(&wakes) {
            let waker = Waker::from(Arc::clone(wakes));
            assert!(request.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        gate.open(1);
        assert!(wakes.iter().all(|wakes| wakes.0.load(Ordering::SeqCst) > 0), "{payload:?}");
        for request in [other, last, first] {
            assert_eq!(request.now_or_never().expect("the fetch has ended").unwrap(), 200, "{payload:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn g1_panic_payload_that_panics_when_dropped_is_contained() {
    for panics_when_polled_again in [false, true] {
        let source = Source::from_fn(move |call, request| async move {
            if panics_when_polled_again {
                tokio::task::yield_now().await;
            }
            if call == 1 {
                std::panic::panic_any(PanicsWhenDropped);
            }
            Ok::<_, TokenError>(numbered_token(call, &request, secs(60)))
        });
        let service = service(&jwt(source.clone()).build().unwrap(), &Recorder::new());
        let callers: Vec<_> = (0..20)
            .map(|_| {
                let service = service.clone();
                tokio::spawn(async move { send(&service, try_on("image-1")).await })
            })
            .collect();
        let began = Instant::now();
        let mut results = Vec::new();
        for caller in callers {
            results.push(caller.await.expect("no caller panics"));
        }
        let failed = results.into_iter().filter(Result::is_err).map(error_kind).collect::<Vec<_>>();
        // A call that panics in its first poll does so before a second request joins.
        let expected = if panics_when_polled_again { 20 } else { 1 };
        assert_eq!(failed, vec![AuthErrorKind::TokenSource; expected]);
        assert_eq!(began.elapsed().as_secs(), 0);
        assert_eq!(send(&service, try_on("image-1")).await.unwrap(), 200);
    }
}
