//! The call that the current thread polls: what the layer's surroundings know of it without seeing a request.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

thread_local! {
    static CURRENT: RefCell<Option<Call>> = const { RefCell::new(None) };
}

/// One poll of a caller's future on the current thread. Everything that the layer decides during the poll is decided
/// after it began.
#[derive(Clone, Copy)]
pub(crate) struct Poll {
    pub(crate) began: Instant,
    /// Number of events that had ended when the poll began.
    pub(crate) ended: u64,
    /// Whether a runtime is entered.
    pub(crate) on_runtime: bool,
}

impl Poll {
    pub(crate) fn begin(ended: u64) -> Self {
        Self { began: Instant::now(), ended, on_runtime: Handle::try_current().is_ok() }
    }

    /// Returns the poll that this thread is in. A source is first polled while its caller is polled.
    pub(crate) fn current() -> Option<Self> {
        with(|call| call.poll)
    }
}

/// A caller's call through the layer.
pub(crate) struct Call {
    pub(crate) poll: Poll,
    pub(crate) began: Instant,
    /// How long the service below the layer takes to become ready for the second time.
    pub(crate) slow: Duration,
    /// Number of times that a service of this call began to become ready.
    pub(crate) readied: u32,
    /// Number of requests that the layer has sent.
    pub(crate) sent: u32,
    /// Whether a 401 response had a false date.
    pub(crate) saw_false_date: bool,
    /// Number of 401 responses in this poll, which the layer handles before the poll ends.
    pub(crate) rejections: u64,
}

impl Call {
    pub(crate) fn new(slow: Duration) -> Self {
        let poll = Poll::begin(0);
        Self { poll, began: poll.began, slow, readied: 0, sent: 0, saw_false_date: false, rejections: 0 }
    }

    /// Runs `poll` as a part of this call.
    pub(crate) fn within<T>(self, poll: impl FnOnce() -> T) -> (Self, T) {
        CURRENT.set(Some(self));
        let polled = poll();
        (CURRENT.take().expect("set above"), polled)
    }
}

/// Calls `f` with the call that this thread polls, if there is one.
pub(crate) fn with<T>(f: impl FnOnce(&mut Call) -> T) -> Option<T> {
    CURRENT.with_borrow_mut(|call| call.as_mut().map(f))
}
