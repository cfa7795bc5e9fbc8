//! Pauses that the source asked for: until when it is not called, for everyone or for one partition (rule G2).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::lock;
use crate::error::{AuthError, TokenError};
use crate::sync::Mutex;

/// The longest pause that is obeyed.
const MAX_PAUSE: Duration = Duration::from_secs(5 * 60);

/// So many partitions can be paused at once. Anyone may cause a pause for their own partition, so their number is bounded; past it the
/// pause that ends first is forgotten, and the source is asked once too often.
const MAX_PARTITIONS: usize = 1024;

/// A pause, and the error that began it.
#[derive(Clone)]
struct Cooldown {
    since: SystemTime,
    until: SystemTime,
    cause: Arc<TokenError>,
}

impl Cooldown {
    /// What is left of it; nothing if the clock went back to before it began, or it would last for who knows how long.
    fn left(&self, now: SystemTime) -> Option<Duration> {
        if now < self.since {
            return None;
        }
        self.until.duration_since(now).ok().filter(|left| !left.is_zero())
    }
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
    /// Begins a pause if `cause` asks for one; answers how long it is.
    pub(crate) fn begin(&self, partition: Option<&str>, now: SystemTime, cause: &Arc<TokenError>) -> Option<Duration> {
        let pause = cause.retry_after()?.min(MAX_PAUSE);
        let until = now + pause;
        let hold = Cooldown { since: now, until, cause: Arc::clone(cause) };
        // Dropped after the lock: the destructor of a cause is somebody else's code.
        let mut over = Vec::new();
        let mut inner = lock(&self.inner);
        match partition {
            None => over.extend(inner.everyone.replace(hold)),
            Some(partition) => {
                let partitions = &mut inner.partitions;
                if partitions.len() >= MAX_PARTITIONS && !partitions.contains_key(partition) {
                    over.extend(partitions.extract_if(|_, hold| hold.left(now).is_none()).map(|(_, hold)| hold));
                    if partitions.len() >= MAX_PARTITIONS {
                        let first = partitions.iter().min_by_key(|(_, hold)| hold.until).map(|(name, _)| name.clone());
                        over.extend(first.and_then(|name| partitions.remove(&name)));
                    }
                }
                over.extend(partitions.insert(partition.to_owned(), hold));
            }
        }
        Some(pause)
    }

    /// The error for a request that would have to call the source during a pause.
    pub(crate) fn check(&self, partition: Option<&str>, now: SystemTime) -> Result<(), AuthError> {
        let inner = lock(&self.inner);
        let of_partition = partition.and_then(|partition| inner.partitions.get(partition));
        let longest = [inner.everyone.as_ref(), of_partition]
            .into_iter()
            .flatten()
            .filter_map(|hold| hold.left(now).map(|left| (left, hold)))
            .max_by_key(|(left, _)| *left);
        match longest {
            Some((left, hold)) => Err(AuthError::cooling_down(Arc::clone(&hold.cause), left)),
            None => Ok(()),
        }
    }
}
