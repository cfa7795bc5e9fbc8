//! What a flood of keys does to the cache: `cargo bench --bench flood`.
//!
//! A million requests, each for a token of its own, and between them some for a hundred hot keys. Measured are the most memory that the
//! layer held at any time, by an allocator that counts, and how often the token of a hot key was still there.

mod support;

use indicatif::ProgressBar;
use peak_alloc::PeakAlloc;
use tower::Layer;

use support::{Inner, jwt, measuring, run, try_on_with_params};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const ORIGIN: &str = "https://api.aiuta.com";
const HOT_KEYS: usize = 100;
/// The builder's default.
const MAX_TOKENS: usize = 10_000;
/// What a token may take, in bytes: the token, its params, and its share of the cache.
const TOKEN_BAR: usize = 1536;
const HIT_RATE_BAR: f64 = 0.95;

fn main() {
    // A test takes as many keys as turn the cache over a few times.
    let (keys, mixes): (_, &[_]) = if measuring() { (1_000_000, &[10, 50, 100]) } else { (50_000, &[10]) };
    println!(
        "{keys} keys through a cache of {MAX_TOKENS} tokens; bars: {TOKEN_BAR} B a token, {HIT_RATE_BAR} of hot keys hit\n"
    );
    println!(
        "| one request in … is for one of {HOT_KEYS} hot keys | hit | peak growth | for each of max_tokens | bars |"
    );
    println!("|---:|---:|---:|---:|---|");
    for &every in mixes {
        let flood = flood(keys, every);
        assert!(flood.tokens <= MAX_TOKENS as u64, "more tokens than max_tokens");
        let met = flood.growth <= MAX_TOKENS * TOKEN_BAR && flood.hit_rate >= HIT_RATE_BAR;
        assert!(met || measuring(), "what does not depend on time holds in a test as well");
        println!(
            "| {every} | {:.3} | {:.2} MiB | {} B | {} |",
            flood.hit_rate,
            flood.growth as f64 / (1 << 20) as f64,
            flood.growth / MAX_TOKENS,
            if met { "met" } else { "missed" },
        );
    }
}

struct Flood {
    /// The most bytes in use at any time, less what was in use before there was a layer.
    growth: usize,
    hit_rate: f64,
    tokens: u64,
}

/// Sends requests for `keys` keys, no two the same, one request in `every` for one of the hot keys in turn.
fn flood(keys: usize, every: usize) -> Flood {
    let progress = ProgressBar::new(keys as u64);
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();

    let layer = jwt().build().expect("the settings are right");
    let mut service = layer.layer(Inner);
    let mut hot = (0..HOT_KEYS).cycle();
    let mut hot_requests = 0_u32;
    for key in 0..keys {
        run(&mut service, try_on_with_params(ORIGIN, HOT_KEYS + key));
        if key % (every - 1) == 0 {
            let number = hot.next().expect("a cycle has no end");
            run(&mut service, try_on_with_params(ORIGIN, number));
            hot_requests += 1;
        }
        if key % 10_000 == 0 {
            progress.set_position(key as u64);
        }
    }

    let growth = MEMORY.peak_usage() - before;
    progress.finish_and_clear();
    // No other key comes twice, so every hit is one of a hot key. Its first request is none; that counts.
    let stats = layer.token_cache().expect("the Jwt scheme").stats();
    assert_eq!(stats.hits + stats.misses, keys as u64 + u64::from(hot_requests));
    Flood { growth, hit_rate: stats.hits as f64 / f64::from(hot_requests), tokens: stats.entries }
}
