//! Fetches whose source returns a token that can't be used, and is asked a second time (rules D4, D5).

use super::explore;
use super::runtime::advance;
use super::world::*;
use crate::error::AuthErrorKind::{FetchTimeout, TokenSource};
use crate::source::FetchReason;

/// How long the first call is pending, and the second.
const WAITS: [(Wait, Wait); 4] =
    [(Wait::No, Wait::No), (Wait::No, Wait::Gate), (Wait::Turns(1), Wait::Turns(1)), (Wait::Gate, Wait::Turns(2))];

/// Runs a scenario at all places, with a source whose first token has expired.
fn everywhere(second: End, scenario: impl Fn(&World) + Clone + Send + Sync + 'static) {
    for place in WAITING_PLACES {
        for waits in WAITS {
            let scenario = scenario.clone();
            explore(move || {
                let plan = move |number| match number {
                    0 => (waits.0, End::Expired),
                    1 => (waits.1, second),
                    _ => (Wait::No, End::Token),
                };
                let world = World::new(Settings::on(place), plan);
                scenario(&world);
                world.settle();
                assert_eq!(world.fetches_in_flight(), 0);
                world.end();
            });
        }
    }
}

#[test]
fn d4_waiters_of_both_calls_share_the_second_token() {
    everywhere(End::Token, |world| {
        let callers = world.callers(3, 0);
        world.open();
        assert_eq!(join(callers), [Ok(1); 3]);
        let cached = world.request(0).unwrap();
        assert!(cached.is_cached() && cached.number() == 1);
        assert_eq!((world.calls(), world.most_live()), (2, 1));
        let (first, second) = (world.call(0), world.call(1));
        assert!(!first.forced && first.replaces.is_none());
        assert!(second.forced && second.replaces == Some(0) && second.reason == FetchReason::Miss);
        assert_eq!(second.deadline, first.deadline);
    });
}

#[test]
fn d4_second_expired_token_serves_waiters_and_is_not_cached() {
    for place in WAITING_PLACES {
        for waits in WAITS {
            explore(move || {
                let plan = move |number| {
                    let wait = [waits.0, waits.1].get(number).copied().unwrap_or(Wait::No);
                    (wait, End::Expired)
                };
                let world = World::new(Settings::on(place), plan);
                let callers = world.callers(3, 0);
                world.open();
                let got = join(callers);
                assert!(got.iter().all(|got| matches!(got, Ok(1..=3))) && got.contains(&Ok(1)), "{got:?}");
                // Later callers start fetches of their own, which ask once.
                let calls = world.calls();
                assert!((2..calls).all(|number| world.call(number).replaces.is_none()), "{calls}");
                advance(30);
                assert_eq!(world.get(0), Ok(calls + 1), "asked twice again");
                world.settle();
                assert_eq!(world.fetches_in_flight(), 0);
                world.end();
            });
        }
    }
}

#[test]
fn d4_failed_second_call_fails_the_fetch() {
    for end in [End::Fail, End::Panic] {
        everywhere(end, |world| {
            let callers = world.callers(3, 0);
            world.open();
            let got = join(callers);
            let failed = Err(TokenSource);
            assert!(got.contains(&failed) && got.iter().all(|got| *got == failed || *got == Ok(2)), "{got:?}");
            assert_eq!(world.get(0), Ok(2));
            assert_eq!(world.calls(), 3);
        });
    }
}

/// The fetch is detached before, between and during its calls.
#[test]
fn d4_fetch_from_before_invalidation_is_not_cached() {
    for everything in [false, true] {
        everywhere(End::Token, move |world| {
            let callers = world.callers(2, 0);
            let forgets = world.spawn(move |world| {
                world.forget((!everything).then_some(0));
                world.get(0)
            });
            world.open();
            assert!(join(callers).iter().all(Result::is_ok));
            assert!(forgets.join().unwrap().is_ok());
            // Starts another fetch only if no token was cached after the invalidation.
            world.get(0).unwrap();
            assert!(world.calls() <= 3, "more than one fetch per generation: {}", world.calls());
        });
    }
}

#[test]
fn d4_second_token_of_detached_fetch_serves_its_waiters_only() {
    for place in WAITING_PLACES {
        explore(move || {
            let plan = |number| match number {
                0 => (Wait::Turns(1), End::Expired),
                1 => (Wait::Gate, End::Token),
                _ => (Wait::No, End::Token),
            };
            let world = World::new(Settings::on(place), plan);
            let waiting = world.callers(2, 0);
            world.await_calls(2);
            // A caller that comes later belongs to the next generation.
            world.forget(Some(0));
            let opener = world.spawn(World::open);
            assert_eq!(world.get(0), Ok(2));
            let got = join(waiting);
            assert!(got.iter().all(|got| matches!(got, Ok(1 | 2))) && got.contains(&Ok(1)), "{got:?}");
            opener.join().unwrap();
            world.settle();
            assert_eq!(world.get(0), Ok(2), "the second token of the detached fetch is not cached");
            assert_eq!(world.calls(), 3);
            world.end();
        });
    }
}

/// The waiters leave before, between and during the calls.
#[test]
fn d4_dropped_waiters_hand_off_both_calls() {
    everywhere(End::Token, |world| {
        let leaves: Vec<_> = (0..3).map(|polls| world.spawn(move |world| world.try_get(0, polls))).collect();
        let stays = world.callers(1, 0);
        world.open();
        assert!(join(leaves).iter().all(|got| matches!(got, None | Some(Ok(1)))));
        assert_eq!(join(stays), [Ok(1)]);
        assert_eq!(world.calls(), 2);
    });
}

#[test]
fn d4_detached_fetch_without_waiters_ends_between_its_calls() {
    for place in [NoRuntime, Driven, Standing] {
        for wait in [Wait::No, Wait::Turns(1)] {
            explore(move || {
                let plan = move |number| if number == 0 { (wait, End::Expired) } else { (Wait::Forever, End::Token) };
                let world = World::new(Settings::on(place), plan);
                let leaves: Vec<_> = (0..2).map(|polls| world.spawn(move |world| world.try_get(0, polls))).collect();
                let forgets = world.spawn(|world| world.forget(Some(0)));
                join(leaves);
                forgets.join().unwrap();
                world.end();
            });
        }
    }
}

#[test]
fn c6_both_calls_share_one_deadline() {
    explore(|| {
        let plan = |number| if number == 0 { (Wait::Gate, End::Expired) } else { (Wait::Forever, End::Token) };
        let world = World::new(Settings::on(Driven), plan);
        let waiting = world.joined_callers(2, 0);
        let opener = world.spawn(World::open);
        // The only time that passes.
        advance(FETCH_TIMEOUT - 1);
        advance(1);
        let got = join(waiting);
        assert_eq!(got, [Err(FetchTimeout); 2]);
        opener.join().unwrap();
        world.settle();
        assert_eq!(world.fetches_in_flight(), 0);
        world.end();
    });
}

#[test]
fn d4_waiters_survive_shutdown_between_the_calls() {
    explore(|| {
        let plan = |number| match number {
            0 => (Wait::Turns(1), End::Expired),
            1 => (Wait::Turns(1), End::Token),
            _ => (Wait::No, End::Token),
        };
        let world = World::new(Settings::on(Driven), plan);
        let _ = world.try_get(0, 1);
        let waiting = world.at(Driven).callers(2, 0);
        let down = world.spawn(|world| world.runtime().shut_down());
        let got = join(waiting);
        assert!(got.iter().all(|got| matches!(got, Ok(1 | 2))), "{got:?}");
        down.join().unwrap();
        world.settle();
        assert!(world.calls() <= 3);
        assert_eq!(world.fetches_in_flight(), 0);
        world.end();
    });
}

/// A source with a cache of its own, which does not obey `force_refresh`.
#[test]
fn d5_rejected_token_that_comes_back_is_not_cached() {
    for wait in [Wait::No, Wait::Turns(1), Wait::Gate] {
        for place in WAITING_PLACES {
            explore(move || {
                let plan = move |number| if number == 0 { (Wait::No, End::Token) } else { (wait, End::Replaced) };
                let world = World::new(Settings::on(place), plan);
                let sent: Vec<_> = (0..2).map(|_| world.request(0).unwrap()).collect();
                let rejected: Vec<_> = sent
                    .into_iter()
                    .map(|sent| {
                        world.spawn(move |world| {
                            world.reject(&sent);
                            // Asserts that the rejected token is not found in the cache.
                            world.request(0).unwrap().number()
                        })
                    })
                    .collect();
                world.open();
                assert_eq!(join(rejected), [0, 0]);
                // The first call, and two of the fetch that replaces its token. Then it is too early for another.
                assert_eq!(world.calls(), 3);
                assert!(world.request(0).unwrap().has_stopgap());
                world.settle();
                assert_eq!(world.fetches_in_flight(), 0);
                world.end();
            });
        }
    }
}
