//! For tests.
mod manual_clock;
pub use manual_clock::ManualClock;
