//! Trouble on demand: what a test can make a [`FakeAiuta`](super::FakeAiuta) do.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use tokio::sync::watch;

/// What is answered in place of the right answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// 401 with an empty body, whatever the credential.
    Unauthorized,
    /// 429 with an empty body, as an API gateway answers.
    TooManyRequests {
        /// Sent as `Retry-After` in whole seconds, rounded up.
        retry_after: Duration,
    },
    /// 503 with an empty body.
    Unavailable,
    /// No answer: the connection is cut. In process, the service returns an error.
    Disconnect,
}

/// Keeps requests waiting until it is dropped; made by [`FakeAiuta::hold`](super::FakeAiuta::hold).
#[must_use = "requests go on as soon as it is dropped"]
pub struct Hold {
    holds: watch::Sender<usize>,
}

impl Hold {
    pub(super) fn new(holds: &watch::Sender<usize>) -> Self {
        holds.send_modify(|count| *count += 1);
        Self { holds: holds.clone() }
    }

    /// Lets the requests go on, unless another [`Hold`] still keeps them. The same as dropping it.
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

/// A queue of what is to happen to the next requests, each entry with how many requests it is for.
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

    /// What the script has for the request that has just arrived.
    pub(super) fn next(&mut self) -> Option<T> {
        let (left, item) = self.0.front_mut()?;
        let item = *item;
        *left -= 1;
        if *left == 0 {
            self.0.pop_front();
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_played_in_order_and_ends() {
        let mut script = Script::default();
        script.push(2, 'a');
        script.push(0, 'b');
        script.push(1, 'c');
        assert_eq!([(); 5].map(|()| script.next()), [Some('a'), Some('a'), Some('c'), None, None]);
    }
}
