//! Measures the cache under a flood of different keys: `cargo bench --bench flood`.
//!
//! A million requests, each with params of its own, are mixed with requests for a hundred hot keys. Reported are the
//! layer's peak memory, by an allocator that counts, and how often the token of a hot key was still cached.

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
/// Maximum memory in bytes per token: the token, its params, and its share of the cache.
const TOKEN_BAR: usize = 1536;
const HIT_RATE_BAR: f64 = 0.95;

fn main() {
    // A test uses enough keys to replace the cache's content a few times.
    let (keys, mixes): (_, &[_]) = if measuring() { (1_000_000, &[10, 50, 100]) } else { (50_000, &[10]) };
    println!(
        "{keys} keys, a cache of {MAX_TOKENS} tokens; bars: {TOKEN_BAR} B per token, a hit rate of {HIT_RATE_BAR} for hot keys\n"
    );
    println!(
        "| one request in … is for one of {HOT_KEYS} hot keys | hit rate | peak memory | per token of max_tokens | bars |"
    );
    println!("|---:|---:|---:|---:|---|");
    for &every in mixes {
        let flood = flood(keys, every);
        assert!(flood.tokens <= MAX_TOKENS as u64, "more tokens than max_tokens");
        let met = flood.growth <= MAX_TOKENS * TOKEN_BAR && flood.hit_rate >= HIT_RATE_BAR;
        assert!(met || measuring(), "this bar does not depend on time, so it must hold in a test as well");
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
    /// Peak memory in bytes, less the memory in use before the layer was built.
    growth: usize,
    hit_rate: f64,
    tokens: u64,
}

/// Sends one request for each of `keys` different keys, and one request per `every` requests for a hot key.
fn flood(keys: usize, every: usize) -> Flood {
    let progress = ProgressBar::new(keys as u64);
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();

    let layer = jwt().build().expect("the settings are valid");
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
    // No other key is used twice, so every hit is one of a hot key. The first request for a hot key counts as a miss.
    let stats = layer.token_cache().expect("the layer uses JWTs").stats();
    assert_eq!(stats.hits + stats.misses, keys as u64 + u64::from(hot_requests));
    Flood { growth, hit_rate: stats.hits as f64 / f64::from(hot_requests), tokens: stats.entries }
}
