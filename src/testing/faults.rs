//! Failures and delays that a test can request from a [`FakeAiuta`](super::FakeAiuta).

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use tokio::sync::watch;

/// A failure that replaces the response to a request; see [`FakeAiuta::fail_next`](super::FakeAiuta::fail_next).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// 401 with an empty body, even if the credential is valid.
    Unauthorized,
    /// 429 with an empty body, as sent by an API gateway.
    TooManyRequests {
        /// The value of `Retry-After`, rounded up to whole seconds.
        retry_after: Duration,
    },
    /// 503 with an empty body.
    Unavailable,
    /// No response: the connection is closed. Called as a Tower service, [`FakeAiuta`](super::FakeAiuta) returns an
    /// error.
    Disconnect,
}

/// Guard that keeps requests waiting until it is dropped. Created by [`FakeAiuta::hold`](super::FakeAiuta::hold).
#[must_use = "requests continue as soon as the guard is dropped"]
pub struct Hold {
    holds: watch::Sender<usize>,
}

impl Hold {
    pub(super) fn new(holds: &watch::Sender<usize>) -> Self {
        holds.send_modify(|count| *count += 1);
        Self { holds: holds.clone() }
    }

    /// Drops the guard. The requests continue once no other [`Hold`] exists.
    pub fn release(self) {}
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.holds.send_modify(|count| *count -= 1);
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold").finish_non_exhaustive()
    }
}

/// A queue of items for the next requests. Each entry contains the number of requests it applies to.
pub(super) struct Script<T>(VecDeque<(usize, T)>);

impl<T> Default for Script<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T: Copy> Script<T> {
    pub(super) fn push(&mut self, requests: usize, item: T) {
        if requests > 0 {
            self.0.push_back((requests, item));
        }
    }

    /// Returns the item for the request that just arrived.
    pub(super) fn next(&mut self) -> Option<T> {
        let (remaining, item) = self.0.front_mut()?;
        let item = *item;
        *remaining -= 1;
        if *remaining == 0 {
            self.0.pop_front();
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn script_runs_in_order_and_ends() {
        let mut script = Script::default();
        script.push(2, 'a');
        script.push(0, 'b');
        script.push(1, 'c');
        assert_eq!([(); 5].map(|()| script.next()), [Some('a'), Some('a'), Some('c'), None, None]);
    }
}
