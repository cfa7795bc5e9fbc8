//! A runtime that runs each task on a thread of the checker, with timers that follow the model's [`Time`].

use std::cell::RefCell;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use shuttle::thread::JoinHandle;

use crate::cache::fetch::Fetch;
use crate::cache::lock;
use crate::cache::state::CacheState;
use crate::cache::wait::FetchTask;
use crate::clock::Clock;
use crate::sync::Mutex;

/// The time of the clock and of the timers.
#[derive(Clone)]
pub(super) struct Time(Arc<Mutex<Timers>>);

struct Timers {
    now: SystemTime,
    set: Vec<(SystemTime, Waker)>,
}

impl Time {
    pub(super) fn new() -> Self {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        Self(Arc::new(Mutex::new(Timers { now, set: Vec::new() })))
    }

    /// Advances the time and wakes the timers that are due.
    pub(super) fn advance(&self, seconds: u64) {
        let due: Vec<_> = {
            let mut timers = lock(&self.0);
            timers.now += Duration::from_secs(seconds);
            let now = timers.now;
            timers.set.extract_if(.., |(at, _)| *at <= now).collect()
        };
        due.into_iter().for_each(|(_, waker)| waker.wake());
    }

    fn poll_until(&self, at: SystemTime, waker: &Waker) -> Poll<()> {
        let mut timers = lock(&self.0);
        if timers.now >= at {
            return Poll::Ready(());
        }
        timers.set.push((at, waker.clone()));
        Poll::Pending
    }
}

impl Clock for Time {
    fn now(&self) -> SystemTime {
        lock(&self.0).now
    }
}

/// Capabilities of a runtime.
#[derive(Clone, Copy, Debug)]
pub(super) struct Abilities {
    pub(super) timers: bool,
    /// Whether its tasks are polled.
    pub(super) driven: bool,
}

pub(super) struct Runtime {
    time: Time,
    abilities: Abilities,
    tasks: Mutex<Tasks>,
}

#[derive(Default)]
struct Tasks {
    down: bool,
    driven: Vec<JoinHandle<()>>,
    standing: Vec<FetchTask>,
    /// Woken when the runtime is shut down.
    wakers: Vec<Waker>,
}

shuttle::thread_local! {
    static HERE: RefCell<Option<Arc<Runtime>>> = RefCell::new(None);
}

impl Runtime {
    pub(super) fn new(time: Time, abilities: Abilities) -> Arc<Self> {
        Arc::new(Self { time, abilities, tasks: Mutex::default() })
    }

    /// Enters this runtime for the rest of the thread.
    pub(super) fn enter(self: &Arc<Self>) {
        HERE.with(|here| *here.borrow_mut() = Some(Arc::clone(self)));
    }

    fn here() -> Option<Arc<Self>> {
        HERE.with(|here| here.borrow().clone())
    }

    fn spawn(self: &Arc<Self>, task: FetchTask) {
        let mut tasks = lock(&self.tasks);
        if tasks.down {
            drop(tasks);
            drop(task);
        } else if self.abilities.driven {
            let runtime = Arc::clone(self);
            tasks.driven.push(shuttle::thread::spawn(move || runtime.drive(task)));
        } else {
            tasks.standing.push(task);
        }
    }

    fn drive(self: Arc<Self>, task: FetchTask) {
        self.enter();
        let mut task = Some(task);
        shuttle::future::block_on(std::future::poll_fn(move |cx| {
            if self.is_down(cx) {
                task = None;
            }
            task.as_mut().map_or(Poll::Ready(()), |task| pin!(task).poll(cx))
        }));
    }

    fn is_down(&self, cx: &Context<'_>) -> bool {
        let mut tasks = lock(&self.tasks);
        tasks.wakers.push(cx.waker().clone());
        tasks.down
    }

    /// Drops all tasks without completing them.
    pub(super) fn shut_down(&self) {
        let (standing, wakers) = {
            let mut tasks = lock(&self.tasks);
            tasks.down = true;
            (std::mem::take(&mut tasks.standing), std::mem::take(&mut tasks.wakers))
        };
        drop(standing);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Waits for the tasks to end.
    pub(super) fn join(&self) {
        loop {
            let driven = std::mem::take(&mut lock(&self.tasks).driven);
            if driven.is_empty() {
                return;
            }
            driven.into_iter().for_each(|task| task.join().expect("a task panicked"));
        }
    }
}

/// Replaces tokio's `Handle::try_current`.
pub(crate) fn is_entered() -> bool {
    Runtime::here().is_some()
}

/// Replaces tokio's `spawn`.
pub(crate) fn spawn(state: &Arc<CacheState>, fetch: &Arc<Fetch>) {
    if let Some(runtime) = Runtime::here() {
        runtime.spawn(FetchTask::new(state, fetch));
    }
}

/// Replaces tokio's timers.
pub(crate) struct Timer {
    timeout: Duration,
    deadline: Option<SystemTime>,
}

impl Timer {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { timeout, deadline: None }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Option<Poll<()>> {
        let runtime = Runtime::here().filter(|runtime| runtime.abilities.timers)?;
        let deadline = *self.deadline.get_or_insert_with(|| runtime.time.now() + self.timeout);
        Some(runtime.time.poll_until(deadline, cx.waker()))
    }
}

/// A gate that a source waits for until the test opens it.
#[derive(Default)]
pub(super) struct Gate(Mutex<(bool, Vec<Waker>)>);

impl Gate {
    pub(super) fn open(&self) {
        let waiting = {
            let mut gate = lock(&self.0);
            gate.0 = true;
            std::mem::take(&mut gate.1)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    pub(super) async fn pass(&self) {
        std::future::poll_fn(|cx| {
            let mut gate = lock(&self.0);
            if gate.0 {
                return Poll::Ready(());
            }
            gate.1.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Polls a future a limited number of times, whether or not it was woken. Resolves to `None` if it is still pending
/// then.
pub(super) struct Impatient<F> {
    future: Pin<Box<F>>,
    polls: usize,
}

impl<F: Future> Impatient<F> {
    pub(super) fn new(future: F, polls: usize) -> Self {
        Self { future: Box::pin(future), polls }
    }
}

impl<F: Future> Future for Impatient<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.polls == 0 {
            return Poll::Ready(None);
        }
        self.polls -= 1;
        cx.waker().wake_by_ref();
        self.future.as_mut().poll(cx).map(Some)
    }
}
