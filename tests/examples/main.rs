//! The examples as their users run them: what they print, what they leave behind, and their exit status.
//!
//! `cargo test` builds the examples. `cargo test --test examples` does not, and runs those that were built before.

#![allow(clippy::unwrap_used, reason = "clippy allows it in test functions, but not in their helpers")]

#[path = "../support/loopback.rs"]
mod loopback;
mod runner;
mod token_server;
mod try_on;
