//! Fetches that are joined, end in every way, lose their callers, are invalidated, or time out (rules C1, C3, C5, C6,
//! G1).

use super::explore;
use super::runtime::advance;
use super::world::*;
use crate::error::AuthErrorKind::{FetchTimeout, Overloaded, TokenSource};

fn everywhere(scenario: impl Fn(Settings) + Clone + Send + Sync + 'static) {
    for place in WAITING_PLACES {
        let scenario = scenario.clone();
        explore(move || scenario(Settings::on(place)));
    }
}

#[test]
fn c1_concurrent_callers_share_one_fetch() {
    for wait in [Wait::No, Wait::Turns(2), Wait::Gate] {
        everywhere(move |settings| {
            let world = World::new(settings, move |_| (wait, End::Token));
            let callers = world.callers(3, 0);
            world.open();
            assert_eq!(join(callers), [Ok(0); 3]);
            assert_eq!(world.calls(), 1);
            world.settle();
            assert_eq!(world.fetches_in_flight(), 0);
            world.end();
        });
    }
}

#[test]
fn c1_failed_fetch_is_shared_and_next_caller_starts_another() {
    for end in [End::Fail, End::Panic] {
        everywhere(move |settings| {
            let world = World::new(
                settings,
                move |number| if number == 0 { (Wait::Gate, end) } else { (Wait::No, End::Token) },
            );
            let callers = world.callers(3, 0);
            world.open();
            let got = join(callers);
            assert!(got.iter().all(|got| matches!(got, Err(TokenSource) | Ok(1))), "{got:?}");
            assert!(got.contains(&Err(TokenSource)), "the caller that started the fetch");
            assert_eq!(world.get(0), Ok(1));
            assert_eq!((world.calls(), world.most_live()), (2, 1));
            world.settle();
            assert_eq!(world.fetches_in_flight(), 0);
            world.end();
        });
    }
}

#[test]
fn c3_dropped_leader_hands_off_to_waiters() {
    for wait in [Wait::Turns(2), Wait::Gate] {
        everywhere(move |settings| {
            let world = World::new(settings, move |_| (wait, End::Token));
            let leader = world.spawn(|world| world.try_get(0, 2));
            let followers = world.callers(2, 0);
            world.open();
            assert!(matches!(leader.join().unwrap(), None | Some(Ok(0))));
            assert_eq!(join(followers), [Ok(0); 2]);
            assert_eq!(world.calls(), 1);
            world.settle();
            assert_eq!(world.fetches_in_flight(), 0);
            world.end();
        });
    }
}

#[test]
fn c3_next_caller_continues_fetch_of_dropped_callers() {
    everywhere(|settings| {
        let world = World::new(settings, |_| (Wait::Gate, End::Token));
        let dropped = [world.spawn(|world| world.try_get(0, 1)), world.spawn(|world| world.try_get(0, 2))];
        let opener = world.spawn(World::open);
        join(dropped.into());
        assert_eq!(world.get(0), Ok(0));
        opener.join().unwrap();
        assert_eq!(world.calls(), 1);
        world.settle();
        assert_eq!(world.fetches_in_flight(), 0);
        world.end();
    });
}

#[test]
fn e1_fetch_from_before_invalidation_is_not_cached() {
    for everything in [false, true] {
        for wait in [Wait::No, Wait::Turns(1), Wait::Gate] {
            everywhere(move |settings| {
                let world = World::new(settings, move |_| (wait, End::Token));
                let mut callers = world.callers(2, 0);
                callers.push(world.spawn(move |world| {
                    world.forget((!everything).then_some(0));
                    world.get(0)
                }));
                world.open();
                assert!(join(callers).iter().all(Result::is_ok));
                // Starts another fetch only if no token was cached after the invalidation.
                world.get(0).unwrap();
                assert!(world.calls() <= 2, "more than one call per generation: {}", world.calls());
                world.settle();
                assert_eq!(world.fetches_in_flight(), 0);
                world.end();
            });
        }
    }
}

#[test]
fn c6_timed_out_fetch_fails_all_waiters() {
    explore(|| {
        let plan = |number| if number == 0 { (Wait::Forever, End::Token) } else { (Wait::No, End::Token) };
        let world = World::new(Settings::on(Driven), plan);
        let callers = world.joined_callers(3, 0);
        advance(FETCH_TIMEOUT);
        assert_eq!(join(callers), [Err(FetchTimeout); 3]);
        assert_eq!(world.get(0), Ok(1));
        world.settle();
        assert_eq!((world.calls(), world.fetches_in_flight()), (2, 0));
        world.end();
    });
}

#[test]
fn c6_timed_out_fetch_is_replaced() {
    explore(|| {
        let plan = |number| if number == 0 { (Wait::Forever, End::Token) } else { (Wait::No, End::Token) };
        let world = World::new(Settings::on(Driven), plan);
        let callers = world.callers(3, 0);
        let got = world.pass_time(callers);
        // If enough time passes at once, the runtime looks as if nobody drove it, and another fetch takes over, once.
        // Later tokens may also expire before the last caller gets one.
        assert!(got.iter().all(|got| matches!(got, Err(FetchTimeout | TokenSource) | Ok(1..))), "{got:?}");
        assert!(matches!(world.get(0), Ok(1..)));
        assert!(world.calls() <= 8, "more than two calls per caller: {}", world.calls());
        world.settle();
        assert_eq!(world.fetches_in_flight(), 0);
        world.end();
    });
}

#[test]
fn c6_without_runtime_next_caller_replaces_timed_out_fetch() {
    explore(|| {
        let plan = |number| if number == 0 { (Wait::Forever, End::Token) } else { (Wait::Gate, End::Token) };
        let world = World::new(Settings::on(NoRuntime), plan);
        let first = world.callers(2, 0);
        let opener = world.spawn(World::open);
        let late = world.spawn(|world| {
            world.await_calls(1);
            advance(FETCH_TIMEOUT);
            world.get(0)
        });
        let got = join(first);
        assert!(got.iter().all(|got| matches!(got, Err(FetchTimeout) | Ok(1))), "{got:?}");
        assert_eq!(late.join().unwrap(), Ok(1));
        opener.join().unwrap();
        assert_eq!(world.calls(), 2);
        assert_eq!(world.fetches_in_flight(), 0);
        world.end();
    });
}

#[test]
fn c5_abandoned_fetch_makes_room_and_awaited_fetch_stays() {
    everywhere(|settings| {
        let world = World::new(Settings { max_concurrent_fetches: 1, ..settings }, |_| (Wait::Gate, End::Token));
        let awaits = world.callers(1, 0);
        let leaves = world.spawn(|world| world.try_get(1, 2));
        let other = world.spawn(|world| world.get(2));
        let opener = world.spawn(World::open);
        leaves.join().unwrap();
        for got in join(awaits).into_iter().chain([other.join().unwrap()]) {
            assert!(matches!(got, Ok(_) | Err(Overloaded)), "{got:?}");
        }
        opener.join().unwrap();
        // No caller waits now, so the remaining fetch makes room.
        world.settle();
        world.get(3).unwrap();
        world.settle();
        assert!(world.calls() <= 4);
        assert_eq!(world.fetches_in_flight(), 0);
        world.end();
    });
}

#[test]
fn c5_awaited_keys_may_evict_each_other() {
    everywhere(|settings| {
        let world = World::new(Settings { max_tokens: 1, ..settings }, |_| (Wait::Turns(1), End::Token));
        let mut callers = world.callers(2, 0);
        callers.extend(world.callers(2, 1));
        assert!(join(callers).iter().all(Result::is_ok));
        assert!((2..=4).contains(&world.calls()));
        assert!(world.most_live() == 1);
        world.settle();
        assert_eq!(world.fetches_in_flight(), 0);
        world.end();
    });
}
