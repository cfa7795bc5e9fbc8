//! [`Store`], which holds the cached tokens, and [`Map`], which holds the running fetches. [`AuthParams`] contain their
//! own hash, so a lookup does not compute one.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, UnitWeighter};

use crate::params::AuthParams;

/// A bounded, sharded map. It evicts values that are rarely used. It does not check whether values have expired. The
/// caller does that.
pub(crate) type Store<T> = Cache<AuthParams, T, UnitWeighter, BuildHasherDefault<KeyHasher>>;

/// A map without a bound. The caller limits its size.
pub(crate) type Map<T> = HashMap<AuthParams, T, BuildHasherDefault<KeyHasher>>;

/// Creates a store for at most `capacity` values.
pub(crate) fn store<T: Clone>(capacity: usize) -> Store<T> {
    // quick_cache rounds up the capacity of a shard, so the capacity must be a multiple of the number of shards. It
    // also uses fewer shards if they hold less than 32 values.
    let shards = (capacity / 32).clamp(1, 16);
    let shards = if shards.is_power_of_two() { shards } else { shards.next_power_of_two() / 2 };
    let capacity = capacity / shards * shards;
    let options = OptionsBuilder::new()
        .shards(shards)
        .estimated_items_capacity(capacity)
        .weight_capacity(capacity as u64)
        .build()
        .expect("both capacities are set");
    Cache::with_options(options, UnitWeighter, BuildHasherDefault::default(), DefaultLifecycle::default())
}

/// A hasher that returns the hash from [`AuthParams`]. This hash is keyed, so it needs no further hashing.
#[derive(Default)]
pub(crate) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("the keys are AuthParams, which write one u64");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
