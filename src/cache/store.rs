//! The store of tokens: bounded, sharded, and keyed by the hash that [`AuthParams`] brings along.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, UnitWeighter};

use crate::params::AuthParams;

/// Values for params; what is used least is evicted. Its time to live is in the values.
pub(crate) type Store<T> = Cache<AuthParams, T, UnitWeighter, BuildHasherDefault<KeyHasher>>;

/// Values for params, without a bound of its own.
pub(crate) type Map<T> = HashMap<AuthParams, T, BuildHasherDefault<KeyHasher>>;

/// A store for at most `capacity` values.
pub(crate) fn store<T: Clone>(capacity: usize) -> Store<T> {
    // The store rounds up what each of its shards may hold, so the number of shards has to divide the capacity; and it wants 32 a shard.
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

/// Passes on the hash that [`AuthParams`] brings along: it is keyed already.
#[derive(Default)]
pub(crate) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("the only key is AuthParams, which writes one u64");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
