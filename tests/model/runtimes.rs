//! Fetches of runtimes that are shut down, stand still or run again, callers without a runtime beside fetches that a
//! task drives, and the end of the last handle (rule C4).

use super::explore;
use super::runtime::advance;
use super::world::*;
use crate::error::AuthErrorKind::{FetchTimeout, Overloaded};

#[test]
fn c4_dropping_last_handle_ends_abandoned_fetches() {
    for wait in [Wait::Turns(3), Wait::Gate, Wait::Forever] {
        for place in [NoRuntime, Driven, Standing] {
            explore(move || {
                let world = World::new(Settings::on(place), move |_| (wait, End::Token));
                let dropped = [world.spawn(|world| world.try_get(0, 1)), world.spawn(|world| world.try_get(1, 2))];
                // Opened while the last handle is dropped.
                let opener = {
                    let gate = world.gate();
                    shuttle::thread::spawn(move || gate.open())
                };
                join(dropped.into());
                world.end_with(|| opener.join().unwrap());
            });
        }
    }
}

/// Its callers are on another runtime, and on none.
#[test]
fn c4_waiters_survive_shutdown_of_fetching_runtime() {
    for place in [Driven, Standing] {
        for wait in [Wait::Turns(2), Wait::Gate] {
            explore(move || {
                let world = World::new(Settings::on(place), move |_| (wait, End::Token));
                let _ = world.try_get(0, 1);
                let mut waiting = world.at(Driven).callers(2, 0);
                waiting.extend(world.at(NoRuntime).callers(1, 0));
                let down = world.spawn(|world| world.runtime().shut_down());
                world.open();
                let got = join(waiting);
                assert!(got.iter().all(|got| matches!(got, Ok(0..=2))), "{got:?}");
                down.join().unwrap();
                world.settle();
                // One for each runtime, and one for the caller without a runtime.
                assert!(world.calls() <= 3);
                assert_eq!(world.fetches_in_flight(), 0);
                world.end();
            });
        }
    }
}

#[test]
fn c4_caller_without_runtime_does_not_join_fetch_of_task() {
    for wait in [Wait::No, Wait::Turns(1), Wait::Gate] {
        explore(move || {
            let world = World::new(Settings::on(Driven), move |_| (wait, End::Token));
            let callers = world.callers(2, 0);
            let without_runtime = world.at(NoRuntime).callers(2, 0);
            world.open();
            let (got, apart) = (join(callers), join(without_runtime));
            assert!(got.iter().all(|got| matches!(got, Ok(0 | 1))), "{got:?}");
            let calls = world.calls();
            assert!(calls <= 2, "callers without a runtime share their fetch");
            world.settle();
            assert_eq!(world.fetches_in_flight(), 0);
            let cached = world.request(0).unwrap();
            assert!(cached.is_cached() && world.calls() == calls);
            assert_eq!(apart, [Ok(cached.number()); 2], "the newer fetch publishes, and the other does not");
            world.end();
        });
    }
}

/// The task's source never answers, so its callers depend on nobody but the fetch's end.
#[test]
fn c4_replaced_fetch_serves_its_waiters_and_ends_without_them() {
    explore(|| {
        let plan = |number| if number == 0 { (Wait::Forever, End::Token) } else { (Wait::Turns(1), End::Token) };
        let world = World::new(Settings::on(Driven), plan);
        let leaves = world.spawn(|world| world.try_get(0, 2));
        let apart = world.at(NoRuntime).spawn(|world| {
            world.await_calls(1);
            world.get(0)
        });
        assert_eq!(apart.join().unwrap(), Ok(1));
        leaves.join().unwrap();
        assert_eq!(world.calls(), 2);
        world.settle();
        assert_eq!(world.fetches_in_flight(), 0, "nobody needs the replaced fetch");
        assert_eq!(world.get(0), Ok(1));
        world.end();
    });
}

#[test]
fn c4_replaced_fetch_times_out_for_its_waiters() {
    explore(|| {
        let plan = |number| if number == 0 { (Wait::Forever, End::Token) } else { (Wait::Gate, End::Token) };
        let world = World::new(Settings::on(Driven), plan);
        let _ = world.try_get(0, 1);
        let waiting = world.callers(1, 0);
        let apart = world.at(NoRuntime).callers(1, 0);
        world.open();
        assert_eq!(join(apart), [Ok(1)]);
        advance(FETCH_TIMEOUT);
        let got = join(waiting);
        assert!(matches!(got[..], [Ok(1) | Err(FetchTimeout)]), "{got:?}");
        assert_eq!(world.get(0), Ok(1));
        world.settle();
        assert_eq!((world.calls(), world.fetches_in_flight()), (2, 0));
        world.end();
    });
}

#[test]
fn c4_waiters_elsewhere_replace_fetch_of_standing_runtime_once() {
    for wait in [Wait::No, Wait::Turns(1), Wait::Gate] {
        explore(move || {
            let plan = move |number| if number == 0 { (Wait::Forever, End::Token) } else { (wait, End::Token) };
            let world = World::new(Settings::on(Standing), plan);
            assert_eq!(world.try_get(0, 1), None);
            let mut waiting = world.at(Driven).callers(2, 0);
            waiting.extend(world.at(Driven).callers(1, 0));
            world.open();
            // The only time that passes: nobody waits for a second timeout, however late they have joined.
            advance(FETCH_TIMEOUT - 1);
            advance(LONG_PAST_DEADLINE - (FETCH_TIMEOUT - 1));
            assert_eq!(join(waiting), [Ok(1); 3]);
            assert_eq!(world.calls(), 2);
            world.settle();
            assert_eq!(world.fetches_in_flight(), 0, "the fetch of the standing runtime is abandoned");
            world.end();
        });
    }
}

#[test]
fn c4_caller_without_runtime_replaces_fetch_of_standing_runtime_at_once() {
    for wait in [Wait::No, Wait::Turns(1), Wait::Gate] {
        explore(move || {
            let plan = move |number| if number == 0 { (Wait::Forever, End::Token) } else { (wait, End::Token) };
            let world = World::new(Settings::on(Standing), plan);
            assert_eq!(world.try_get(0, 1), None);
            let waiting = world.at(Driven).callers(2, 0);
            let apart = world.at(NoRuntime).callers(1, 0);
            world.open();
            assert_eq!(join(apart), [Ok(1)]);
            // Those who have joined the other fetch find out now.
            advance(LONG_PAST_DEADLINE);
            assert_eq!(join(waiting), [Ok(1); 2]);
            world.settle();
            assert_eq!((world.calls(), world.fetches_in_flight()), (2, 0));
            world.end();
        });
    }
}

/// A current-thread runtime whose `block_on` returns and is called again.
#[test]
fn c4_runtime_may_stop_and_run_again() {
    for wait in [Wait::Turns(2), Wait::Gate] {
        explore(move || {
            let world = World::new(Settings::on(Driven), move |_| (wait, End::Token));
            let _ = world.try_get(0, 1);
            let waiting = world.at(Driven).callers(2, 0);
            let runtime = world.spawn(|world| {
                world.runtime().stop();
                advance(LONG_PAST_DEADLINE);
                world.runtime().resume();
            });
            world.open();
            let got = join(waiting);
            // On time or too late: either ends the fetch.
            assert!(got.iter().all(|got| matches!(got, Ok(_) | Err(FetchTimeout))), "{got:?}");
            runtime.join().unwrap();
            world.get(0).unwrap();
            world.settle();
            assert!(world.calls() <= 2, "{}", world.calls());
            assert_eq!(world.fetches_in_flight(), 0);
            world.end();
        });
    }
}

#[test]
fn c5_stalled_fetch_makes_room_for_others() {
    for apart in [Driven, NoRuntime] {
        explore(move || {
            let plan = |number| if number == 0 { (Wait::Forever, End::Token) } else { (Wait::Turns(1), End::Token) };
            let world = World::new(Settings { max_concurrent_fetches: 1, ..Settings::on(Standing) }, plan);
            assert_eq!(world.try_get(0, 1), None);
            let apart = world.at(apart);
            let early = apart.callers(1, 1);
            advance(LONG_PAST_DEADLINE);
            let late = apart.callers(1, 1);
            drop(apart);
            let got = (join(early)[0], join(late)[0]);
            // The room is for one of them. The other may ask just before that fetch can be joined. The first may also
            // read the clock before the time passes, and start its fetch after that.
            assert!(
                matches!(got, (Ok(1) | Err(Overloaded | FetchTimeout), Ok(1 | 2)) | (Ok(1), Err(Overloaded))),
                "{got:?}"
            );
            world.settle();
            assert_eq!(world.fetches_in_flight(), 0);
            world.end();
        });
    }
}
