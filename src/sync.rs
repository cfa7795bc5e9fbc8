//! The locks, atomics and thread-locals of the token cache: those of `std`, or those of the model checker in
//! `tests/model`.
//!
//! `Arc` is always `std`'s, because a `Waker` is created from one and the checker does not need to control it.

#[cfg(tower_aiuta_auth_model)]
pub(crate) use shuttle::sync::{Mutex, MutexGuard, atomic};
#[cfg(tower_aiuta_auth_model)]
pub(crate) use shuttle::thread_local;
#[cfg(not(tower_aiuta_auth_model))]
pub(crate) use std::hash::RandomState;
#[cfg(not(tower_aiuta_auth_model))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic};
#[cfg(not(tower_aiuta_auth_model))]
pub(crate) use std::thread_local;

/// Not random, so that a schedule that failed fails again in another process.
#[cfg(tower_aiuta_auth_model)]
pub(crate) type RandomState = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;
