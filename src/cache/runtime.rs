//! How long one waiter waits: by tokio's timer where there is one, otherwise by the [`Clock`](crate::Clock) whenever it is polled
//! (rules C4, C6).

#[cfg(tower_aiuta_auth_model)]
pub(crate) use super::model::Deadline;
#[cfg(all(feature = "tokio", not(tower_aiuta_auth_model)))]
pub(crate) use with_tokio::Deadline;
#[cfg(not(any(feature = "tokio", tower_aiuta_auth_model)))]
pub(crate) use without_tokio::Deadline;

#[cfg(all(feature = "tokio", not(tower_aiuta_auth_model)))]
mod with_tokio {
    use std::collections::VecDeque;
    use std::future::Future;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::pin::Pin;
    use std::sync::Mutex;
    use std::task::{Context, Poll};
    use std::time::Duration;

    use tokio::runtime::{Handle, Id};
    use tokio::time::{Instant, Sleep, sleep_until};

    use crate::cache::lock;

    /// A timer that is set at the first poll, on the runtime it is polled on.
    ///
    /// A future may be polled on one runtime and, when that is gone, on another: the timer moves along, since one of a runtime
    /// that was shut down panics. By a [`Handle`] it may even be polled on the runtime that is gone; there are no timers then.
    pub(crate) struct Deadline {
        timeout: Duration,
        at: Option<Instant>,
        timer: Option<(Id, Pin<Box<Sleep>>)>,
    }

    impl Deadline {
        pub(crate) fn new(timeout: Duration) -> Self {
            Self { timeout, at: None, timer: None }
        }

        /// Whether the time is up; `None` where no timer can tell.
        pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Option<Poll<()>> {
            let Ok(runtime) = Handle::try_current().map(|handle| handle.id()) else {
                self.timer = None;
                return None;
            };
            let at = *self.at.get_or_insert_with(|| Instant::now() + self.timeout);
            if self.timer.as_ref().is_none_or(|(of, _)| *of != runtime) {
                self.timer = sleep_on(runtime, at).map(|sleep| (runtime, sleep));
            }
            let (_, sleep) = self.timer.as_mut()?;
            let polled = catch_unwind(AssertUnwindSafe(|| sleep.as_mut().poll(cx)));
            if polled.is_err() {
                remember_timerless(runtime);
                self.timer = None;
            }
            polled.ok()
        }
    }

    /// Runtimes that were found to have no timers, or none any more. There are seldom any; past this number the oldest is asked again.
    /// Ids may be used again once a runtime is gone; at worst its namesake goes by the clock.
    static TIMERLESS: Mutex<VecDeque<Id>> = Mutex::new(VecDeque::new());
    const MAX_TIMERLESS: usize = 64;

    /// A timer, unless the runtime was built without. tokio has no way to ask: it panics (tokio issue 8361), so that is caught, and
    /// remembered, so that it happens once a runtime. A process that aborts on panic needs runtimes with timers enabled.
    fn sleep_on(runtime: Id, at: Instant) -> Option<Pin<Box<Sleep>>> {
        if lock(&TIMERLESS).contains(&runtime) {
            return None;
        }
        if let Ok(sleep) = catch_unwind(|| Box::pin(sleep_until(at))) {
            return Some(sleep);
        }
        remember_timerless(runtime);
        None
    }

    fn remember_timerless(runtime: Id) {
        let mut timerless = lock(&TIMERLESS);
        if timerless.len() == MAX_TIMERLESS {
            timerless.pop_front();
        }
        timerless.push_back(runtime);
    }
}

#[cfg(not(any(feature = "tokio", tower_aiuta_auth_model)))]
mod without_tokio {
    use std::task::{Context, Poll};
    use std::time::Duration;

    pub(crate) struct Deadline;

    impl Deadline {
        pub(crate) fn new(_timeout: Duration) -> Self {
            Self
        }

        #[allow(clippy::unused_self, reason = "the same face as with tokio")]
        pub(crate) fn poll(&mut self, _cx: &mut Context<'_>) -> Option<Poll<()>> {
            None
        }
    }
}

#[cfg(feature = "tokio")]
pub(crate) use home_with_tokio::Home;
#[cfg(not(feature = "tokio"))]
pub(crate) use home_without_tokio::Home;

#[cfg(feature = "tokio")]
mod home_with_tokio {
    use std::sync::OnceLock;

    use tokio::runtime::Handle;

    /// Empty until a task drives the flight.
    #[derive(Default)]
    pub(crate) struct Home(OnceLock<Handle>);

    impl Home {
        pub(crate) fn set(&self, runtime: &Handle) {
            self.0.get_or_init(|| runtime.clone());
        }

        /// Runs `f` in the context of that runtime: timers and sockets that the source makes are that runtime's, and there is one at all
        /// if the waiter that polls has none.
        pub(crate) fn within<T>(&self, f: impl FnOnce() -> T) -> T {
            let _entered = self.0.get().map(Handle::enter);
            f()
        }
    }
}

#[cfg(not(feature = "tokio"))]
mod home_without_tokio {
    #[derive(Default)]
    pub(crate) struct Home(());

    impl Home {
        #[allow(clippy::unused_self, reason = "the same face as with tokio")]
        pub(crate) fn within<T>(&self, f: impl FnOnce() -> T) -> T {
            f()
        }
    }
}
