//! [`Cooldowns`]: pauses that the token source asked for (rule G2). During a pause the source is not called, either for
//! one key, for one partition, or for everyone.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::time::{Duration, SystemTime};

use super::lock;
use super::runtime::Pause;
use super::store::Map;
use crate::error::AuthError;
use crate::params::AuthParams;
use crate::sync::Mutex;

/// Maximum number of paused partitions, and of paused keys. There is a limit because every user can cause a pause for
/// their own partition or key. If there are more, the pause that ends first is dropped, and the source is called too
/// early for it.
const MAX_PAUSES: usize = 1024;

/// A pause and the error that caused it.
#[derive(Clone)]
struct Cooldown {
    pause: Pause,
    cause: AuthError,
}

#[derive(Default)]
pub(crate) struct Cooldowns {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    everyone: Option<Cooldown>,
    partitions: HashMap<String, Cooldown, RandomState>,
    keys: Map<Cooldown>,
}

impl Cooldowns {
    /// Begins a pause if `cause` asks for one. If a running pause ends later, it is kept. Returns the length of the
    /// pause that `cause` asks for.
    pub(crate) fn begin(
        &self,
        params: &AuthParams,
        for_this_key: bool,
        now: SystemTime,
        cause: &AuthError,
    ) -> Option<Duration> {
        let length = cause.retry_after()?;
        let cooldown = Cooldown { pause: Pause::new(length, now), cause: cause.clone() };
        let mut inner = lock(&self.inner);
        let ended = match params.partition() {
            _ if for_this_key => begin(&mut inner.keys, params, cooldown, now),
            Some(partition) => begin(&mut inner.partitions, partition, cooldown, now),
            None => Vec::from_iter(keep_longer(&mut inner.everyone, cooldown, now)),
        };
        // The destructor of a cause is foreign code.
        drop(inner);
        drop(ended);
        Some(length)
    }

    /// Returns an error if a pause is running for `params`. The source must not be called for them then.
    pub(crate) fn check(&self, params: &AuthParams, now: SystemTime) -> Result<(), AuthError> {
        let inner = lock(&self.inner);
        let of_partition = params.partition().and_then(|partition| inner.partitions.get(partition));
        let longest = [inner.everyone.as_ref(), of_partition, inner.keys.get(params)]
            .into_iter()
            .flatten()
            .filter_map(|cooldown| cooldown.pause.left(now).map(|left| (left, cooldown)))
            .max_by_key(|(left, _)| *left);
        match longest {
            Some((left, cooldown)) => Err(cooldown.cause.cooling_down(left)),
            None => Ok(()),
        }
    }
}

/// Begins the pause of one partition or key. Returns the pauses that have ended, and those that were replaced.
fn begin<K, Q, S>(paused: &mut HashMap<K, Cooldown, S>, key: &Q, cooldown: Cooldown, now: SystemTime) -> Vec<Cooldown>
where
    K: Borrow<Q> + Hash + Eq + Clone,
    Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    S: BuildHasher,
{
    let mut removed = Vec::new();
    let mut current = paused.remove(key);
    if paused.len() >= MAX_PAUSES {
        let is_over = |_: &K, cooldown: &mut Cooldown| cooldown.pause.left(now).is_none();
        removed.extend(paused.extract_if(is_over).map(|(_, cooldown)| cooldown));
    }
    if paused.len() >= MAX_PAUSES {
        let first = paused.iter().min_by_key(|(_, cooldown)| cooldown.pause.left(now)).map(|(key, _)| key.clone());
        removed.extend(first.and_then(|key| paused.remove(key.borrow())));
    }
    removed.extend(keep_longer(&mut current, cooldown, now));
    paused.extend(current.map(|cooldown| (key.to_owned(), cooldown)));
    removed
}

/// Keeps the longer of two pauses. Returns the shorter one, if there are two.
fn keep_longer(current: &mut Option<Cooldown>, new: Cooldown, now: SystemTime) -> Option<Cooldown> {
    let left = |cooldown: &Cooldown| cooldown.pause.left(now);
    if current.as_ref().is_some_and(|current| left(current) > left(&new)) { Some(new) } else { current.replace(new) }
}
