//! `SharedCall` alone, without tokens, keys or runtimes: drivers that leave, wake-ups during a poll, outcomes that
//! race, and calls that are restarted.

use std::pin::Pin;
use std::sync::Weak;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as StdMutex};
use std::task::{Context, Poll, Wake, Waker};

use shuttle::thread::{self, JoinHandle};

use super::explore;
use super::runtime::{Impatient, block_on};
use super::world::join;
use crate::cache::lock;
use crate::cache::shared_call::{Call, Panicked, Remaining, Role, SharedCall, Step};
use crate::sync::Mutex;

/// The outcome. Those of calls are from 0 on.
type Number = i32;
const PANICKED: Number = -1;
const CANCELLED: Number = -2;

/// What a call returns: the outcome, or the number of the call to go on with.
enum Returned {
    Outcome(Number),
    Again(usize),
}

/// An event that calls wait for. Like a channel it keeps the waker of the last poll only.
#[derive(Default)]
struct Event(Mutex<(bool, Option<Waker>)>);

impl Event {
    fn set(&self) {
        let waker = {
            let mut event = lock(&self.0);
            event.0 = true;
            event.1.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        let waker = cx.waker().clone();
        let mut event = lock(&self.0);
        if event.0 {
            return Poll::Ready(());
        }
        let replaced = event.1.replace(waker);
        drop(event);
        drop(replaced);
        Poll::Pending
    }
}

/// What a call waits for, one after the other, and then does.
#[derive(Clone, Copy)]
enum Act {
    /// Until the event with this number.
    Await(usize),
    /// Wakes itself and is pending once.
    Yield,
    Panic,
    Return(Number),
    Again(usize),
}

/// A shared call with its script, and what is recorded of it. That lock is std's, so that it does not affect schedules.
struct World {
    call: SharedCall<Returned, Number>,
    events: [Arc<Event>; 2],
    scripts: &'static [&'static [Act]],
    outcomes: StdMutex<Vec<Number>>,
    live: Arc<AtomicUsize>,
}

/// A call that plays a script.
struct Script {
    acts: &'static [Act],
    events: [Arc<Event>; 2],
    yielded: bool,
    /// Calls that were made and not dropped.
    live: Arc<AtomicUsize>,
}

impl Script {
    fn call(acts: &'static [Act], events: &[Arc<Event>; 2], live: &Arc<AtomicUsize>) -> Call<Returned> {
        live.fetch_add(1, Ordering::SeqCst);
        Box::pin(Self { acts, events: events.clone(), yielded: false, live: Arc::clone(live) })
    }
}

impl Future for Script {
    type Output = Returned;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Returned> {
        let this = &mut *self;
        loop {
            match this.acts[0] {
                Act::Await(event) => match this.events[event].poll(cx) {
                    Poll::Ready(()) => {}
                    Poll::Pending => return Poll::Pending,
                },
                Act::Yield if this.yielded => this.yielded = false,
                Act::Yield => {
                    this.yielded = true;
                    cx.waker().wake_by_ref();
                    // Others run between the wake-up and the end of this poll.
                    drop(lock(&this.events[0].0));
                    return Poll::Pending;
                }
                // `panic!` would run the panic hook, which reports a failure.
                Act::Panic => std::panic::resume_unwind(Box::new("the call's panic")),
                Act::Return(number) => return Poll::Ready(Returned::Outcome(number)),
                Act::Again(script) => return Poll::Ready(Returned::Again(script)),
            }
            this.acts = &this.acts[1..];
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Wake for World {
    fn wake(self: Arc<Self>) {
        self.call.wake_drivers();
    }
}

impl World {
    fn new(scripts: &'static [&'static [Act]]) -> Arc<Self> {
        let (events, live) = (<[Arc<Event>; 2]>::default(), Arc::default());
        let call = SharedCall::new(Script::call(scripts[0], &events, &live));
        Arc::new(Self { call, events, scripts, outcomes: StdMutex::default(), live })
    }

    fn drive(self: &Arc<Self>) {
        let waker = Waker::from(Arc::clone(self));
        while let Poll::Ready(returned) = self.call.poll(&waker) {
            match returned {
                Ok(Returned::Again(script)) => {
                    self.call.restart(Script::call(self.scripts[script], &self.events, &self.live));
                }
                Ok(Returned::Outcome(number)) => return self.finish(number),
                Err(Panicked) => return self.finish(PANICKED),
            }
        }
    }

    fn finish(&self, number: Number) {
        self.call.finish(number, |_| self.outcomes.lock().unwrap().push(number));
    }

    fn join(self: &Arc<Self>, role: Role) -> Participant {
        Participant { slot: self.call.join(role), role, world: Arc::clone(self), polls: 0 }
    }

    /// A participant on a thread of its own, until there is an outcome. Returns the number of its polls, too.
    fn spawn(self: &Arc<Self>, role: Role) -> JoinHandle<(Number, usize)> {
        let participant = self.join(role);
        thread::spawn(move || block_on(participant))
    }

    fn waiters(self: &Arc<Self>, number: usize) -> Vec<JoinHandle<(Number, usize)>> {
        (0..number).map(|_| self.spawn(Role::Waiter)).collect()
    }

    /// A waiter that leaves after a number of polls, whether or not it was woken.
    fn leaver(self: &Arc<Self>, polls: usize) -> JoinHandle<Option<(Number, usize)>> {
        let participant = self.join(Role::Waiter);
        thread::spawn(move || block_on(Impatient::new(participant, polls)))
    }

    /// Sets both events on threads of their own.
    fn set_events(&self) -> Vec<JoinHandle<()>> {
        self.events.clone().map(|event| thread::spawn(move || event.set())).into()
    }

    /// Asserts that there was one outcome, and that nothing is left of calls and wakers.
    fn end(self: Arc<Self>) -> Number {
        let outcomes = self.outcomes.lock().unwrap().clone();
        assert_eq!(outcomes.len(), 1, "{outcomes:?}");
        assert_eq!(self.call.outcome(), Some(outcomes[0]));
        assert_eq!(self.live.load(Ordering::SeqCst), 0, "calls that were not dropped");
        self.events.iter().for_each(|event| drop(lock(&event.0).1.take()));
        let world: Weak<Self> = Arc::downgrade(&self);
        drop(self);
        assert_eq!(world.strong_count(), 0, "wakers that were not dropped");
        outcomes[0]
    }
}

struct Participant {
    world: Arc<World>,
    slot: usize,
    role: Role,
    polls: usize,
}

impl Future for Participant {
    type Output = (Number, usize);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.polls += 1;
        let polls = self.polls;
        match self.world.call.poll_outcome(self.slot, self.role, cx.waker()) {
            Step::Finished(number) => return Poll::Ready((number, polls)),
            Step::Wait => return Poll::Pending,
            Step::Drive => self.world.drive(),
        }
        self.world.call.outcome().map_or(Poll::Pending, |number| Poll::Ready((number, polls)))
    }
}

impl Drop for Participant {
    fn drop(&mut self) {
        // As a task does that is dropped before the end.
        if self.role == Role::Driver && self.world.call.outcome().is_none() {
            self.world.finish(CANCELLED);
        }
        if self.world.call.leave(self.slot, self.role) == Remaining::Unwanted {
            self.world.finish(CANCELLED);
        }
    }
}

fn outcomes(waiters: Vec<JoinHandle<(Number, usize)>>) -> Vec<Number> {
    join(waiters).into_iter().map(|(number, _)| number).collect()
}

/// Two events, and a wake-up during a poll.
const BOTH_EVENTS: &[&[Act]] = &[&[Act::Await(0), Act::Yield, Act::Await(1), Act::Return(7)]];

/// Three calls, one after the other.
const RESTARTS: &[&[Act]] =
    &[&[Act::Await(0), Act::Again(1)], &[Act::Yield, Act::Again(2)], &[Act::Await(1), Act::Return(7)]];

#[test]
fn shared_call_gives_all_waiters_one_outcome() {
    for scripts in [BOTH_EVENTS, RESTARTS] {
        explore(move || {
            let world = World::new(scripts);
            let waiters = world.waiters(3);
            let events = world.set_events();
            assert_eq!(outcomes(waiters), [7; 3]);
            join(events);
            assert_eq!(world.end(), 7);
        });
    }
}

#[test]
fn shared_call_panic_is_an_outcome_of_all() {
    explore(|| {
        let world = World::new(&[&[Act::Await(0), Act::Again(1)], &[Act::Await(1), Act::Panic]]);
        let waiters = world.waiters(2);
        let events = world.set_events();
        assert_eq!(outcomes(waiters), [PANICKED; 2]);
        join(events);
        world.end();
    });
}

/// A driver that is woken, or has just polled, and then is gone.
#[test]
fn shared_call_driver_that_leaves_takes_no_wake_up_along() {
    for scripts in [BOTH_EVENTS, RESTARTS] {
        for polls in 0..4 {
            explore(move || {
                let world = World::new(scripts);
                let leaves = vec![world.leaver(polls), world.leaver(1)];
                let stays = world.waiters(1);
                let events = world.set_events();
                assert!(join(leaves).into_iter().flatten().all(|(number, _)| number == 7));
                assert_eq!(outcomes(stays), [7]);
                join(events);
                world.end();
            });
        }
    }
}

/// A call that nobody drives any more.
#[test]
fn shared_call_is_continued_by_later_waiter() {
    for scripts in [BOTH_EVENTS, RESTARTS] {
        explore(move || {
            let world = World::new(scripts);
            let leaves = vec![world.leaver(1), world.leaver(2)];
            let events = world.set_events();
            join(leaves);
            assert!(world.call.is_abandoned());
            assert_eq!(outcomes(world.waiters(1)), [7]);
            join(events);
            world.end();
        });
    }
}

#[test]
fn shared_call_wakes_itself_during_poll() {
    explore(|| {
        let world = World::new(&[&[Act::Yield, Act::Yield, Act::Return(7)]]);
        assert_eq!(outcomes(world.waiters(2)), [7; 2]);
        world.end();
    });
}

#[test]
fn shared_call_first_outcome_wins() {
    for scripts in [BOTH_EVENTS, RESTARTS] {
        explore(move || {
            let world = World::new(scripts);
            let waiters = world.waiters(2);
            let events = world.set_events();
            let ends: Vec<_> = (8..10)
                .map(|number| {
                    let world = Arc::clone(&world);
                    thread::spawn(move || world.finish(number))
                })
                .collect();
            let outcomes = outcomes(waiters);
            ends.into_iter().for_each(|end| end.join().unwrap());
            join(events);
            assert_eq!(outcomes, [world.end(); 2]);
        });
    }
}

/// Finished while a driver polls the call, which never returns.
#[test]
fn shared_call_drops_call_that_is_finished_during_poll() {
    explore(|| {
        let world = World::new(&[&[Act::Yield, Act::Again(1)], &[Act::Yield, Act::Yield, Act::Await(0)]]);
        let waiters = world.waiters(2);
        let end = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.finish(8))
        };
        assert_eq!(outcomes(waiters), [8; 2]);
        end.join().unwrap();
        world.end();
    });
}

#[test]
fn shared_call_is_driven_by_task_alone() {
    for scripts in [BOTH_EVENTS, RESTARTS] {
        explore(move || {
            let world = World::new(scripts);
            let task = world.spawn(Role::Driver);
            let waiters = world.waiters(2);
            let events = world.set_events();
            for (number, polls) in join(waiters) {
                assert_eq!(number, 7);
                assert!(polls <= 2, "a wake-up of the call woke a waiter: {polls} polls");
            }
            assert_eq!(task.join().unwrap().0, 7);
            join(events);
            world.end();
        });
    }
}

/// Waiters that have driven before the task takes part.
#[test]
fn shared_call_task_joins_later_and_may_be_dropped() {
    for scripts in [BOTH_EVENTS, RESTARTS] {
        for polls in [None, Some(0), Some(1)] {
            explore(move || {
                let world = World::new(scripts);
                let waiters = world.waiters(2);
                let task = world.join(Role::Driver);
                let task = thread::spawn(move || match polls {
                    None => Some(block_on(task)),
                    Some(polls) => block_on(Impatient::new(task, polls)),
                });
                let events = world.set_events();
                let outcomes = outcomes(waiters);
                task.join().unwrap();
                join(events);
                let outcome = world.end();
                assert_eq!(outcomes, [outcome; 2]);
                assert!(outcome == 7 || (outcome == CANCELLED && polls.is_some()));
            });
        }
    }
}

#[test]
fn shared_call_detached_ends_with_last_waiter() {
    for polls in 0..3 {
        explore(move || {
            let world = World::new(RESTARTS);
            let leaves = vec![world.leaver(polls), world.leaver(1)];
            let detaches = {
                let world = Arc::clone(&world);
                thread::spawn(move || {
                    if world.call.detach() {
                        world.finish(CANCELLED);
                    }
                })
            };
            // The second event is missing, so that the call can't end by itself.
            world.events[0].set();
            join(leaves);
            detaches.join().unwrap();
            assert_eq!(world.end(), CANCELLED);
        });
    }
}

#[test]
fn shared_call_detached_serves_waiter_that_stays() {
    for scripts in [BOTH_EVENTS, RESTARTS] {
        explore(move || {
            let world = World::new(scripts);
            let leaves = world.leaver(2);
            let stays = world.waiters(1);
            let detaches = {
                let world = Arc::clone(&world);
                thread::spawn(move || assert!(!world.call.detach() || world.call.outcome().is_some()))
            };
            let events = world.set_events();
            assert_eq!(outcomes(stays), [7]);
            leaves.join().unwrap();
            detaches.join().unwrap();
            join(events);
            world.end();
        });
    }
}
