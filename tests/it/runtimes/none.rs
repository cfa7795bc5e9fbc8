//! Rules C1 and C3 to C6 without a runtime: waiting callers drive the fetch, and the `Clock` decides when it has timed
//! out.

use std::sync::Mutex;
use std::task::{Context, Waker};
use std::time::SystemTime;

use futures::executor::LocalPool;
use futures::task::LocalSpawnExt;
use tower_aiuta_auth::Clock;

use super::wake_ups::CountingWaker;
use super::*;

#[test]
fn c1_callers_without_runtime_share_one_fetch() {
    let gate = Gate::closed();
    let source = Source::gated(&gate);
    let layer = jwt(source.clone()).build().unwrap();
    let inner = Recorder::new();
    let service = service(&layer, &inner);
    let mut pool = LocalPool::new();
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let service = service.clone();
            let request = async move { send(&service, try_on("image-1")).await };
            pool.spawner().spawn_local_with_handle(request).unwrap()
        })
        .collect();
    pool.run_until_stalled();
    gate.open(1);
    pool.run_until_stalled();
    for caller in callers {
        assert_eq!(caller.now_or_never().expect("the caller was not woken").unwrap(), 200);
    }
    assert_eq!((source.calls(), inner.count()), (1, 20));
}

/// A clock during whose next reading another caller, if one is set, gets its token.
#[derive(Clone, Default)]
struct InterruptedClock {
    time: ManualClock,
    other_caller: Arc<Mutex<Option<TokenCache>>>,
}

impl Clock for InterruptedClock {
    fn now(&self) -> SystemTime {
        let now = self.time.now();
        let other_caller = self.other_caller.lock().unwrap().take();
        if let Some(tokens) = other_caller {
            self.time.advance(secs(1));
            poll(&mut get_token(&tokens, "image-1")).unwrap().unwrap();
        }
        now
    }
}

#[test]
fn c1_token_cached_during_a_lookup_serves_both_callers() {
    let (clock, source) = (InterruptedClock::default(), Source::new());
    let layer = jwt(source.clone()).clock(clock.clone()).build().unwrap();
    let tokens = layer.token_cache().unwrap();
    for round in 1..=2 {
        *clock.other_caller.lock().unwrap() = Some(tokens.clone());
        poll(&mut get_token(tokens, "image-1")).unwrap().unwrap();
        assert_eq!(source.calls(), round, "one fetch at first, and one after the token expired");
        clock.time.advance(secs(100));
    }
}

#[test]
fn c3_next_caller_continues_the_same_source_call() {
    let gate = Gate::closed();
    let source = Source::gated(&gate);
    let layer = jwt(source.clone()).build().unwrap();
    let tokens = layer.token_cache().unwrap();
    for _ in 0..20 {
        assert!(poll(&mut get_token(tokens, "image-1")).is_none());
    }
    gate.open(1);
    assert_eq!(number_of(&executor::block_on(get_token(tokens, "image-1"))), 1);
    assert_eq!((source.calls(), tokens.stats().entries), (1, 1));
}

#[test]
fn c4_fetch_without_callers_ends_with_the_last_handle() {
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
    let mut waiting = get_token(layer.token_cache().unwrap(), "image-1");
    for image in ["image-1", "image-2"] {
        assert!(poll(&mut get_token(layer.token_cache().unwrap(), image)).is_none());
    }
    assert!(poll(&mut waiting).is_none());
    drop(layer);
    assert!(Arc::strong_count(&alive) > 1, "one caller still waits");
    drop(waiting);
    assert_eq!(Arc::strong_count(&alive), 1);
}

#[test]
fn c5_fetches_without_waiters_make_room() {
    let gate = Gate::closed();
    let source = Source::gated(&gate);
    let layer = jwt(source.clone()).max_concurrent_fetches(3).build().unwrap();
    let tokens = layer.token_cache().unwrap();
    let mut awaited = get_token(tokens, "awaited");
    assert!(poll(&mut awaited).is_none());
    for image in 0..50 {
        assert!(poll(&mut get_token(tokens, &format!("image-{image}"))).is_none());
    }
    let mut others = [get_token(tokens, "image-50"), get_token(tokens, "image-51")];
    assert!(others.iter_mut().all(|other| poll(other).is_none()));
    assert_eq!(poll(&mut get_token(tokens, "image-52")).unwrap().unwrap_err().kind(), AuthErrorKind::Overloaded);
    gate.open(100);
    assert_eq!(number_of(&executor::block_on(awaited)), 1, "the awaited fetch was not dropped");
    for other in others {
        executor::block_on(other).unwrap();
    }
    assert_eq!(source.calls(), 53);
}

#[test]
fn c5_timed_out_fetches_make_room() {
    let clock = ManualClock::default();
    let layer = jwt(Source::gated(&Gate::closed())).clock(clock.clone()).max_concurrent_fetches(1).build().unwrap();
    let tokens = layer.token_cache().unwrap();
    let mut late = get_token(tokens, "image-1");
    assert!(poll(&mut late).is_none());
    let overloaded = poll(&mut get_token(tokens, "image-2")).unwrap();
    assert_eq!(overloaded.unwrap_err().kind(), AuthErrorKind::Overloaded);
    clock.advance(secs(10));
    assert!(poll(&mut get_token(tokens, "image-2")).is_none(), "the timed-out fetch made room");
    assert_eq!(poll(&mut late).unwrap().unwrap_err().kind(), AuthErrorKind::FetchTimeout);
}

#[test]
fn c6_deadline_is_checked_at_each_poll_and_by_each_new_caller() {
    let clock = ManualClock::default();
    let source = Source::gated(&Gate::closed());
    let layer = jwt_with_clock(&clock, source.clone());
    let inner = Recorder::new();
    let (tokens, service) = (layer.token_cache().unwrap(), service(&layer, &inner));
    let mut polled = send(&service, try_on("image-1")).boxed();
    let (mut woken, wakes) = (get_token(tokens, "image-1"), Arc::new(CountingWaker::default()));
    let waker = Waker::from(Arc::clone(&wakes));
    assert!(poll(&mut polled).is_none());
    assert!(woken.poll_unpin(&mut Context::from_waker(&waker)).is_pending());
    clock.advance(secs(9));
    assert!(poll(&mut polled).is_none());
    clock.advance(secs(1));
    let error = auth_error(poll(&mut polled).expect("the deadline has passed"));
    assert_eq!((error.kind(), error.is_transient()), (AuthErrorKind::FetchTimeout, true));
    assert_eq!(wakes.count(), 1, "the other waiter is woken");

    let mut second = get_token(tokens, "image-1");
    assert!(poll(&mut second).is_none());
    clock.advance(secs(10));
    let mut third = get_token(tokens, "image-1");
    assert!(poll(&mut third).is_none());
    assert_eq!((source.calls(), tokens.stats().failures), (3, 2), "the third caller ends the fetch of the second");
    assert_eq!(poll(&mut second).unwrap().unwrap_err().kind(), AuthErrorKind::FetchTimeout);
    assert_eq!(inner.count(), 0);
}

/// Nothing would drive it: the token serves until it has expired, and is fetched again then.
#[test]
fn c3_without_a_runtime_no_token_is_refreshed_ahead() {
    let (clock, source) = (ManualClock::default(), Source::new());
    let layer = jwt_with_clock(&clock, source.clone());
    let tokens = layer.token_cache().unwrap();
    let number_after = |seconds| {
        clock.advance(secs(seconds));
        number_of(&poll(&mut get_token(tokens, "image-1")).expect("the source need not wait"))
    };
    assert_eq!([number_after(0), number_after(54), number_after(1)], [1, 1, 2]);
    assert_eq!((source.calls(), tokens.stats().refreshes), (2, 0));
}
