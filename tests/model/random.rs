//! Callers that take random actions. The checker chooses the actions, so they are a part of the schedule that it
//! prints.

use shuttle::rand::{Rng, thread_rng};

use super::explore;
use super::runtime::advance;
use super::world::*;

const KEYS: usize = 2;

/// The actions of one caller.
fn random_actions(world: &World, may_wait: bool) {
    let mut sent: Option<Sent> = None;
    for _ in 0..3 {
        let key = thread_rng().gen_range(0..KEYS);
        match thread_rng().gen_range(0..11) {
            0..=3 => {
                let polls = if may_wait { usize::MAX } else { 4 };
                if let Some(Ok(new)) = world.try_request(key, polls) {
                    sent = Some(new);
                }
            }
            4 | 5 => drop(world.try_request(key, thread_rng().gen_range(0..3))),
            6 => world.forget(Some(key)),
            7 => world.forget(None),
            8 => advance([1, LONG_PAST_DEADLINE, DUE, LIFETIME][thread_rng().gen_range(0..4)]),
            9 => sent.iter().for_each(|sent| world.accept(sent)),
            _ => sent.iter().for_each(|sent| world.reject(sent)),
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
            let end = match thread_rng().gen_range(0..9) {
                0 => End::Fail,
                1 => End::Panic,
                2 => End::Expired,
                3 => End::Replaced,
                _ => End::Token,
            };
            (wait, end)
        })
        .collect();
    move |number| plans[number]
}

fn run(settings: Settings, with_hangs: bool) {
    let place = settings.place;
    let world = World::new(settings, plans(with_hangs));
    // Nobody polls callers that wait on a runtime that stands still.
    let callers = [(world.clone(), place != Standing), (world.at(NoRuntime), true), (world.at(Driven), true)];
    let callers =
        callers.map(|(world, may_wait)| world.spawn(move |world| random_actions(world, may_wait && !with_hangs)));
    let opener = world.spawn(World::open);
    // A fetch of a runtime that stands still ends only with time.
    if place == Standing {
        drop(world.pass_time(callers.into()))
    } else {
        drop(join(callers.into()))
    }
    opener.join().unwrap();
    world.end();
}

#[test]
fn c4_random_actions_leak_nothing() {
    for place in [NoRuntime, Driven, Standing] {
        for (max_tokens, max_concurrent_fetches) in [(100, 100), (1, 1)] {
            explore(move || run(Settings { place, max_tokens, max_concurrent_fetches }, false));
        }
    }
}

#[test]
fn c4_random_actions_with_hanging_sources_leak_nothing() {
    for place in [NoRuntime, Driven, Standing] {
        explore(move || run(Settings { max_concurrent_fetches: 2, ..Settings::on(place) }, true));
    }
}
