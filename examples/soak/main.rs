//! The soak: a storm of everything that can go wrong, and a verdict.
//!
//! `cargo run --release --example soak -- --seconds 60`
//!
//! ```text
//! callers ─▶ redirects followed ─▶ AiutaAuth ─▶ hyper's client ─▶ gate ─▶ FakeAiuta
//!    weather ─▶ clocks, cache, secrets ┘ └ source       └─▶ foreign host       └─ faults ◀─ weather
//! ```
//!
//! Requests are looked at where they arrive: at the gate before the stand-in, and at the foreign host. [`findings::Invariant`] says what must hold.

mod args;
mod bound;
mod caller;
mod client;
mod clock;
mod counts;
mod findings;
mod foreign;
mod forgets;
mod gate;
mod ledger;
mod meter;
mod payload;
mod rng;
mod server;
mod source;
mod stand_in;
mod storm;
mod try_ons;
mod weather;
mod world;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use peak_alloc::PeakAlloc;
use tower_aiuta_auth::BoxError;

use crate::args::Args;
use crate::findings::Invariant;
use crate::meter::Meter;
use crate::storm::{Report, storm};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// A first storm, not to be judged by its memory: what is made once in a process is made then.
const FIRST: Duration = Duration::from_secs(2);

/// What may be in use after the storm beyond what was before it. The runtime keeps buffers of its own, which grow to the most that they were needed for.
/// A layer that kept a word for each request would be over it within the second.
const TOLERANCE: usize = 64 << 10;

/// A shorter storm need not have everything, the less on a busy machine.
const ALL_OF_IT: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    let args = Args::parse();
    source::silence_expected_panics();
    println!("{} s with {} callers, seed {}\n", args.seconds, args.callers, args.seed);

    let mut report = storm(&args, FIRST, &mut Meter::new(true)).await?;
    if report.findings.is_empty() {
        let before = MEMORY.current_usage();
        report = storm(&args, Duration::from_secs(args.seconds), &mut Meter::new(false)).await?;
        judge(&report, before, MEMORY.current_usage());
    }
    tell(&report);
    if report.findings.is_empty() {
        println!("\nverdict: it holds");
        return Ok(ExitCode::SUCCESS);
    }
    println!("\nverdict: broken after {:.1} s; once more with --seed {}", report.took.as_secs_f64(), args.seed);
    Ok(ExitCode::FAILURE)
}

/// What can be said only when it is over.
fn judge(report: &Report, before: usize, after: usize) {
    let findings = &report.findings;
    findings.check(Invariant::NothingIsLeft, after <= before + TOLERANCE, || {
        format!("{} KiB in use, where there were {} KiB before", after >> 10, before >> 10)
    });
    println!("\nmemory: {} KiB before, {} KiB after", before >> 10, after >> 10);
    if report.took >= ALL_OF_IT {
        for (what, count) in report.last.happenings() {
            findings.check(Invariant::AllOfItHappened, count > 0, || format!("no {what}"));
        }
    }
}

fn tell(report: &Report) {
    let (seen, bound, seconds) = (&report.last, &report.bound, report.took.as_secs_f64());
    println!("{} requests in {seconds:.0} s, {:.0} a second", seen.requests, seen.requests as f64 / seconds);
    println!(
        "{} try-ons wanted, {} calls failed for want of a token, {} by a cut connection",
        seen.try_ons, seen.failed, seen.disconnected
    );
    let happenings: Vec<_> = seen.happenings().iter().map(|(what, count)| format!("{what} {count}")).collect();
    println!("{}", happenings.join(", "));
    println!("calls of the source: {}, at most {} = {}\n", bound.calls, bound.sum(), bound.terms());

    let broken = report.findings.all();
    for invariant in Invariant::ALL {
        match broken.get(&invariant) {
            None if invariant == Invariant::AllOfItHappened && report.took < ALL_OF_IT => {}
            None => println!("    ok  {invariant}"),
            Some((times, how)) => println!("BROKEN  {invariant}\n        {times} times, first: {how}"),
        }
    }
}
