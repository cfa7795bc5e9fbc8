//! What the command line says.

use clap::Parser;

/// Sends everything that can go wrong through the layer, at full speed, and checks what must hold all the same.
///
/// Needs no account and no network: a stand-in for Aiuta and a foreign host are started on loopback. Prints a line for each second and ends
/// with a verdict; the exit status is 1 if anything that must hold did not.
#[derive(Clone, Debug, Parser)]
#[command(name = "soak")]
pub(crate) struct Args {
    /// How long the storm lasts
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seconds: u64,

    /// What goes wrong, and what callers do: the same choices for the same number (which of them meet is up to the machine)
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,

    /// How many callers send requests, each the next one as soon as the last is over
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub(crate) callers: u64,
}
