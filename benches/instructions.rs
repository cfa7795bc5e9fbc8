//! Counts instructions per request, which do not depend on the load of the machine: `cargo bench --bench instructions`.
//!
//! Each case runs under valgrind's callgrind, which counts the instructions of sending the request, without those of
//! building it. The instructions that the layer adds are compared with `instructions.txt` next to this file.
//! `-- --write` updates the file. Without valgrind nothing is compared.

mod support;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::{env, fs, io};

use clap::Parser;
use http::{Request, Response};
use tower::{Layer, Service};
use tower_aiuta_auth::{AiutaAuthLayer, BoxError};

use support::{Claims, Inner, Req, encoder, jwt, measuring, poll, run, try_on, try_on_with_params, without_replay};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.txt");
/// Maximum relative difference between a count and the one in the file.
const TOLERANCE: f64 = 0.05;
const ORIGIN: &str = "https://api.aiuta.com";
const KEYS: usize = 1_000;

/// The cases. The second name is the case whose count is subtracted: the same request through the inner service alone.
const CASES: [(&str, &str); 11] = [
    ("floor_poll", ""),
    ("floor_params", ""),
    ("floor_try_on", ""),
    ("api_key", "floor_poll"),
    ("user_id", "floor_poll"),
    ("untrusted_origin", "floor_poll"),
    ("hit", "floor_params"),
    ("hit_able_to_replay", "floor_params"),
    ("hit_by_body", "floor_try_on"),
    ("miss_with_signer", "floor_params"),
    ("jsonwebtoken_alone", ""),
];

/// Counts the instructions that the layer adds to a request
#[derive(Parser)]
struct Args {
    /// Write the counts to benches/instructions.txt, then compare
    #[arg(long)]
    write: bool,
    /// Run this case only, as the child process under callgrind does
    #[arg(long, hide = true)]
    case: Option<String>,
    /// Passed by cargo to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<ExitCode, BoxError> {
    let args = Args::parse();
    if let Some(case) = args.case {
        run_case(&case, KEYS);
        return Ok(ExitCode::SUCCESS);
    }
    if !measuring() {
        CASES.iter().for_each(|(case, _)| run_case(case, 10));
        return Ok(ExitCode::SUCCESS);
    }
    let Some(counts) = count()? else {
        println!("valgrind is not installed: nothing is counted");
        return Ok(ExitCode::SUCCESS);
    };
    let compiler = String::from_utf8(Command::new("rustc").arg("--version").output()?.stdout)?;
    if args.write {
        fs::write(FILE, to_text(&counts, &compiler))?;
    }
    compare(&counts, &compiler)
}

/// Returns the instructions that each case adds to its floor; `None` without valgrind.
fn count() -> Result<Option<Counts>, BoxError> {
    let mut totals = Counts::new();
    for (case, floor) in CASES {
        let valgrind = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*measured*"])
            .arg(env::current_exe()?)
            .args(["--case", case])
            .output();
        let output = match valgrind {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            output => output?,
        };
        let report = String::from_utf8(output.stderr)?;
        let collected =
            report.lines().find_map(|line| line.split_once("Collected : ")).filter(|_| output.status.success());
        let (_, collected) = collected.ok_or_else(|| format!("callgrind counted nothing:\n{report}"))?;
        let total = collected.trim().parse::<u64>()? / KEYS as u64;
        totals.insert(case.to_owned(), total - totals.get(floor).copied().unwrap_or_default());
    }
    Ok(Some(totals))
}

/// Instructions by case.
type Counts = BTreeMap<String, u64>;

fn to_text(counts: &Counts, compiler: &str) -> String {
    let lines = CASES.iter().map(|(case, _)| format!("{case} {}\n", counts[*case]));
    format!("# instructions per request, less the floor; {compiler}{}", lines.collect::<String>())
}

fn compare(counts: &Counts, compiler: &str) -> Result<ExitCode, BoxError> {
    let text = fs::read_to_string(FILE)?;
    let known: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once(' ')).collect();
    let same_compiler = text.contains(compiler.trim());
    let mut differs = false;
    println!("| case | instructions | before | |\n|---|---:|---:|---|");
    for (case, floor) in CASES {
        let count = counts[case];
        let before = known.get(case).and_then(|before| before.parse::<u64>().ok());
        let changed = before.is_none_or(|before| (count as f64 / before as f64 - 1.0).abs() > TOLERANCE);
        differs |= changed;
        let before = before.map_or("–".to_owned(), |before| before.to_string());
        let less = if floor.is_empty() { "" } else { " less its floor" };
        println!("| {case}{less} | {count} | {before} | {} |", if changed { "differs" } else { "" });
    }
    if differs && !same_compiler {
        println!("\ninstructions.txt was written with another compiler, so a difference is no failure");
        return Ok(ExitCode::SUCCESS);
    }
    if differs {
        println!(
            "\na count differs by more than {TOLERANCE}; if this is intended, run: cargo bench --bench instructions -- --write"
        );
    }
    Ok(if differs { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn run_case(case: &str, keys: usize) {
    let api_key = || AiutaAuthLayer::api_key("0123456789abcdef0123456789abcdef").expect("the key is valid");
    let jwt = || jwt().build().expect("the settings are valid");
    let untrusted = |_| Request::get("https://storage.example/photo.png").body(<_>::default()).expect("a request");
    match case {
        "floor_poll" => send(Inner, keys, |_| poll(ORIGIN)),
        "floor_params" => send(Inner, keys, |key| without_replay(ORIGIN, key)),
        "floor_try_on" => send(Inner, keys, |key| try_on(ORIGIN, key)),
        "api_key" => send(api_key().layer(Inner), keys, |_| poll(ORIGIN)),
        "user_id" => send(jwt().layer(Inner), keys, |_| poll(ORIGIN)),
        "untrusted_origin" => send(jwt().layer(Inner), keys, untrusted),
        "hit" => send(jwt().layer(Inner), keys, |key| without_replay(ORIGIN, key)),
        "hit_able_to_replay" => send(jwt().layer(Inner), keys, |key| try_on_with_params(ORIGIN, key)),
        "hit_by_body" => send(jwt().layer(Inner), keys, |key| try_on(ORIGIN, key)),
        "miss_with_signer" => {
            // Uses a new key for each request, so that all of them miss.
            let next = std::cell::Cell::new(0);
            send(jwt().layer(Inner), keys, |_| without_replay(ORIGIN, next.replace(next.get() + 1)));
        }
        "jsonwebtoken_alone" => {
            let encode = encoder();
            for number in 0..keys {
                measured(Claims::new(number), |claims| encode(&claims));
            }
        }
        other => unreachable!("there is no case {other}"),
    }
}

/// Sends one request for each key twice; only the second is counted.
fn send<S>(mut service: S, keys: usize, make: impl Fn(usize) -> Req)
where
    S: Service<Req, Response = Response<usize>>,
{
    for key in 0..keys {
        run(&mut service, make(key));
    }
    for key in 0..keys {
        measured(make(key), |request| run(&mut service, request));
    }
}

/// Callgrind counts this function, found by its name, and everything that it calls.
#[inline(never)]
fn measured<I, O>(input: I, work: impl FnOnce(I) -> O) {
    black_box(work(input));
}
