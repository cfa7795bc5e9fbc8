//! Tokens that are rejected, and tokens that are refreshed (rules D2, D3, E1, E4, E5).

use shuttle::thread::JoinHandle;

use super::explore;
use super::runtime::advance;
use super::world::*;
use crate::error::AuthErrorKind::TokenSource;

const WAITS: [Wait; 3] = [Wait::No, Wait::Turns(1), Wait::Gate];

/// Requests that carry the same token.
fn requests(world: &World, number: usize) -> Vec<Sent> {
    (0..number).map(|_| world.request(0).unwrap()).collect()
}

/// Rejects them all at once. Each is followed by another request.
fn reject_all(world: &World, sent: Vec<Sent>) -> Vec<JoinHandle<Result<Sent, crate::error::AuthErrorKind>>> {
    sent.into_iter()
        .map(|sent| {
            world.spawn(move |world| {
                world.reject(&sent);
                world.request(0)
            })
        })
        .collect()
}

#[test]
fn e4_concurrent_rejections_of_one_token_cause_one_fetch() {
    for wait in WAITS {
        for place in WAITING_PLACES {
            explore(move || {
                let plan = move |number| if number == 0 { (Wait::No, End::Token) } else { (wait, End::Token) };
                let world = World::new(Settings::on(place), plan);
                let rejected = reject_all(&world, requests(&world, 3));
                world.open();
                for got in join(rejected) {
                    assert_eq!(got.unwrap().number(), 1);
                }
                assert_eq!(world.calls(), 2);
                assert_eq!(world.call(1).replaces, Some(0));
                world.settle();
                assert_eq!(world.fetches_in_flight(), 0);
                world.end();
            });
        }
    }
}

#[test]
fn e5_failed_replacement_is_fetched_once_and_others_get_the_stopgap() {
    for end in [End::Fail, End::Panic] {
        for wait in WAITS {
            for place in WAITING_PLACES {
                explore(move || {
                    let plan = move |number| if number == 1 { (wait, end) } else { (Wait::No, End::Token) };
                    let world = World::new(Settings::on(place), plan);
                    let rejected = reject_all(&world, requests(&world, 3));
                    world.open();
                    let got = join(rejected);
                    assert!(got.iter().any(|got| matches!(got, Err(TokenSource))), "the one that started the fetch");
                    for sent in got.iter().flatten() {
                        assert!(sent.has_stopgap() && sent.number() == 0);
                    }
                    assert!(world.request(0).unwrap().has_stopgap());
                    assert_eq!(world.calls(), 2);
                    advance(1);
                    assert_eq!(join(world.callers(2, 0)), [Ok(2); 2]);
                    assert_eq!(world.calls(), 3);
                    assert_eq!(world.call(2).replaces, Some(0));
                    world.settle();
                    assert_eq!(world.fetches_in_flight(), 0);
                    world.end();
                });
            }
        }
    }
}

#[test]
fn e5_hanging_replacement_times_out_once() {
    explore(|| {
        let plan = |number| (if number == 1 { Wait::Forever } else { Wait::No }, End::Token);
        let world = World::new(Settings::on(Driven), plan);
        let rejected = reject_all(&world, requests(&world, 2));
        // The only time that passes, at any moment.
        world.await_calls(2);
        advance(FETCH_TIMEOUT);
        let got = join(rejected);
        assert!(got.iter().any(Result::is_err));
        assert!(got.iter().flatten().all(|sent| sent.has_stopgap() && sent.number() == 0));
        assert_eq!(world.calls(), 2);
        world.settle();
        assert_eq!(world.fetches_in_flight(), 0);
        world.end();
    });
}

/// The replacement is rejected as well, while another request with it is accepted or its key is invalidated.
#[test]
fn e5_second_rejection_pauses_unless_something_resets_it() {
    for invalidates in [None, Some(false), Some(true)] {
        for place in WAITING_PLACES {
            explore(move || {
                let world = World::new(Settings::on(place), |_| (Wait::No, End::Token));
                world.reject(&world.request(0).unwrap());
                assert_eq!(world.get(0), Ok(1));
                let accepted = world.request(0).unwrap();
                let sent = requests(&world, 2);
                let resets = invalidates.map(|invalidates| {
                    world.spawn(move |world| if invalidates { world.forget(Some(0)) } else { world.accept(&accepted) })
                });
                let got = join(reject_all(&world, sent));
                let resets = resets.map(|resets| resets.join().unwrap()).is_some();
                for sent in got {
                    let sent = sent.unwrap();
                    match sent.number() {
                        1 => assert!(sent.has_stopgap()),
                        number => assert!(resets && number == 2, "{number}"),
                    }
                }
                if resets {
                    // The reset may have come after everything else.
                    assert_eq!(world.get(0), Ok(2));
                } else {
                    assert_eq!(world.calls(), 2);
                    advance(1);
                    assert_eq!(world.get(0), Ok(2));
                }
                assert_eq!(world.calls(), 3);
                assert_eq!(world.fetches_in_flight(), 0);
                world.end();
            });
        }
    }
}

/// The refresh ends while others look for a token, and after the rejection.
#[test]
fn e1_refresh_that_runs_at_rejection_is_not_cached() {
    explore(|| {
        let plan = |number| if number == 1 { (Wait::Gate, End::Token) } else { (Wait::Turns(1), End::Token) };
        let world = World::new(Settings::on(Driven), plan);
        let sent = world.request(0).unwrap();
        advance(DUE);
        // Starts the refresh without waiting for it.
        assert_eq!(world.get(0), Ok(0));
        world.reject(&sent);
        let callers = world.callers(2, 0);
        world.open();
        assert_eq!(join(callers), [Ok(2); 2]);
        let call = world.call(2);
        assert!(call.forced && call.replaces == Some(0));
        world.settle();
        assert_eq!((world.get(0), world.calls()), (Ok(2), 3));
        assert_eq!(world.fetches_in_flight(), 0);
        world.end();
    });
}

/// The refresh begins before the token is rejected, and may end before that, too.
#[test]
fn e1_refresh_from_before_rejection_is_not_cached() {
    explore(|| {
        let plan = |number| if number == 1 { (Wait::Gate, End::Token) } else { (Wait::No, End::Token) };
        let world = World::new(Settings::on(Driven), plan);
        let sent = world.request(0).unwrap();
        advance(DUE);
        // Starts the refresh without waiting for it.
        assert_eq!(world.get(0), Ok(0));
        assert_eq!(world.calls(), 2);
        let opener = world.spawn(World::open);
        let rejected = world.spawn(move |world| {
            world.reject(&sent);
            world.get(0)
        });
        let got = rejected.join().unwrap();
        opener.join().unwrap();
        world.settle();
        // The refresh may have completed before the rejection.
        assert!(matches!(got, Ok(1 | 2)), "{got:?}");
        assert_eq!(world.get(0), got, "the token stays cached");
        assert_eq!(world.fetches_in_flight(), 0);
        world.end();
    });
}

/// The refresh would never end by itself.
#[test]
fn e1_forgetting_a_token_ends_its_refresh() {
    for rejects in [false, true] {
        for place in [Driven, Standing] {
            explore(move || {
                let plan = |number| if number == 1 { (Wait::Forever, End::Token) } else { (Wait::No, End::Token) };
                let world = World::new(Settings::on(place), plan);
                let sent = world.request(0).unwrap();
                advance(DUE);
                let refreshes = world.callers(1, 0);
                let forgets = world.spawn(move |world| {
                    world.await_calls(2);
                    if rejects { world.reject(&sent) } else { world.forget(Some(0)) }
                });
                assert_eq!(join(refreshes), [Ok(0)]);
                forgets.join().unwrap();
                world.settle();
                assert_eq!(world.fetches_in_flight(), 0);
                assert_eq!(world.get(0), Ok(2));
                world.end();
            });
        }
    }
}

#[test]
fn d2_token_due_for_refresh_is_served_during_one_refresh() {
    for end in [End::Token, End::Expired, End::Replaced, End::Fail, End::Panic] {
        for wait in WAITS {
            for place in WAITING_PLACES {
                explore(move || {
                    let plan = move |number| if number == 0 { (Wait::No, End::Token) } else { (wait, end) };
                    let world = World::new(Settings::on(place), plan);
                    assert_eq!(world.get(0), Ok(0));
                    advance(DUE);
                    let callers = world.callers(3, 0);
                    let opener = world.spawn(World::open);
                    let got = join(callers);
                    opener.join().unwrap();
                    world.settle();
                    assert!(got.iter().all(|got| matches!(got, Ok(0 | 1))), "{got:?}");
                    assert!(got.contains(&Ok(0)), "the caller that started the refresh did not wait");
                    assert_eq!(world.calls(), if place == NoRuntime { 1 } else { 2 });
                    assert_eq!(world.most_live(), 1);
                    assert_eq!(world.fetches_in_flight(), 0);
                    world.end();
                });
            }
        }
    }
}

#[test]
fn c1_token_may_expire_during_its_refresh() {
    for place in WAITING_PLACES {
        explore(move || {
            let plan = |number| if number == 0 { (Wait::No, End::Token) } else { (Wait::Turns(1), End::Token) };
            let world = World::new(Settings::on(place), plan);
            assert_eq!(world.get(0), Ok(0));
            advance(DUE);
            let callers = world.callers(2, 0);
            let clock = world.spawn(|_| advance(LIFETIME - DUE - 1));
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

/// A caller without a runtime can't join the refresh of a token that has expired meanwhile.
#[test]
fn c4_refresh_is_replaced_by_caller_without_runtime() {
    for wait in [Wait::Turns(1), Wait::Gate, Wait::Forever] {
        explore(move || {
            let plan = move |number| if number == 1 { (wait, End::Token) } else { (Wait::Turns(1), End::Token) };
            let world = World::new(Settings::on(Driven), plan);
            assert_eq!(world.get(0), Ok(0));
            advance(DUE);
            assert_eq!(world.get(0), Ok(0));
            let opener = world.spawn(World::open);
            let clock = world.spawn(|_| advance(LIFETIME - DUE - 1));
            let apart = join(world.at(NoRuntime).callers(2, 0));
            assert!(apart.iter().all(|got| matches!(got, Ok(0..=2))), "{apart:?}");
            clock.join().unwrap();
            opener.join().unwrap();
            let late = join(world.at(NoRuntime).callers(1, 0));
            assert!(matches!(late[..], [Ok(1 | 2)]), "{late:?}");
            world.settle();
            assert_eq!(world.fetches_in_flight(), 0);
            world.end();
        });
    }
}
