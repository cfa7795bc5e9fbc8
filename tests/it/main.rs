//! The tests that drive the public API: one module per family of rules, in one binary.
//!
//! The name of a test begins with the number of its rule in `docs/DESIGN.md`. `cargo test c1_` runs the tests of rule
//! C1; `cargo test --test it -- freshness::` runs one module.
//!
//! Tests that need a process of their own have a binary of their own beside this one.

#![allow(clippy::unwrap_used, reason = "clippy allows it in test functions, but not in their helpers")]

#[path = "../support/mod.rs"]
mod support;

// Which credential.
mod credentials;
mod origins;
mod path_normalization;
mod redaction;
mod redirects;

// Params, cache, freshness.
mod freshness;
mod params;
mod recursion;
mod runtimes;
mod single_flight;
mod waiting;

// Responses of 401 and wrong clocks.
mod clock_skew;
mod unauthorized;

// Tower and its neighbours.
mod auto_traits;
mod composition;
mod reqwest_middleware;
mod retry;
mod tower;

// Token sources and the issuer.
mod issuer;
mod remote;
mod rotation;
mod sources;

// Settings, telemetry, the fake API, and the README.
mod config;
mod fake_aiuta;
mod readme;
mod tracing;
