//! The soak test: sends requests through the layer at full speed while everything around it fails at random, and checks
//! the invariants that must still hold.
//!
//! `cargo run --release --example soak -- --seconds 60`
//!
//! ```text
//! callers ─▶ FollowRedirect ─▶ AiutaAuth ─▶ hyper's client ─▶ gate ─▶ FakeAiuta
//!    chaos ─▶ clock, cache, secret ┘ └ source       └─▶ untrusted host   └─ faults ◀─ chaos
//! ```
//!
//! Requests are checked where they arrive: at the gate in front of [`FakeAiuta`](tower_aiuta_auth::testing::FakeAiuta),
//! and at the untrusted host. [`Invariant`] lists everything that is checked.

mod args;
mod body;
mod call;
mod call_budget;
mod caller;
mod chaos;
mod checked;
mod client;
mod clock;
mod counts;
mod deliveries;
mod gate;
mod invalidations;
mod invariants;
mod issued;
mod progress;
mod rejected_keys;
mod rng;
mod run;
mod runtimes;
mod server;
mod shared;
mod source;
mod source_calls;
mod timers;
mod untrusted_host;
mod upstream;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use peak_alloc::PeakAlloc;
use tower_aiuta_auth::BoxError;

use crate::args::Args;
use crate::invariants::Invariant;
use crate::progress::Progress;
use crate::run::{Report, run};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Length of a warm-up run. It makes all allocations that a process makes only once, so that they do not count as a
/// leak in the measured run.
const WARM_UP: Duration = Duration::from_secs(2);

/// Maximum growth of memory in bytes over the measured run. The runtime keeps buffers of its own, which grow to the
/// size that was once needed. A layer that leaked one word per request would exceed this within a second.
const MAX_GROWTH: usize = 64 << 10;

/// Minimum length of a run in which every kind of event has to occur. A shorter run, on a busy machine above all, may
/// miss some.
const FULL_RUN: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    let args = Args::parse();
    source::silence_expected_panics();
    println!("{} s with {} callers, seed {}\n", args.seconds, args.callers, args.seed);

    let mut report = run(&args, WARM_UP, &mut Progress::new(true)).await?;
    if report.violations.is_empty() {
        let before = MEMORY.current_usage();
        report = run(&args, Duration::from_secs(args.seconds), &mut Progress::new(false)).await?;
        check_totals(&report, before, MEMORY.current_usage());
    }
    print(&report);
    if report.violations.is_empty() {
        println!("\nresult: all invariants hold");
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "\nresult: an invariant was violated after {:.1} s; run again with --seed {}",
        report.took.as_secs_f64(),
        args.seed
    );
    Ok(ExitCode::FAILURE)
}

/// Checks the invariants that can only be checked at the end of a run.
fn check_totals(report: &Report, before: usize, after: usize) {
    let violations = &report.violations;
    violations.check(Invariant::NothingLeaked, after <= before + MAX_GROWTH, || {
        format!("{} KiB in use before the run, {} KiB after it", before >> 10, after >> 10)
    });
    println!("\nmemory: {} KiB before, {} KiB after", before >> 10, after >> 10);
    if report.took >= FULL_RUN {
        for (event, count) in report.last.events() {
            violations.check(Invariant::FullCoverage, count > 0, || format!("{event}: 0"));
        }
    }
}

fn print(report: &Report) {
    let (seen, budget, seconds) = (&report.last, &report.budget, report.took.as_secs_f64());
    println!("{} requests in {seconds:.0} s, {:.0} a second", seen.requests, seen.requests as f64 / seconds);
    println!(
        "{} try-ons requested, {} calls failed because no token was available, {} because their connection was cut",
        seen.try_ons, seen.failed, seen.disconnected
    );
    let events: Vec<_> = seen.events().iter().map(|(event, count)| format!("{event}: {count}")).collect();
    println!("{}", events.join(", "));
    println!("calls of the token source: {}, allowed: {} = {}\n", budget.calls, budget.sum(), budget.terms());

    let violations = report.violations.all();
    for invariant in Invariant::ALL {
        match violations.get(&invariant) {
            None if invariant == Invariant::FullCoverage && report.took < FULL_RUN => {}
            None => println!("    ok  {invariant}"),
            Some((times, first)) => println!("FAILED  {invariant}\n        {times} times, first: {first}"),
        }
    }
}
