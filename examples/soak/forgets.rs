//! What makes the cache forget a token or a fetch, so that it may call the source for the same params while another call still runs.
//!
//! Such an event begins before the layer can know of it, and ends when the layer is through with it. Whoever asks whether there was one since
//! some moment counts those that had not ended by then: so no event is missed, whatever the threads do in between.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

thread_local! {
    static POLL: Cell<Option<Poll>> = const { Cell::new(None) };
    static REFUSALS: Cell<u64> = const { Cell::new(0) };
}

/// One turn of a caller's future on a thread. What the layer decides in it, it decides no earlier.
#[derive(Clone, Copy)]
pub(crate) struct Poll {
    began: Instant,
    /// The events that had ended by then.
    ended: u64,
}

impl Poll {
    /// The turn that this thread is in: a source is first called in a turn of the one who needs it.
    pub(crate) fn current() -> Option<Self> {
        POLL.get()
    }

    pub(crate) fn began(self) -> Instant {
        self.began
    }
}

#[derive(Default)]
pub(crate) struct Forgets {
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Forgets {
    /// `forget` is an event.
    pub(crate) fn during<T>(&self, forget: impl FnOnce() -> T) -> T {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let result = forget();
        self.ended.fetch_add(1, Ordering::SeqCst);
        result
    }

    /// A 401 is about to reach the layer, which deals with it in this very turn.
    pub(crate) fn refusal(&self) {
        self.begun.fetch_add(1, Ordering::SeqCst);
        REFUSALS.set(REFUSALS.get() + 1);
    }

    /// Polls a call through the layer, and keeps account of its turns.
    pub(crate) async fn watch<F: Future>(&self, call: F) -> F::Output {
        let mut call = pin!(call);
        poll_fn(|cx| {
            POLL.set(Some(Poll { began: Instant::now(), ended: self.ended.load(Ordering::SeqCst) }));
            let polled = call.as_mut().poll(cx);
            self.ended.fetch_add(REFUSALS.take(), Ordering::SeqCst);
            POLL.set(None);
            polled
        })
        .await
    }

    /// Whether anything may have been forgotten between the decisions that were made in these two turns. Which of them came first does
    /// not matter.
    pub(crate) fn any_between(&self, one: Poll, other: Poll) -> bool {
        self.begun.load(Ordering::SeqCst) > one.ended.min(other.ended)
    }
}
