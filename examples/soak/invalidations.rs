//! Tracks the events after which the cache may call the token source for the same params while another call still runs:
//! invalidations, clock steps, and 401 responses.
//!
//! Such an event begins before the layer can know of it, and ends after the layer has handled it. An event is taken to
//! lie between two points in time if it had not ended at the earlier one. So no event is missed, however the threads
//! interleave.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

thread_local! {
    static POLL: Cell<Option<Poll>> = const { Cell::new(None) };
    static REJECTIONS: Cell<u64> = const { Cell::new(0) };
}

/// One poll of a caller's future on the current thread. Everything that the layer decides during the poll is decided
/// after it began.
#[derive(Clone, Copy)]
pub(crate) struct Poll {
    began: Instant,
    /// Number of events that had ended when the poll began.
    ended: u64,
}

impl Poll {
    /// Returns the poll that this thread is in. A source is first polled while its caller is polled.
    pub(crate) fn current() -> Option<Self> {
        POLL.get()
    }

    pub(crate) fn began(self) -> Instant {
        self.began
    }
}

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
        REJECTIONS.set(REJECTIONS.get() + 1);
    }

    /// Polls a call through the layer, and records each poll.
    pub(crate) async fn watch<F: Future>(&self, call: F) -> F::Output {
        let mut call = pin!(call);
        poll_fn(|cx| {
            POLL.set(Some(Poll { began: Instant::now(), ended: self.ended.load(Ordering::SeqCst) }));
            let polled = call.as_mut().poll(cx);
            self.ended.fetch_add(REJECTIONS.take(), Ordering::SeqCst);
            POLL.set(None);
            polled
        })
        .await
    }

    /// Returns whether an event may have occurred between two polls, in either order.
    pub(crate) fn any_between(&self, one: Poll, other: Poll) -> bool {
        self.begun.load(Ordering::SeqCst) > one.ended.min(other.ended)
    }
}
