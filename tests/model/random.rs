//! Callers that take random actions. The checker chooses the actions, so they are a part of the schedule that it
//! prints.

use shuttle::rand::{Rng, thread_rng};

use super::explore;
use super::world::*;

const KEYS: usize = 2;

/// The actions of one caller.
fn random_actions(world: &World, may_wait: bool) {
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

/// Chooses the behaviour of all calls in advance. A source must not ask the checker while it is polled, because the
/// cache would catch a panic of the checker as a panic of the source.
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

fn run(settings: Settings, with_hangs: bool) {
    let world = World::new(settings, plans(with_hangs));
    let callers: Vec<_> = (0..3).map(|_| world.spawn(move |world| random_actions(world, !with_hangs))).collect();
    let opener = world.spawn(World::open);
    join(callers);
    opener.join().unwrap();
    // After two timeouts only fetches on runtimes that nobody drives are left; the next caller replaces those.
    for _ in 0..2 {
        world.time.advance(FETCH_TIMEOUT);
        shuttle::thread::yield_now();
    }
    world.end();
}

#[test]
fn c4_random_actions_leak_nothing() {
    for home in [NOWHERE, TOKIO, TIMERLESS, STANDING_TIMERLESS] {
        for (max_tokens, max_concurrent_fetches) in [(100, 100), (1, 1)] {
            explore(move || run(Settings { home, max_tokens, max_concurrent_fetches }, false));
        }
    }
}

#[test]
fn c4_random_actions_with_hanging_sources_leak_nothing() {
    for home in [NOWHERE, TOKIO, TIMERLESS, STANDING] {
        explore(move || run(Settings { max_concurrent_fetches: 2, ..Settings::on(home) }, true));
    }
}
