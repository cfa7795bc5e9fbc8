//! The locks and atomics of the cache: std's, or the checker's where its schedules are tried one by one (tests/model).
//!
//! `Arc` stays std's: a `Waker` is made of one, and the checker has nothing to decide about it.

#[cfg(tower_aiuta_auth_model)]
pub(crate) use shuttle::sync::{Mutex, MutexGuard, atomic};
#[cfg(not(tower_aiuta_auth_model))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic};
