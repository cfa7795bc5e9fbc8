//! Callers who do anything at any time. What they do is chosen by the checker, and so is part of the schedule that it prints.

use shuttle::rand::{Rng, thread_rng};

use super::explore;
use super::world::*;

const KEYS: usize = 2;

/// Three of these, at once.
fn anything(world: &World, may_wait: bool) {
    let mut last = None;
    for _ in 0..3 {
        let key = thread_rng().gen_range(0..KEYS);
        match thread_rng().gen_range(0..10) {
            0..=3 => {
                let polls = if may_wait { usize::MAX } else { 4 };
                if let Some(Ok(number)) = world.try_get(key, polls) {
                    last = Some((key, number));
                }
            }
            4 | 5 => drop(world.try_get(key, thread_rng().gen_range(1..3))),
            6 => world.forget(Some(key)),
            7 => world.forget(None),
            8 => world.time.advance([1, FETCH_TIMEOUT, DUE, LIFETIME][thread_rng().gen_range(0..4)]),
            _ => {
                if let Some((key, number)) = last {
                    world.reject(key, number);
                }
            }
        }
    }
}

/// What calls do is drawn before they begin: a source is polled where a panic of the checker's would be taken for its own.
fn plans(with_hangs: bool) -> impl Fn(usize) -> (Wait, End) + Send + Sync {
    let plans: Vec<_> = (0..64)
        .map(|_| {
            let wait = match thread_rng().gen_range(0..if with_hangs { 5 } else { 4 }) {
                0 | 1 => Wait::No,
                2 => Wait::Turns(thread_rng().gen_range(1..3)),
                3 => Wait::Gate,
                _ => Wait::Forever,
            };
            let end = match thread_rng().gen_range(0..6) {
                0 => End::Fail,
                1 => End::Panic,
                _ => End::Token,
            };
            (wait, end)
        })
        .collect();
    move |number| plans[number]
}

fn storm(settings: Settings, with_hangs: bool) {
    let world = World::new(settings, plans(with_hangs));
    let callers: Vec<_> = (0..3).map(|_| world.spawn(move |world| anything(world, !with_hangs))).collect();
    let opener = world.spawn(World::open);
    join(callers);
    opener.join().unwrap();
    // Two timeouts later no flight is left but those that nobody drives; the next caller replaces them.
    for _ in 0..2 {
        world.time.advance(FETCH_TIMEOUT);
        shuttle::thread::yield_now();
    }
    world.end();
}

#[test]
fn c4_whatever_happens_everyone_ends_and_nothing_is_left() {
    for home in [NOWHERE, TOKIO, TIMERLESS, STANDING_TIMERLESS] {
        for (max_tokens, max_concurrent_fetches) in [(100, 100), (1, 1)] {
            explore(move || storm(Settings { home, max_tokens, max_concurrent_fetches }, false));
        }
    }
}

#[test]
fn c4_nor_do_sources_that_hang_change_that() {
    for home in [NOWHERE, TOKIO, TIMERLESS, STANDING] {
        explore(move || storm(Settings { max_concurrent_fetches: 2, ..Settings::on(home) }, true));
    }
}
