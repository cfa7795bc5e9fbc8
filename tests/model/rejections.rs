//! Tokens that are rejected, and tokens that are refreshed (rules D2, D3, E1, E4).

use super::explore;
use super::world::*;

const HOMES: [Option<crate::cache::model::runtime::Abilities>; 3] = [NOWHERE, TOKIO, STANDING_TIMERLESS];
/// Without a runtime there is no refresh ahead.
const RUNTIMES: [Option<crate::cache::model::runtime::Abilities>; 2] = [TOKIO, STANDING_TIMERLESS];

#[test]
fn e4_concurrent_rejections_of_one_token_cause_one_fetch() {
    for wait in [Wait::No, Wait::Turns(1), Wait::Gate] {
        for home in HOMES {
            explore(move || {
                let plan = move |number| if number == 0 { (Wait::No, End::Token) } else { (wait, End::Token) };
                let world = World::new(Settings::on(home), plan);
                assert_eq!(world.get(0), Ok(0));
                let rejected: Vec<_> = (0..3)
                    .map(|_| {
                        world.spawn(|world| {
                            world.reject(0, 0);
                            world.get(0)
                        })
                    })
                    .collect();
                world.open();
                assert_eq!(join(rejected), [Ok(1); 3]);
                assert_eq!(world.calls(), 2);
                world.settle();
                assert_eq!(world.fetches_in_flight(), 0);
                world.end();
            });
        }
    }
}

/// The refresh begins before the token is rejected.
#[test]
fn e1_refresh_from_before_rejection_is_not_cached() {
    for home in RUNTIMES {
        explore(move || {
            let plan = |number| if number == 1 { (Wait::Gate, End::Token) } else { (Wait::No, End::Token) };
            let world = World::new(Settings::on(home), plan);
            assert_eq!(world.get(0), Ok(0));
            world.time.advance(DUE);
            // Starts the refresh without waiting for it.
            assert_eq!(world.get(0), Ok(0));
            assert_eq!(world.calls(), 2);
            let opener = world.spawn(World::open);
            let rejected = world.spawn(|world| {
                world.reject(0, 0);
                world.get(0)
            });
            let got = rejected.join().unwrap();
            opener.join().unwrap();
            world.settle();
            // With a task the refresh may have completed before the rejection.
            assert!(matches!(got, Ok(1 | 2)), "{got:?}");
            assert_eq!(world.get(0), got, "the token stays cached");
            assert_eq!(world.fetches_in_flight(), 0);
            world.end();
        });
    }
}

#[test]
fn d2_token_due_for_refresh_is_served_during_one_refresh() {
    for end in [End::Token, End::Fail, End::Panic] {
        for wait in [Wait::No, Wait::Turns(1), Wait::Gate] {
            for home in HOMES {
                explore(move || {
                    let plan = move |number| if number == 0 { (Wait::No, End::Token) } else { (wait, end) };
                    let world = World::new(Settings::on(home), plan);
                    assert_eq!(world.get(0), Ok(0));
                    world.time.advance(DUE);
                    let callers = world.callers(3, 0);
                    let opener = world.spawn(World::open);
                    let got = join(callers);
                    opener.join().unwrap();
                    world.settle();
                    assert!(got.iter().all(|got| matches!(got, Ok(0 | 1))), "{got:?}");
                    assert!(got.contains(&Ok(0)), "the caller that started the refresh did not wait");
                    assert!(world.calls() <= 2);
                    assert_eq!(world.most_live(), 1);
                    world.end();
                });
            }
        }
    }
}

#[test]
fn c1_token_may_expire_during_its_refresh() {
    for home in HOMES {
        explore(move || {
            let plan = |number| if number == 0 { (Wait::No, End::Token) } else { (Wait::Turns(1), End::Token) };
            let world = World::new(Settings::on(home), plan);
            assert_eq!(world.get(0), Ok(0));
            world.time.advance(DUE);
            let callers = world.callers(2, 0);
            let clock = world.spawn(|world| world.time.advance(LIFETIME - DUE));
            assert!(join(callers).iter().all(|got| matches!(got, Ok(0..=2))));
            clock.join().unwrap();
            world.get(0).unwrap();
            world.settle();
            assert!(world.calls() <= 3, "{}", world.calls());
            assert_eq!(world.fetches_in_flight(), 0);
            world.end();
        });
    }
}
