//! The command line.

use clap::Parser;

/// Sends requests through the layer at full speed while everything around it fails at random, and checks the invariants
/// that must still hold.
///
/// Needs no account and no network: a fake Aiuta API and an untrusted host run on loopback. Prints a line every second
/// and a summary at the end. Exits with status 1 if an invariant was violated.
#[derive(Clone, Debug, Parser)]
#[command(name = "soak")]
pub(crate) struct Args {
    /// Length of the run, in seconds
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seconds: u64,

    /// Seed of the random choices. The same seed makes the same choices, but their order across threads differs
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,

    /// Number of concurrent callers. Each sends its next request as soon as the previous one ends
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub(crate) callers: u64,
}
