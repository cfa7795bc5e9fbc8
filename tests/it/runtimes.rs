//! Rule C4: a runtime that is dropped or no longer driven makes no caller panic or hang, and no task outlives the
//! cache.

mod none;
mod wake_ups;
use std::sync::{Arc, Barrier};

use futures::future::BoxFuture;
use futures::{FutureExt, executor};
use tokio::runtime::{Builder, Handle, Runtime};
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

#[test]
fn c4_idle_runtime_delays_waiters_at_most_until_their_deadline() {
    let (source, inner) = (hanging(1), Recorder::new());
    let layer = jwt(source.clone()).build().unwrap();
    let service = service(&layer, &inner);
    let idle = runtime();
    let mut first = start_on(&idle, &service, "image-1");
    paused_runtime().block_on(async {
        let waiting: Vec<_> = (0..20).map(|_| tokio::spawn(unpolled_request(&service, "image-1"))).collect();
        for caller in waiting {
            assert_eq!(error_kind(caller.await.unwrap()), AuthErrorKind::FetchTimeout);
        }
        assert_eq!(source.calls(), 1);
        assert_eq!(send(&service, try_on("image-1")).await.unwrap(), 200);
    });
    assert_eq!((source.calls(), inner.count()), (2, 1));
    let result = (&mut first).now_or_never().expect("the fetch has ended");
    assert_eq!(error_kind(result), AuthErrorKind::FetchTimeout);
    idle.block_on(settle());
    assert_eq!(idle.metrics().num_alive_tasks(), 0);
}

#[test]
fn c4_timed_out_fetch_of_an_idle_runtime_is_replaced_by_the_next_caller() {
    let (clock, source, inner) = (ManualClock::default(), hanging(1), Recorder::new());
    let service = service(&jwt_with_clock(&clock, source.clone()), &inner);
    let idle = runtime();
    let mut first = start_on(&idle, &service, "image-1");
    clock.advance(secs(11));
    assert_eq!(runtime().block_on(unpolled_request(&service, "image-1")).unwrap(), 200);
    assert_eq!(error_kind((&mut first).now_or_never().unwrap()), AuthErrorKind::FetchTimeout);
    assert_eq!(source.calls(), 2);
}

#[test]
fn c4_caller_without_runtime_drives_the_fetch_of_an_idle_runtime() {
    let gate = Gate::closed();
    let (source, inner) = (Source::gated(&gate), Recorder::new());
    let service = service(&jwt(source.clone()).build().unwrap(), &inner);
    let idle = runtime();
    let first = start_on(&idle, &service, "image-1");
    gate.open(1);
    assert_eq!(executor::block_on(unpolled_request(&service, "image-1")).unwrap(), 200);
    assert_eq!(executor::block_on(first).unwrap(), 200);
    assert_eq!(source.calls(), 1);
}

#[test]
fn c4_caller_without_runtime_polls_the_source_in_the_runtime_of_the_fetch() {
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
    let runtime_of_fetch = paused_runtime();
    let first = start_on(&runtime_of_fetch, &service, "image-1");
    let mut other = unpolled_request(&service, "image-1");
    gate.open(1);
    assert!((&mut other).now_or_never().is_none());
    assert_eq!(runtime_of_fetch.block_on(first).unwrap(), 200);
    assert_eq!(executor::block_on(other).unwrap(), 200);
    assert_eq!(source.calls(), 1);
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

#[test]
fn c4_runtimes_and_threads_share_one_fetch() {
    let gate = Gate::closed();
    let (source, inner) = (Source::gated(&gate), Recorder::new());
    let service = service(&jwt(source.clone()).build().unwrap(), &inner);
    let multi_thread = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (at_once, joined) = (Barrier::new(6), Barrier::new(7));
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let (service, multi_thread) = (&service, &multi_thread);
            let (at_once, joined) = (&at_once, &joined);
            scope.spawn(move || {
                let mut request = unpolled_request(service, "image-1");
                at_once.wait();
                let own = runtime();
                match thread % 3 {
                    0 => executor::block_on(async { assert!((&mut request).now_or_never().is_none()) }),
                    1 => own.block_on(async { assert!((&mut request).now_or_never().is_none()) }),
                    _ => multi_thread.block_on(async { assert!((&mut request).now_or_never().is_none()) }),
                }
                joined.wait();
                let status = match thread % 3 {
                    0 => executor::block_on(request),
                    1 => own.block_on(request),
                    _ => multi_thread.block_on(request),
                };
                assert_eq!(status.unwrap(), 200);
            });
        }
        joined.wait();
        gate.open(1);
    });
    assert_eq!((source.calls(), inner.count()), (1, 6));
}
