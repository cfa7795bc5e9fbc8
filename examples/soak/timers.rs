//! Timers for callers and the token source, on a runtime or without one.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// Interval at which a call without a runtime is polled. It has no timer of its own, so without this it would not
/// notice that a fetch has missed its deadline.
const TICK: Duration = Duration::from_millis(20);

/// Uses the timers of the current runtime. Without one, uses the timers of the main runtime, by a task there.
#[derive(Clone)]
pub(crate) struct Timers(pub(crate) Handle);

impl Timers {
    pub(crate) async fn sleep(&self, length: Duration) {
        match Handle::try_current() {
            Ok(_) => tokio::time::sleep(length).await,
            Err(_) => {
                // The set ends the task when this future is dropped.
                let mut task = JoinSet::new();
                task.spawn_on(async move { tokio::time::sleep(length).await }, &self.0);
                task.join_next().await;
            }
        }
    }

    /// Returns `None` if `future` takes longer than `limit`.
    pub(crate) async fn timeout<F: Future>(&self, limit: Duration, future: F) -> Option<F::Output> {
        if Handle::try_current().is_ok() {
            return tokio::time::timeout(limit, future).await.ok();
        }
        let mut future = pin!(future);
        let mut limit = pin!(self.sleep(limit));
        let mut tick = Box::pin(self.sleep(TICK));
        std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            while tick.as_mut().poll(cx).is_ready() {
                tick = Box::pin(self.sleep(TICK));
            }
            limit.as_mut().poll(cx).map(|()| None)
        })
        .await
    }
}
