//! Rules C2 and C3 for callers that drive a fetch: no wake-up is lost when callers join or leave, and no waker is
//! called while a lock is held.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::channel::oneshot;
use futures::{SinkExt, StreamExt};
use tower_aiuta_auth::TokenError;

use super::*;

/// A waker that counts its calls.
#[derive(Default)]
pub(super) struct CountingWaker(AtomicUsize);

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl CountingWaker {
    /// Returns the number of calls since the last time.
    pub(super) fn count(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

/// A waker that drops another caller.
struct DroppingWaker(Mutex<Option<Get>>);

impl Wake for DroppingWaker {
    fn wake(self: Arc<Self>) {
        drop(self.0.lock().unwrap().take());
    }
}

#[test]
fn c3_dropped_driver_hands_off_to_another_waiter() {
    let gate = Gate::closed();
    let source = Source::gated(&gate);
    let layer = jwt(source.clone()).build().unwrap();
    let tokens = layer.token_cache().unwrap();
    for woken_first in [false, true] {
        let image = format!("image-{woken_first}");
        let (mut first, mut second) = (get_token(tokens, &image), get_token(tokens, &image));
        let wakes = Arc::new(CountingWaker::default());
        let waker = Waker::from(Arc::clone(&wakes));
        assert!(second.poll_unpin(&mut Context::from_waker(&waker)).is_pending());
        assert!(poll(&mut first).is_none());
        if woken_first {
            gate.open(1);
            drop(first);
        } else {
            drop(first);
            gate.open(1);
        }
        assert!(wakes.count() > 0, "the other waiter is not woken");
        assert!(poll(&mut second).is_some());
    }
    assert_eq!(source.calls(), 2);
}

/// While one caller polls the source, the source wakes itself, and another caller joins and cannot poll it. The other
/// caller has to be woken once the source can be polled again.
#[test]
fn c3_wake_up_during_a_poll_reaches_a_caller_that_joined_meanwhile() {
    let other: Arc<Mutex<Option<Get>>> = Arc::default();
    let wakes = Arc::new(CountingWaker::default());
    let source = {
        let (other, wakes) = (Arc::clone(&other), Arc::clone(&wakes));
        Source::from_fn(move |call, request| {
            let (other, waker) = (Arc::clone(&other), Waker::from(Arc::clone(&wakes)));
            let mut polls = 0;
            async move {
                std::future::poll_fn(move |cx| {
                    polls += 1;
                    if polls == 2 {
                        cx.waker().wake_by_ref();
                        // On another thread, because this one is polling the source (rule C7).
                        let mut other = other.lock().unwrap();
                        let other = other.as_mut().unwrap();
                        let is_pending = std::thread::scope(|threads| {
                            let poll = || other.poll_unpin(&mut Context::from_waker(&waker)).is_pending();
                            threads.spawn(poll).join().unwrap()
                        });
                        assert!(is_pending);
                    }
                    if polls < 3 { Poll::Pending } else { Poll::Ready(()) }
                })
                .await;
                Ok(numbered_token(call, &request, secs(60)))
            }
        })
    };
    let layer = jwt(source.clone()).build().unwrap();
    let tokens = layer.token_cache().unwrap();
    let mut first = get_token(tokens, "image-1");
    *other.lock().unwrap() = Some(get_token(tokens, "image-1"));
    assert!(poll(&mut first).is_none());
    assert!(wakes.count() > 0, "the caller joined after the wake-up and was not woken again");
    let mut other = other.lock().unwrap().take().unwrap();
    assert_eq!(number_of(&poll(&mut other).unwrap()), 1);
    assert_eq!(source.calls(), 1);
}

/// Four threads with callers that join and leave, and a fifth thread that completes the fetches. Hangs if a wake-up is
/// lost.
#[test]
fn c3_no_wake_up_is_lost_among_threads() {
    const ROUNDS: usize = 200;
    let (to_complete, mut pending) = futures::channel::mpsc::channel::<oneshot::Sender<()>>(ROUNDS * 8);
    let source = Source::from_fn(move |call, request| {
        let mut to_complete = to_complete.clone();
        async move {
            for _ in 0..3 {
                let (answer, answered) = oneshot::channel();
                to_complete.send(answer).await.map_err(TokenError::new)?;
                answered.await.map_err(TokenError::new)?;
            }
            Ok(numbered_token(call, &request, secs(60)))
        }
    });
    let layer = jwt(source.clone()).build().unwrap();
    let tokens = layer.token_cache().unwrap().clone();
    let completing = std::thread::spawn(move || {
        while let Some(answer) = executor::block_on(pending.next()) {
            let _ = answer.send(());
        }
    });
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..ROUNDS {
                    let image = format!("image-{round}");
                    let mut leaving = get_token(&tokens, &image);
                    let _ = poll(&mut leaving);
                    let staying = get_token(&tokens, &image);
                    drop(leaving);
                    executor::block_on(staying).unwrap();
                }
            });
        }
    });
    assert_eq!(source.calls(), ROUNDS);
    drop((layer, tokens, source));
    completing.join().unwrap();
}

/// Deadlocks if a waker is called while a lock is held.
#[test]
fn c2_waker_may_drop_another_caller_of_the_same_fetch() {
    let (clock, gate) = (ManualClock::default(), Gate::closed());
    let layer = jwt_with_clock(&clock, Source::gated(&gate));
    let tokens = layer.token_cache().unwrap();
    for in_time in [true, false] {
        let image = format!("image-{in_time}");
        let [mut first, mut other, mut last] = std::array::from_fn(|_| get_token(tokens, &image));
        assert!(poll(&mut other).is_none());
        assert!(poll(&mut last).is_none());
        let waker = Waker::from(Arc::new(DroppingWaker(Mutex::new(Some(other)))));
        assert!(first.poll_unpin(&mut Context::from_waker(&waker)).is_pending());
        // It is woken to poll the source, or because the deadline has passed.
        match in_time {
            true => gate.open(1),
            false => clock.advance(secs(11)),
        }
        assert!(poll(&mut last).is_some());
        assert!(poll(&mut first).is_some());
    }
}
