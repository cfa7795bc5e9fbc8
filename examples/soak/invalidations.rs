//! Tracks the events after which the cache may call the token source for the same params while another call still runs:
//! invalidations, clock steps, shutdowns of runtimes, and 401 responses.
//!
//! Such an event begins before the layer can know of it, and ends after the layer has handled it. An event is taken to
//! lie between two points in time if it had not ended at the earlier one. So no event is missed, however the threads
//! interleave.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::call::{self, Call, Poll};

#[derive(Default)]
pub(crate) struct Invalidations {
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Invalidations {
    /// Runs `invalidate` and counts it as an event.
    pub(crate) fn during<T>(&self, invalidate: impl FnOnce() -> T) -> T {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let result = invalidate();
        self.ended.fetch_add(1, Ordering::SeqCst);
        result
    }

    /// Counts a 401 response, which the layer handles later in the same poll.
    pub(crate) fn rejection(&self) {
        self.begun.fetch_add(1, Ordering::SeqCst);
        call::with(|call| call.rejections += 1);
    }

    /// Polls a call through the layer, and records each poll.
    pub(crate) async fn watch<F: Future>(&self, slow: Duration, future: F) -> F::Output {
        let mut future = pin!(future);
        let mut call = Some(Call::new(slow));
        poll_fn(|cx| {
            let mut current = call.take().expect("put back after each poll");
            current.poll = Poll::begin(self.ended.load(Ordering::SeqCst));
            let (mut current, polled) = current.within(|| future.as_mut().poll(cx));
            self.ended.fetch_add(std::mem::take(&mut current.rejections), Ordering::SeqCst);
            call = Some(current);
            polled
        })
        .await
    }

    /// Returns whether an event may have occurred between two polls, in either order.
    pub(crate) fn any_between(&self, one: Poll, other: Poll) -> bool {
        self.begun.load(Ordering::SeqCst) > one.ended.min(other.ended)
    }
}
