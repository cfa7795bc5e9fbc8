//! Everything in the cache that needs tokio: timers, tasks, and the runtime that a fetch belongs to.
//!
//! With a runtime, timeouts and waits go by tokio's time, so that a step of the wall clock ends none of them. Without the
//! feature `tokio`, and where no runtime is entered, there is neither timer nor task: whoever awaits a fetch drives it,
//! and the [`Clock`](crate::Clock) tells when it has taken too long (rules C3, C4, C6).

use std::time::{Duration, SystemTime};

#[cfg(all(feature = "tokio", not(tower_aiuta_auth_model)))]
use self::with_tokio as runtime;
#[cfg(not(any(feature = "tokio", tower_aiuta_auth_model)))]
use self::without_tokio as runtime;
#[cfg(tower_aiuta_auth_model)]
use super::model as runtime;

pub(crate) use self::runtime::{HomeRuntime, Timer, is_entered};
use self::runtime::{Instant, now_on_runtime, to_std};

/// The time by which a fetch must end.
///
/// Tokio's time if the fetch started on a runtime, where a task drives it. Otherwise the clock's.
#[derive(Clone, Copy)]
pub(crate) enum Deadline {
    Timer(Instant),
    Clock(SystemTime),
}

/// If a fetch is still running this long after its deadline, nobody drives its runtime. Before that, its timer may
/// still fire.
const STALLED_AFTER: Duration = Duration::from_millis(100);

impl Deadline {
    /// The time `timeout` from now. `now` is the clock's.
    pub(crate) fn after(timeout: Duration, now: SystemTime) -> Self {
        match now_on_runtime() {
            Some(instant) => Self::Timer(instant + timeout),
            None => Self::Clock(now.checked_add(timeout).unwrap_or(now)),
        }
    }

    /// Returns whether the deadline has passed and the timer of the fetch, if there is one, has not ended it.
    pub(crate) fn is_missed(self, now: SystemTime) -> bool {
        self.left(now).is_zero()
    }

    /// Returns the time until [`is_missed`](Self::is_missed).
    pub(crate) fn left(self, now: SystemTime) -> Duration {
        match self {
            Self::Timer(at) => (at + STALLED_AFTER).saturating_duration_since(Instant::now()),
            Self::Clock(at) => at.duration_since(now).unwrap_or_default(),
        }
    }

    /// Returns whether a task drives the fetch and ends it at this time.
    pub(crate) fn has_timer(self) -> bool {
        matches!(self, Self::Timer(_))
    }

    pub(crate) fn to_std(self) -> Option<std::time::Instant> {
        match self {
            Self::Timer(at) => Some(to_std(at)),
            Self::Clock(_) => None,
        }
    }

    /// The timer of the task that drives the fetch.
    pub(crate) fn timer(self, timeout: Duration) -> Timer {
        match self {
            Self::Timer(at) => Timer::at(at),
            Self::Clock(_) => Timer::at(Instant::now() + timeout),
        }
    }

    /// The timer of a waiter on another runtime than that of the fetch: it can't rely on the timer there.
    pub(crate) fn foreign_timer(self, timeout: Duration) -> Timer {
        match self {
            Self::Timer(at) => Timer::at(at + STALLED_AFTER),
            Self::Clock(_) => Timer::at(Instant::now() + timeout),
        }
    }
}

/// A time to wait. It ends as soon as tokio's time or the clock says so.
#[derive(Clone, Copy)]
pub(crate) struct Pause {
    length: Duration,
    /// What the clock said when it began.
    since: SystemTime,
    /// Its end by tokio's time, if it began on a runtime.
    until: Option<Instant>,
}

impl Pause {
    /// Starts a pause. `now` is the clock's time.
    pub(crate) fn new(length: Duration, now: SystemTime) -> Self {
        Self { length, since: now, until: now_on_runtime().map(|instant| instant + length) }
    }

    /// Returns what is left of it. If the clock went back to before it began, the clock says nothing.
    pub(crate) fn left(&self, now: SystemTime) -> Option<Duration> {
        let by_clock = now.duration_since(self.since).ok().map(|elapsed| self.length.saturating_sub(elapsed));
        let by_timer = self.until.map(|until| until.saturating_duration_since(Instant::now()));
        by_clock.into_iter().chain(by_timer).min().filter(|left| !left.is_zero())
    }
}

#[cfg(all(feature = "tokio", not(tower_aiuta_auth_model)))]
mod with_tokio {
    use std::future::Future;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::pin::Pin;
    use std::sync::OnceLock;
    use std::task::{Context, Poll};

    use tokio::runtime::{Handle, Id};
    pub(crate) use tokio::time::Instant;
    use tokio::time::{Sleep, sleep_until};

    /// Returns whether the current thread is on a runtime.
    pub(crate) fn is_entered() -> bool {
        Handle::try_current().is_ok()
    }

    /// The runtime of the task that drives a fetch. Empty without such a task.
    #[derive(Default)]
    pub(crate) struct HomeRuntime(OnceLock<Handle>);

    impl HomeRuntime {
        /// Spawns the task from `make` on the current runtime, and stores that runtime. Does nothing outside a runtime.
        pub(crate) fn spawn<F>(&self, make: impl FnOnce() -> F)
        where
            F: Future<Output = ()> + Send + 'static,
        {
            if let Ok(runtime) = Handle::try_current() {
                drop(self.0.get_or_init(|| runtime).spawn(make()));
            }
        }

        /// Returns whether the current thread is on that runtime, so that whoever polls here also drives its tasks.
        pub(crate) fn is_current(&self) -> bool {
            match (self.0.get(), Handle::try_current()) {
                (Some(home), Ok(current)) => home.id() == current.id(),
                _ => false,
            }
        }
    }

    /// Tokio's time, or `None` outside tokio.
    pub(crate) fn now_on_runtime() -> Option<Instant> {
        is_entered().then(Instant::now)
    }

    pub(crate) fn to_std(instant: Instant) -> std::time::Instant {
        instant.into_std()
    }

    /// A timer, on the runtime that it is polled on.
    ///
    /// A future may be polled on one runtime and, when that is gone, on another. The timer moves along, since one of a
    /// runtime that was shut down panics.
    pub(crate) struct Timer {
        at: Instant,
        sleep: Option<(Id, Pin<Box<Sleep>>)>,
    }

    impl Timer {
        pub(crate) fn at(at: Instant) -> Self {
            Self { at, sleep: None }
        }

        /// Pending for ever if no runtime is entered, or only the handle of one that is gone.
        ///
        /// # Panics
        ///
        /// As tokio does, if the runtime has no timers.
        pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
            let Ok(runtime) = Handle::try_current().map(|handle| handle.id()) else {
                self.sleep = None;
                return Poll::Pending;
            };
            if self.sleep.as_ref().is_some_and(|(of, _)| *of != runtime) {
                self.sleep = None;
            }
            let (_, sleep) = self.sleep.get_or_insert_with(|| (runtime, Box::pin(sleep_until(self.at))));
            // The handle of a runtime that was shut down can still be entered. Its timers panic.
            catch_unwind(AssertUnwindSafe(|| sleep.as_mut().poll(cx))).unwrap_or_else(|_| {
                self.sleep = None;
                Poll::Pending
            })
        }
    }
}

#[cfg(not(any(feature = "tokio", tower_aiuta_auth_model)))]
mod without_tokio {
    use std::task::{Context, Poll};
    pub(crate) use std::time::Instant;

    pub(crate) fn is_entered() -> bool {
        false
    }

    pub(crate) fn now_on_runtime() -> Option<Instant> {
        None
    }

    pub(crate) fn to_std(instant: Instant) -> Instant {
        instant
    }

    #[derive(Default)]
    pub(crate) struct HomeRuntime(());

    #[allow(clippy::unused_self, reason = "as with tokio")]
    impl HomeRuntime {
        pub(crate) fn spawn<F>(&self, _: impl FnOnce() -> F) {}

        pub(crate) fn is_current(&self) -> bool {
            false
        }
    }

    pub(crate) struct Timer;

    #[allow(clippy::unused_self, reason = "as with tokio")]
    impl Timer {
        pub(crate) fn at(_: Instant) -> Self {
            Self
        }

        pub(crate) fn poll(&mut self, _: &mut Context<'_>) -> Poll<()> {
            Poll::Pending
        }
    }
}
