//! Compares `tower-aiuta-auth` with other crates that authenticate requests. README.md describes the method.

mod authority;
mod chart;
mod herd;
mod hit;
mod peer;
mod report;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use indicatif::ProgressStyle;
use peer::{Herd, aws, azure, google, kube, ours, tower_http};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/peers.svg");
const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/RESULTS.md");

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Compares tower-aiuta-auth with other crates that authenticate requests: the time that a warm hit adds to a request,
/// and the calls of the token source that many concurrent callers cause. Prints two tables and draws a chart.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Args {
    /// Number of rounds per peer, each of a hundred requests. The median is reported
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u32).range(4..))]
    rounds: u32,
    /// Length in seconds of the case of tokens of five seconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Skip the herds of concurrent callers, which take about two minutes
    #[arg(long)]
    no_herds: bool,
    /// Path of the chart, an SVG [default: docs/peers.svg of the repository]
    #[arg(long, value_name = "PATH", hide_default_value = true, default_value = CHART)]
    chart: PathBuf,
    /// Path of the tables, written unless --no-herds is given [default: benches/peers/RESULTS.md of the repository]
    #[arg(long, value_name = "PATH", hide_default_value = true, default_value = RESULTS)]
    results: PathBuf,
    /// A Markdown file whose two markers enclose the tables; they are replaced
    #[arg(long, value_name = "PATH")]
    into: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Prints a token for kube-client
    #[command(name = kube::PLUGIN, hide = true)]
    CredentialPlugin { source: String, first: PathBuf },
}

fn main() -> Result<(), BoxError> {
    let args = Args::parse();
    if let Some(Command::CredentialPlugin { source, first }) = args.command {
        println!("{}", kube::run_plugin(&source, &first)?);
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;

    // Hits are timed on this thread. Some peers look for a runtime, so one is entered.
    let (ours, peers) = runtime.block_on(async {
        let mut peers = tower_http::hits().await?;
        peers.extend(kube::hits().await?);
        peers.extend(aws::hits().await?);
        peers.extend(azure::hits().await?);
        peers.extend(google::hits().await?);
        Ok::<_, BoxError>((ours::hits().await?, peers))
    })?;
    let count = ours.len();
    let entered = runtime.enter();
    let mut ours = hit::measure(ours.into_iter().chain(peers).collect(), args.rounds as usize);
    drop(entered);
    let peers = ours.split_off(count);
    chart::draw(&args.chart, &ours, &peers)?;
    let mut tables = report::hits(&ours, &peers)?;
    print!("{tables}");

    if !args.no_herds {
        const HERDS: [Herd; 5] = [ours::HERD, kube::HERD, aws::HERD, azure::HERD, google::HERD];
        let rows = runtime.block_on(herd::measure(&HERDS, args.seconds))?;
        let herds = report::herds(&HERDS, &rows)?;
        print!("\n{herds}");
        tables = format!("{tables}\n{herds}");
        std::fs::write(&args.results, &tables)?;
    }
    if let Some(path) = &args.into {
        report::put_between_markers(path, &tables)?;
    }
    Ok(())
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{msg:>10} [{bar:40}] {pos}/{len}, {eta} left").expect("a template")
}
