//! Rules C2 and C3 among callers that drive a flight: nobody's coming or leaving loses a wake-up, and none is given under a lock.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::channel::oneshot;
use futures::{SinkExt, StreamExt};
use tower_aiuta_auth::TokenError;

use super::*;

/// Counts how often it is woken.
#[derive(Default)]
pub(super) struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Wakes {
    /// Since this was last asked.
    pub(super) fn count(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

/// Drops another caller when it is woken.
struct Dropping(Mutex<Option<Getting>>);

impl Wake for Dropping {
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
        let (mut first, mut second) = (getting(tokens, &image), getting(tokens, &image));
        let wakes = Arc::new(Wakes::default());
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
        assert!(wakes.count() > 0, "nobody goes on");
        assert!(poll(&mut second).is_some());
    }
    assert_eq!(source.calls(), 2);
}

/// The source is woken, and another caller comes and goes away empty-handed, while a caller polls the source: the other has to be woken
/// again once the call can be had.
#[test]
fn c3_wake_up_during_a_poll_reaches_a_caller_that_joined_meanwhile() {
    let other: Arc<Mutex<Option<Getting>>> = Arc::default();
    let wakes = Arc::new(Wakes::default());
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
                        let mut other = other.lock().unwrap();
                        let other = other.as_mut().unwrap();
                        assert!(other.poll_unpin(&mut Context::from_waker(&waker)).is_pending());
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
    let mut first = getting(tokens, "image-1");
    *other.lock().unwrap() = Some(getting(tokens, "image-1"));
    assert!(poll(&mut first).is_none());
    assert!(wakes.count() > 0, "it was woken before it came, and nobody told it");
    let mut other = other.lock().unwrap().take().unwrap();
    assert_eq!(number_of(&poll(&mut other).unwrap()), 1);
    assert_eq!(source.calls(), 1);
}

/// Four threads, each with callers that come and go, and a fifth that answers: would not end if a wake-up were lost.
#[test]
fn c3_no_wake_up_is_lost_among_threads() {
    const ROUNDS: usize = 200;
    let (asked, mut asking) = futures::channel::mpsc::channel::<oneshot::Sender<()>>(ROUNDS * 8);
    let source = Source::from_fn(move |call, request| {
        let mut asked = asked.clone();
        async move {
            for _ in 0..3 {
                let (answer, answered) = oneshot::channel();
                asked.send(answer).await.map_err(TokenError::new)?;
                answered.await.map_err(TokenError::new)?;
            }
            Ok(numbered_token(call, &request, secs(60)))
        }
    });
    let layer = jwt(source.clone()).build().unwrap();
    let tokens = layer.token_cache().unwrap().clone();
    let answering = std::thread::spawn(move || {
        while let Some(answer) = executor::block_on(asking.next()) {
            let _ = answer.send(());
        }
    });
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..ROUNDS {
                    let image = format!("image-{round}");
                    let mut leaving = getting(&tokens, &image);
                    let _ = poll(&mut leaving);
                    let staying = getting(&tokens, &image);
                    drop(leaving);
                    executor::block_on(staying).unwrap();
                }
            });
        }
    });
    assert_eq!(source.calls(), ROUNDS);
    drop((layer, tokens, source));
    answering.join().unwrap();
}

/// Would not end if a waker were called under a lock.
#[test]
fn c2_waker_may_drop_another_caller_of_the_same_fetch() {
    let (clock, gate) = (ManualClock::default(), Gate::closed());
    let layer = jwt_with_clock(&clock, Source::gated(&gate));
    let tokens = layer.token_cache().unwrap();
    for in_time in [true, false] {
        let image = format!("image-{in_time}");
        let [mut first, mut other, mut last] = std::array::from_fn(|_| getting(tokens, &image));
        assert!(poll(&mut other).is_none());
        assert!(poll(&mut last).is_none());
        let waker = Waker::from(Arc::new(Dropping(Mutex::new(Some(other)))));
        assert!(first.poll_unpin(&mut Context::from_waker(&waker)).is_pending());
        // It is woken to go on with the call, or because its time is up.
        match in_time {
            true => gate.open(1),
            false => clock.advance(secs(11)),
        }
        assert!(poll(&mut last).is_some());
        assert!(poll(&mut first).is_some());
    }
}
