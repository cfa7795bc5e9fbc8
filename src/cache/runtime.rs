//! Everything in the cache that needs tokio: timers, tasks, and the runtime that a fetch belongs to.
//!
//! Without the feature `tokio`, and where no runtime is entered, there is neither timer nor task: whoever awaits a fetch
//! drives it, and the [`Clock`](crate::Clock) tells when it has taken too long (rules C3, C4, C6).

#[cfg(feature = "tokio")]
pub(crate) use self::with_tokio::HomeRuntime;
#[cfg(all(feature = "tokio", not(tower_aiuta_auth_model)))]
pub(crate) use self::with_tokio::{Timer, is_entered, spawn};
#[cfg(not(feature = "tokio"))]
pub(crate) use self::without_tokio::HomeRuntime;
#[cfg(not(any(feature = "tokio", tower_aiuta_auth_model)))]
pub(crate) use self::without_tokio::{Timer, is_entered, spawn};
#[cfg(tower_aiuta_auth_model)]
pub(crate) use super::model::{Timer, is_entered, spawn};

#[cfg(feature = "tokio")]
mod with_tokio {
    use std::future::Future;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::pin::Pin;
    use std::sync::{Arc, OnceLock};
    use std::task::{Context, Poll};
    use std::time::Duration;

    use tokio::runtime::{Handle, Id};
    use tokio::time::{Instant, Sleep, sleep_until};

    use crate::cache::fetch::Fetch;
    use crate::cache::state::CacheState;
    use crate::cache::wait::FetchTask;

    /// Returns whether the current thread is on a runtime, so that [`spawn`] has a task drive the fetch.
    pub(crate) fn is_entered() -> bool {
        Handle::try_current().is_ok()
    }

    /// Has a task drive the fetch, if a runtime is entered.
    pub(crate) fn spawn(state: &Arc<CacheState>, fetch: &Arc<Fetch>) {
        let Ok(runtime) = Handle::try_current() else { return };
        fetch.runtime.set(&runtime);
        drop(runtime.spawn(FetchTask::new(state, fetch)));
    }

    /// The runtime on which a fetch started. The source may need it, whoever polls its call.
    ///
    /// Empty until a task drives the fetch.
    #[derive(Default)]
    pub(crate) struct HomeRuntime(OnceLock<Handle>);

    impl HomeRuntime {
        fn set(&self, runtime: &Handle) {
            self.0.get_or_init(|| runtime.clone());
        }

        /// Calls `f` in the context of that runtime, so that timers and sockets that the source makes belong to it.
        pub(crate) fn within<T>(&self, f: impl FnOnce() -> T) -> T {
            let _entered = self.0.get().map(Handle::enter);
            f()
        }
    }

    /// A timeout that is started at the first poll, on the runtime it is polled on.
    ///
    /// A future may be polled on one runtime and, when that is gone, on another. The timer moves along, since one of a
    /// runtime that was shut down panics.
    pub(crate) struct Timer {
        timeout: Duration,
        deadline: Option<Instant>,
        sleep: Option<(Id, Pin<Box<Sleep>>)>,
    }

    impl Timer {
        pub(crate) fn new(timeout: Duration) -> Self {
            Self { timeout, deadline: None, sleep: None }
        }

        /// Returns whether the time is up; `None` if no runtime is entered, or only the handle of one that is gone.
        ///
        /// # Panics
        ///
        /// As tokio does, if the runtime has no timers.
        pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Option<Poll<()>> {
            let Ok(runtime) = Handle::try_current().map(|handle| handle.id()) else {
                self.sleep = None;
                return None;
            };
            let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + self.timeout);
            if self.sleep.as_ref().is_none_or(|(of, _)| *of != runtime) {
                self.sleep = Some((runtime, Box::pin(sleep_until(deadline))));
            }
            let (_, sleep) = self.sleep.as_mut()?;
            // The handle of a runtime that was shut down can still be entered. Its timers panic.
            let polled = catch_unwind(AssertUnwindSafe(|| sleep.as_mut().poll(cx)));
            if polled.is_err() {
                self.sleep = None;
            }
            polled.ok()
        }
    }
}

#[cfg(not(feature = "tokio"))]
mod without_tokio {
    #[cfg(not(tower_aiuta_auth_model))]
    pub(crate) use self::driven_by_waiters::{Timer, is_entered, spawn};

    #[derive(Default)]
    pub(crate) struct HomeRuntime(());

    impl HomeRuntime {
        #[allow(clippy::unused_self, reason = "as with tokio")]
        pub(crate) fn within<T>(&self, f: impl FnOnce() -> T) -> T {
            f()
        }
    }

    #[cfg(not(tower_aiuta_auth_model))]
    mod driven_by_waiters {
        use std::sync::Arc;
        use std::task::{Context, Poll};
        use std::time::Duration;

        use crate::cache::fetch::Fetch;
        use crate::cache::state::CacheState;

        pub(crate) fn is_entered() -> bool {
            false
        }

        pub(crate) fn spawn(_: &Arc<CacheState>, _: &Arc<Fetch>) {}

        pub(crate) struct Timer;

        impl Timer {
            pub(crate) fn new(_: Duration) -> Self {
                Self
            }

            #[allow(clippy::unused_self, reason = "as with tokio")]
            pub(crate) fn poll(&mut self, _: &mut Context<'_>) -> Option<Poll<()>> {
                None
            }
        }
    }
}
