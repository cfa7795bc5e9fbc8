//! [`Cooldowns`]: pauses that the token source asked for (rule G2). During a pause the source is not called, either for
//! one partition or for everyone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::lock;
use super::runtime::Pause;
use crate::error::{AuthError, TokenError};
use crate::sync::Mutex;

/// Maximum length of a pause. If the source asks for a longer pause, it is called after this time.
const MAX_PAUSE: Duration = Duration::from_secs(5 * 60);

/// Maximum number of paused partitions. There is a limit because every user can cause a pause for their own partition.
/// If there are more, the pause that ends first is dropped, and the source is called too early for that partition.
const MAX_PARTITIONS: usize = 1024;

/// A pause and the error that caused it.
#[derive(Clone)]
struct Cooldown {
    pause: Pause,
    cause: Arc<TokenError>,
}

#[derive(Default)]
pub(crate) struct Cooldowns {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    everyone: Option<Cooldown>,
    partitions: HashMap<String, Cooldown>,
}

impl Cooldowns {
    /// Begins a pause if `cause` asks for one. If a running pause ends later, it is kept. Returns the length of the
    /// pause that `cause` asks for, up to [`MAX_PAUSE`].
    pub(crate) fn begin(&self, partition: Option<&str>, now: SystemTime, cause: &Arc<TokenError>) -> Option<Duration> {
        let length = cause.retry_after()?.min(MAX_PAUSE);
        let cooldown = Cooldown { pause: Pause::new(length, now), cause: Arc::clone(cause) };
        // These are dropped after the lock is released, because the destructor of a cause is foreign code.
        let mut over: Vec<Option<Cooldown>> = Vec::new();
        let mut inner = lock(&self.inner);
        match partition {
            None => over.push(keep_longer(&mut inner.everyone, cooldown, now)),
            Some(partition) => {
                let partitions = &mut inner.partitions;
                if partitions.len() >= MAX_PARTITIONS && !partitions.contains_key(partition) {
                    let is_over = |_: &String, cooldown: &mut Cooldown| cooldown.pause.left(now).is_none();
                    over.extend(partitions.extract_if(is_over).map(|(_, cooldown)| Some(cooldown)));
                    if partitions.len() >= MAX_PARTITIONS {
                        let first = partitions.iter().min_by_key(|(_, cooldown)| cooldown.pause.left(now));
                        let first = first.map(|(name, _)| name.clone());
                        over.push(first.and_then(|name| partitions.remove(&name)));
                    }
                }
                let mut current = partitions.remove(partition);
                over.push(keep_longer(&mut current, cooldown, now));
                partitions.extend(current.map(|cooldown| (partition.to_owned(), cooldown)));
            }
        }
        Some(length)
    }

    /// Returns an error if a pause is running for `partition` or for everyone. The source must not be called then.
    pub(crate) fn check(&self, partition: Option<&str>, now: SystemTime) -> Result<(), AuthError> {
        let inner = lock(&self.inner);
        let of_partition = partition.and_then(|partition| inner.partitions.get(partition));
        let longest = [inner.everyone.as_ref(), of_partition]
            .into_iter()
            .flatten()
            .filter_map(|cooldown| cooldown.pause.left(now).map(|left| (left, cooldown)))
            .max_by_key(|(left, _)| *left);
        match longest {
            Some((left, cooldown)) => Err(AuthError::cooling_down(Arc::clone(&cooldown.cause), left)),
            None => Ok(()),
        }
    }
}

/// Keeps the longer of two pauses. Returns the shorter one, if there are two.
fn keep_longer(current: &mut Option<Cooldown>, new: Cooldown, now: SystemTime) -> Option<Cooldown> {
    let left = |cooldown: &Cooldown| cooldown.pause.left(now);
    if current.as_ref().is_some_and(|current| left(current) > left(&new)) { Some(new) } else { current.replace(new) }
}
