//! Rule C4: a runtime that is dropped or no longer driven makes no caller panic or hang, and no task outlives the
//! cache.

mod first_poll;
mod none;
mod wake_ups;

use std::sync::{Arc, Barrier};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, executor};
use tokio::runtime::{Builder, Handle, Runtime};
use tower::ServiceExt;
use tower_aiuta_auth::testing::ManualClock;
use tower_aiuta_auth::{AiutaAuth, AuthError, AuthErrorKind, BoxError, Jwt, TokenCache};

use crate::support::*;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Returns a runtime whose paused time advances to the next timer when it is idle.
fn paused_runtime() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

type Sending = BoxFuture<'static, Result<http::StatusCode, BoxError>>;

/// Returns a request that was not polled yet.
fn unpolled_request(service: &AiutaAuth<Recorder>, image: &str) -> Sending {
    let (service, request) = (service.clone(), try_on(image));
    async move { send(&service, request).await }.boxed()
}

/// Starts a request on `runtime`, where the task of its fetch runs. The request waits.
fn start_on(runtime: &Runtime, service: &AiutaAuth<Recorder>, image: &str) -> Sending {
    let mut request = unpolled_request(service, image);
    runtime.block_on(async {
        assert!((&mut request).now_or_never().is_none());
        settle().await;
    });
    request
}

type Get = BoxFuture<'static, Result<Jwt, AuthError>>;

fn get_token(tokens: &TokenCache, image: &str) -> Get {
    let (tokens, params) = (tokens.clone(), params(image));
    async move { tokens.get(&params).await }.boxed()
}

/// Polls once, and returns the output if it is ready.
fn poll<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
    future.now_or_never()
}

fn number_of(result: &Result<Jwt, AuthError>) -> u64 {
    token_number(result.as_ref().unwrap().expose())
}

/// Returns a source whose first `count` calls never end.
fn hanging(count: usize) -> Source {
    Source::from_fn(move |call, request| async move {
        tokio::task::yield_now().await;
        if call <= count {
            std::future::pending::<()>().await;
        }
        Ok(numbered_token(call, &request, secs(60)))
    })
}

#[tokio::test]
async fn c4_no_task_outlives_the_last_handle() {
    let alive = Arc::new(());
    let source = {
        let alive = Arc::clone(&alive);
        Source::from_fn(move |_, _| {
            let alive = Arc::clone(&alive);
            async move {
                let _held = alive;
                std::future::pending().await
            }
        })
    };
    let layer = jwt(source).build().unwrap();
    let service = service(&layer, &Recorder::new());
    let callers: Vec<_> =
        (0..20).map(|key| tokio::spawn(unpolled_request(&service, &format!("image-{}", key % 5)))).collect();
    settle().await;
    let tasks = || Handle::current().metrics().num_alive_tasks();
    assert_eq!(tasks(), 25, "twenty callers and five fetches");
    callers.iter().for_each(tokio::task::JoinHandle::abort);
    settle().await;
    assert_eq!(tasks(), 5, "the fetches continue");
    let tokens = layer.token_cache().unwrap().clone();
    drop((layer, service));
    settle().await;
    assert_eq!(tasks(), 5, "one handle is left");
    drop(tokens);
    settle().await;
    assert_eq!((tasks(), Arc::strong_count(&alive)), (0, 1));
}

#[test]
fn c4_fetch_of_a_dropped_runtime_is_restarted_once() {
    let (source, inner) = (hanging(1), Recorder::new());
    let layer = jwt(source.clone()).build().unwrap();
    let service = service(&layer, &inner);
    let (dropped_runtime, runtime) = (runtime(), runtime());
    let first = start_on(&dropped_runtime, &service, "image-1");
    runtime.block_on(async {
        let waiting: Vec<_> = (0..20).map(|_| tokio::spawn(unpolled_request(&service, "image-1"))).collect();
        settle().await;
        assert_eq!(source.calls(), 1);
        std::thread::spawn(|| drop(dropped_runtime)).join().unwrap();
        for caller in waiting {
            assert_eq!(caller.await.unwrap().unwrap(), 200);
        }
        assert_eq!(first.await.unwrap(), 200, "the request moves from the dropped runtime");
    });
    assert_eq!((source.calls(), inner.count()), (2, 21));
    assert_eq!(layer.token_cache().unwrap().stats().failures, 0);
}

#[test]
fn c4_request_moves_from_a_dropped_runtime_to_no_runtime() {
    let (source, inner) = (hanging(1), Recorder::new());
    let layer = jwt(source.clone()).build().unwrap();
    let service = service(&layer, &inner);
    let dropped_runtime = runtime();
    let request = start_on(&dropped_runtime, &service, "image-1");
    drop(dropped_runtime);
    assert_eq!(executor::block_on(request).unwrap(), 200);
    assert_eq!(source.calls(), 2);
}

#[test]
fn c4_request_keeps_its_deadline_on_another_runtime() {
    for dropped in [false, true] {
        let service = service(&jwt(hanging(2)).build().unwrap(), &Recorder::new());
        let first = runtime();
        let request = start_on(&first, &service, "image-1");
        let first = (!dropped).then_some(first);
        let moved = paused_runtime().block_on(async { tokio::time::timeout(secs(100), request).await });
        assert_eq!(error_kind(moved.expect("the request lost its deadline")), AuthErrorKind::FetchTimeout);
        drop(first);
    }
}

#[test]
fn c4_request_fails_after_two_dropped_runtimes() {
    let layer = jwt(hanging(2)).build().unwrap();
    let service = service(&layer, &Recorder::new());
    let (first, second) = (runtime(), runtime());
    let mut request = start_on(&first, &service, "image-1");
    drop(first);
    second.block_on(async { assert!((&mut request).now_or_never().is_none()) });
    drop(second);
    let error = auth_error(executor::block_on(request));
    assert_eq!((error.kind(), error.is_transient()), (AuthErrorKind::TokenSource, true));
    assert_eq!(executor::block_on(unpolled_request(&service, "image-1")).unwrap(), 200);
}

/// Returns the output of `f`, and how long it took by the time of the current runtime.
async fn timed<T>(f: impl Future<Output = T>) -> (T, Duration) {
    let start = tokio::time::Instant::now();
    (f.await, start.elapsed())
}

/// Each thread has a runtime of its own that runs only while the thread waits, as in a worker that calls `block_on`.
#[test]
fn c4_hanging_fetch_of_an_idle_runtime_is_replaced_at_its_deadline() {
    let source = Source::from_fn(|call, request| async move {
        let took = if call == 1 { secs(3600) } else { secs(3) };
        tokio::time::sleep(took).await;
        Ok(numbered_token(call, &request, secs(60)))
    });
    let inner = Recorder::new();
    let layer = jwt(source.clone()).build().unwrap();
    let service = service(&layer, &inner);
    let (mut first, idle) = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = runtime();
            (start_on(&runtime, &service, "image-1"), runtime)
        });
        thread.join().unwrap()
    });
    let (waiting, took) = paused_runtime().block_on(timed(async {
        let waiting: Vec<_> = (0..20).map(|_| tokio::spawn(unpolled_request(&service, "image-1"))).collect();
        settle().await;
        assert_eq!(source.calls(), 1, "the waiters joined the first fetch");
        futures::future::join_all(waiting).await
    }));
    assert!(waiting.into_iter().all(|caller| caller.unwrap().unwrap() == 200));
    assert!((secs(13)..secs(14)).contains(&took), "one deadline and the second fetch take 13 s, not {took:?}");
    assert_eq!((source.calls(), inner.count()), (2, 20), "the waiters share the second fetch");
    assert_eq!(layer.token_cache().unwrap().stats().failures, 1);
    assert_eq!((&mut first).now_or_never().expect("the fetch has ended").unwrap(), 200);
    assert_eq!(token_number(inner.last().token()), 2);
    idle.block_on(settle());
    assert_eq!(idle.metrics().num_alive_tasks(), 0);
}

#[test]
fn c4_waiter_outlasts_only_one_idle_runtime() {
    let source = hanging(2);
    let service = service(&jwt(source.clone()).build().unwrap(), &Recorder::new());
    let (first, second) = (runtime(), paused_runtime());
    let _first = start_on(&first, &service, "image-1");
    let (error, took) = paused_runtime().block_on(timed(async {
        let mut waiting = unpolled_request(&service, "image-1");
        assert!((&mut waiting).now_or_never().is_none());
        tokio::time::advance(secs(10)).await;
        // A caller on another idle runtime is the first to replace the fetch.
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                second.block_on(tokio::time::advance(secs(11)));
                drop(start_on(&second, &service, "image-1"));
            });
            thread.join().unwrap();
        });
        assert_eq!(source.calls(), 2);
        auth_error(waiting.await)
    }));
    assert_eq!((error.kind(), error.is_transient()), (AuthErrorKind::TokenSource, true));
    assert!(took < secs(22), "it waited for {took:?}");
    assert_eq!(source.calls(), 2);
}

#[test]
fn c4_timed_out_fetch_of_an_idle_runtime_is_replaced_by_the_next_caller() {
    let (source, inner) = (hanging(1), Recorder::new());
    let service = service(&jwt_with_clock(&ManualClock::default(), source.clone()), &inner);
    let idle = runtime();
    let mut first = start_on(&idle, &service, "image-1");
    paused_runtime().block_on(async {
        tokio::time::advance(secs(11)).await;
        let (result, took) = timed(unpolled_request(&service, "image-1")).await;
        assert_eq!((result.unwrap().as_u16(), took.as_secs()), (200, 0), "the next caller does not wait");
    });
    assert_eq!((&mut first).now_or_never().expect("the fetch has ended").unwrap(), 200);
    assert_eq!(source.calls(), 2);
}

#[test]
fn c4_clock_step_replaces_no_fetch_of_an_idle_runtime() {
    let (clock, gate) = (ManualClock::default(), Gate::closed());
    let source = Source::gated(&gate);
    let service = service(&jwt_with_clock(&clock, source.clone()), &Recorder::new());
    let idle = runtime();
    let first = start_on(&idle, &service, "image-1");
    clock.advance(secs(11));
    let other_runtime = runtime();
    let other = start_on(&other_runtime, &service, "image-1");
    gate.open(1);
    assert_eq!(idle.block_on(first).unwrap(), 200);
    assert_eq!(other_runtime.block_on(other).unwrap(), 200);
    assert_eq!(source.calls(), 1);
}

#[test]
fn c4_caller_without_runtime_starts_its_own_fetch_beside_that_of_a_task() {
    let gate = Gate::closed();
    let (source, inner) = (Source::gated_calls(&gate, |call| call == 1), Recorder::new());
    let layer = jwt(source.clone()).build().unwrap();
    let service = service(&layer, &inner);
    let idle = runtime();
    let first = start_on(&idle, &service, "image-1");
    let response = executor::block_on(service.clone().oneshot(try_on("image-1")));
    assert_eq!(response.unwrap().status(), 200);
    assert_eq!(source.calls(), 2);

    gate.open(1);
    assert_eq!(idle.block_on(first).unwrap(), 200, "the fetch of the task still serves those who await it");
    assert_eq!(idle.block_on(unpolled_request(&service, "image-1")).unwrap(), 200);
    let numbers: Vec<_> = inner.tokens().iter().map(|token| token_number(token)).collect();
    assert_eq!(numbers, [2, 1, 2], "the token of the newer fetch is cached");
    assert_eq!(source.calls(), 2);
}

#[test]
fn c4_callers_without_runtime_share_their_fetch_beside_that_of_a_task() {
    let gate = Gate::closed();
    let source = Source::gated(&gate);
    let service = service(&jwt(source.clone()).build().unwrap(), &Recorder::new());
    let idle = runtime();
    let _first = start_on(&idle, &service, "image-1");
    let mut others: Vec<_> = (0..20).map(|_| unpolled_request(&service, "image-1")).collect();
    assert!(others.iter_mut().all(|other| poll(other).is_none()));
    gate.open(2);
    for other in others {
        assert_eq!(executor::block_on(other).unwrap(), 200);
    }
    assert_eq!(source.calls(), 2);
}

#[test]
fn c4_request_moves_from_an_idle_runtime_to_no_runtime() {
    let source = hanging(1);
    let service = service(&jwt(source.clone()).build().unwrap(), &Recorder::new());
    let idle = runtime();
    let request = start_on(&idle, &service, "image-1");
    assert_eq!(executor::block_on(request).unwrap(), 200);
    assert_eq!(source.calls(), 2);
}

#[test]
fn c4_caller_on_a_runtime_drives_the_fetch_of_callers_without_one() {
    let gate = Gate::closed();
    let source = Source::gated(&gate);
    let service = service(&jwt(source.clone()).build().unwrap(), &Recorder::new());
    let mut without_runtime = unpolled_request(&service, "image-1");
    assert!(poll(&mut without_runtime).is_none());
    let runtime = runtime();
    let request = start_on(&runtime, &service, "image-1");
    gate.open(1);
    assert_eq!(runtime.block_on(request).unwrap(), 200);
    assert_eq!(poll(&mut without_runtime).expect("the fetch has ended").unwrap(), 200);
    assert_eq!(source.calls(), 1);
}

/// A caller without a runtime polls the source without one. A source that needs a runtime then panics, which fails only
/// this caller.
#[test]
fn c4_source_that_needs_a_runtime_is_polled_on_that_of_its_fetch() {
    let gate = Gate::closed();
    let source = {
        let gate = gate.clone();
        Source::from_fn(move |call, request| {
            let gate = gate.clone();
            async move {
                gate.pass().await;
                tokio::time::sleep(secs(1)).await; // panics outside a runtime
                Ok(numbered_token(call, &request, secs(60)))
            }
        })
    };
    let service = service(&jwt(source.clone()).build().unwrap(), &Recorder::new());
    let (runtime_of_fetch, other_runtime) = (paused_runtime(), paused_runtime());
    let first = start_on(&runtime_of_fetch, &service, "image-1");
    let other = start_on(&other_runtime, &service, "image-1");
    let mut without_runtime = unpolled_request(&service, "image-1");
    assert!(poll(&mut without_runtime).is_none());
    gate.open(2);
    assert_eq!(runtime_of_fetch.block_on(first).unwrap(), 200);
    assert_eq!(other_runtime.block_on(other).unwrap(), 200);
    assert_eq!(error_kind(executor::block_on(without_runtime)), AuthErrorKind::TokenSource);
    assert_eq!(source.calls(), 2);
}

#[test]
fn c4_handle_of_a_dropped_runtime_makes_no_call_panic() {
    for multi_thread in [false, true] {
        let mut builder = if multi_thread { Builder::new_multi_thread() } else { Builder::new_current_thread() };
        let dropped_runtime = builder.enable_all().build().unwrap();
        let handle = dropped_runtime.handle().clone();
        let layer = jwt(hanging(0)).build().unwrap();
        let service = service(&layer, &Recorder::new());
        let request = start_on(&dropped_runtime, &jwt_service(), "image-1");
        drop(dropped_runtime);
        let error = auth_error(handle.block_on(unpolled_request(&service, "image-1")));
        assert!(error.is_transient(), "the fetch was cancelled");
        let _ = handle.block_on(request);
        assert_eq!(runtime().block_on(unpolled_request(&service, "image-1")).unwrap(), 200);
    }
}

fn jwt_service() -> AiutaAuth<Recorder> {
    service(&jwt(hanging(1)).build().unwrap(), &Recorder::new())
}

/// The clock stands still, so only the caller with a timer can end the fetch.
#[test]
fn c6_fetch_of_callers_without_runtime_ends_by_the_timer_of_one_that_has_one() {
    let source = hanging(1);
    let service = service(&jwt_with_clock(&ManualClock::default(), source.clone()), &Recorder::new());
    let mut without_runtime = unpolled_request(&service, "image-1");
    assert!(poll(&mut without_runtime).is_none());
    let (result, took) = paused_runtime().block_on(timed(unpolled_request(&service, "image-1")));
    assert_eq!((error_kind(result), took.as_secs()), (AuthErrorKind::FetchTimeout, 10));
    assert_eq!(error_kind(poll(&mut without_runtime).expect("the fetch has ended")), AuthErrorKind::FetchTimeout);
    assert_eq!(source.calls(), 1);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ThreadRuntime {
    /// A runtime that only this thread drives, while it waits.
    Own,
    Shared,
    None,
}

/// Sends one request from each of six threads while the source is blocked. Returns the number of calls of the source.
fn fetches_of_threads(kinds: [ThreadRuntime; 3]) -> usize {
    let gate = Gate::closed();
    let (source, inner) = (Source::gated(&gate), Recorder::new());
    let service = service(&jwt(source.clone()).build().unwrap(), &inner);
    let shared = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (at_once, joined) = (Barrier::new(6), Barrier::new(7));
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let (service, shared, kind) = (&service, &shared, kinds[thread % 3]);
            let (at_once, joined) = (&at_once, &joined);
            scope.spawn(move || {
                let mut request = unpolled_request(service, "image-1");
                at_once.wait();
                let own = runtime();
                let join = async { assert!((&mut request).now_or_never().is_none()) };
                match kind {
                    ThreadRuntime::Own => own.block_on(join),
                    ThreadRuntime::Shared => shared.block_on(join),
                    ThreadRuntime::None => executor::block_on(join),
                }
                joined.wait();
                let status = match kind {
                    ThreadRuntime::Own => own.block_on(request),
                    ThreadRuntime::Shared => shared.block_on(request),
                    ThreadRuntime::None => executor::block_on(request),
                };
                assert_eq!(status.unwrap(), 200);
            });
        }
        joined.wait();
        gate.open(6);
    });
    assert_eq!(inner.count(), 6);
    source.calls()
}

#[test]
fn c4_threads_on_runtimes_share_one_fetch() {
    use ThreadRuntime::{Own, Shared};
    assert_eq!(fetches_of_threads([Own, Shared, Own]), 1);
}

#[test]
fn c4_threads_without_runtime_share_one_fetch() {
    assert_eq!(fetches_of_threads([ThreadRuntime::None; 3]), 1);
}

/// A caller without a runtime does not join the fetch of a task. The fetch that it starts instead serves all later
/// callers.
#[test]
fn c4_threads_with_and_without_runtime_share_two_fetches() {
    use ThreadRuntime::{Own, Shared};
    assert!((1..=2).contains(&fetches_of_threads([ThreadRuntime::None, Own, Shared])));
}
