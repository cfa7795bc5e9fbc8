//! The runtime on which a flight began: a source may need it, whoever polls its call.

#[cfg(feature = "tokio")]
pub(crate) use with_tokio::Home;
#[cfg(not(feature = "tokio"))]
pub(crate) use without_tokio::Home;

#[cfg(feature = "tokio")]
mod with_tokio {
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
mod without_tokio {
    #[derive(Default)]
    pub(crate) struct Home(());

    impl Home {
        #[allow(clippy::unused_self, reason = "the same face as with tokio")]
        pub(crate) fn within<T>(&self, f: impl FnOnce() -> T) -> T {
            f()
        }
    }
}
