//! What `tower-aiuta-auth` costs and spares, beside what others do for the same job. README.md says how it is measured.

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

/// Compares tower-aiuta-auth with other ways to authenticate requests: what a warm hit adds to a request, and what a herd of callers does to the
/// source of tokens. Prints two tables, and draws a chart.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Args {
    /// Rounds of a hundred requests for each way, of which the median counts
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u32).range(4..))]
    rounds: u32,
    /// How long tokens of five seconds are used
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Leave out the herds, which take about two minutes
    #[arg(long)]
    no_herds: bool,
    /// Where to draw the chart, an SVG [default: the repository's docs/peers.svg]
    #[arg(long, value_name = "PATH", hide_default_value = true, default_value = CHART)]
    chart: PathBuf,
    /// Where to write the tables, if there are both [default: the repository's benches/peers/RESULTS.md]
    #[arg(long, value_name = "PATH", hide_default_value = true, default_value = RESULTS)]
    results: PathBuf,
    /// A Markdown file to put the tables into as well, between its two markers
    #[arg(long, value_name = "PATH")]
    into: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// What kube-client runs to get a token
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

    // Hits are timed on this thread; the runtime is there for those who look for one.
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
