//! Everything in the cache that needs tokio: timers, tasks, and the runtime that a fetch belongs to.
//!
//! With a runtime, timeouts use tokio's time, so a change of the wall clock does not end a fetch. Without the feature
//! `tokio`, or outside a runtime, there are no timers and no tasks. The waiters of a fetch drive it then, and the
//! [`Clock`](crate::Clock) shows when the fetch has taken too long (rules C3, C4, C6).

use std::time::{Duration, SystemTime};

#[cfg(all(feature = "tokio", not(tower_aiuta_auth_model)))]
use self::with_tokio as runtime;
#[cfg(not(any(feature = "tokio", tower_aiuta_auth_model)))]
use self::without_tokio as runtime;
#[cfg(tower_aiuta_auth_model)]
use super::model as runtime;

pub(crate) use self::runtime::{HomeRuntime, Instant, Timer, is_entered};
use self::runtime::{now_on_runtime, to_std};

/// The time by which a fetch must end.
///
/// If the fetch started on a runtime, a task drives it, and this is a time of tokio. Otherwise this is a time of the
/// clock.
#[derive(Clone, Copy)]
pub(crate) enum Deadline {
    Timer(Instant),
    Clock(SystemTime),
}

/// If a fetch is still running this long after its deadline, nobody drives its runtime. Before that time, the timer of
/// the fetch may still fire.
const STALLED_AFTER: Duration = Duration::from_millis(100);

impl Deadline {
    /// Returns the deadline that is `timeout` from now. `now` is the time of the clock.
    pub(crate) fn after(timeout: Duration, now: SystemTime) -> Self {
        match now_on_runtime() {
            Some(instant) => Self::Timer(instant + timeout),
            None => Self::Clock(now.checked_add(timeout).unwrap_or(now)),
        }
    }

    /// Returns whether the deadline has passed. A fetch with a timer gets [`STALLED_AFTER`] in addition, because its
    /// timer should end it.
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

    /// Returns the timer for the task that drives the fetch.
    pub(crate) fn timer(self, timeout: Duration) -> Timer {
        match self {
            Self::Timer(at) => Timer::at(at),
            Self::Clock(_) => Timer::at(Instant::now() + timeout),
        }
    }

    /// Returns a timer for a waiter whose runtime is not the runtime of the fetch. This waiter can't rely on the timer
    /// of the task.
    pub(crate) fn foreign_timer(self, timeout: Duration) -> Timer {
        match self {
            Self::Timer(at) => Timer::at(at + STALLED_AFTER),
            Self::Clock(_) => Timer::at(Instant::now() + timeout),
        }
    }
}

/// A period of waiting. It ends as soon as its length has passed in tokio's time or on the clock.
#[derive(Clone, Copy)]
pub(crate) struct Pause {
    length: Duration,
    /// The time of the clock when the pause began.
    since: SystemTime,
    /// The end in tokio's time, if the pause began on a runtime.
    until: Option<Instant>,
}

impl Pause {
    /// Starts a pause. `now` is the time of the clock.
    pub(crate) fn new(length: Duration, now: SystemTime) -> Self {
        Self { length, since: now, until: now_on_runtime().map(|instant| instant + length) }
    }

    /// Returns the time until the pause ends, or `None` if it has ended. If the clock was set back to before the start
    /// of the pause, the clock is ignored.
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

    /// The runtime of the task that drives a fetch. Empty if there is no such task.
    #[derive(Default)]
    pub(crate) struct HomeRuntime(OnceLock<Handle>);

    impl HomeRuntime {
        /// Spawns the task that `make` returns on the current runtime, and stores that runtime. Does nothing outside a
        /// runtime.
        pub(crate) fn spawn<F>(&self, make: impl FnOnce() -> F)
        where
            F: Future<Output = ()> + Send + 'static,
        {
            if let Ok(runtime) = Handle::try_current() {
                drop(self.0.get_or_init(|| runtime).spawn(make()));
            }
        }

        /// Returns whether the current thread is on this runtime. If so, the runtime is running, and so are its tasks.
        pub(crate) fn is_current(&self) -> bool {
            match (self.0.get(), Handle::try_current()) {
                (Some(home), Ok(current)) => home.id() == current.id(),
                _ => false,
            }
        }
    }

    /// Returns tokio's time, or `None` outside a runtime.
    pub(crate) fn now_on_runtime() -> Option<Instant> {
        is_entered().then(Instant::now)
    }

    pub(crate) fn to_std(instant: Instant) -> std::time::Instant {
        instant.into_std()
    }

    /// A timer that runs on the runtime on which it is polled.
    ///
    /// A future may be polled on one runtime and, after that runtime was shut down, on another. The timer of a runtime
    /// that was shut down panics. So this timer creates a new tokio timer on the new runtime.
    pub(crate) struct Timer {
        at: Instant,
        sleep: Option<(Id, Pin<Box<Sleep>>)>,
    }

    impl Timer {
        pub(crate) fn at(at: Instant) -> Self {
            Self { at, sleep: None }
        }

        /// Returns `Pending` for ever if no runtime is entered, or if the entered runtime was shut down.
        ///
        /// # Panics
        ///
        /// Panics if the runtime has no timers, as tokio's timers do.
        pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
            let Ok(runtime) = Handle::try_current().map(|handle| handle.id()) else {
                self.sleep = None;
                return Poll::Pending;
            };
            if self.sleep.as_ref().is_some_and(|(of, _)| *of != runtime) {
                self.sleep = None;
            }
            let (_, sleep) = self.sleep.get_or_insert_with(|| (runtime, Box::pin(sleep_until(self.at))));
            // A runtime that was shut down can still be entered through its handle. Its timers panic then.
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
