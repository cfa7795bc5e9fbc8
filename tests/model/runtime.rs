//! Runtimes that run each task on a thread of the checker, and a time that passes only when a scenario says so.

use std::cell::RefCell;
use std::ops::Add;
use std::pin::{Pin, pin};
use std::sync::{Arc, LazyLock, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, SystemTime};

use shuttle::thread::JoinHandle;

use crate::cache::lock;
use crate::clock::Clock;
use crate::sync::Mutex;

/// Replaces tokio's `Instant`: the time since a schedule began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(Duration);

impl Instant {
    pub(crate) fn now() -> Self {
        lock(&TIME).now
    }

    pub(crate) fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0 + duration)
    }
}

shuttle::lazy_static! {
    /// The time of the clock and of the timers of all runtimes.
    static ref TIME: Mutex<Time> = Mutex::default();
}

#[derive(Default)]
struct Time {
    now: Instant,
    timers: Vec<(TimerId, Instant, Waker)>,
    next_id: TimerId,
}

type TimerId = u64;

/// Advances the time and wakes the timers that are due.
pub(super) fn advance(seconds: u64) {
    let due: Vec<_> = {
        let mut time = lock(&TIME);
        time.now = time.now + Duration::from_secs(seconds);
        let now = time.now;
        time.timers.extract_if(.., |(_, at, _)| *at <= now).collect()
    };
    due.into_iter().for_each(|(_, _, waker)| waker.wake());
}

/// A clock by the model's time.
pub(super) struct ModelClock;

impl Clock for ModelClock {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + lock(&TIME).now.0
    }
}

/// Replaces tokio's timers.
pub(crate) struct Timer {
    at: Instant,
    id: Option<TimerId>,
}

impl Timer {
    pub(crate) fn at(at: Instant) -> Self {
        Self { at, id: None }
    }

    /// Pending for ever where no runtime is entered, or one that nobody drives.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.unset();
        if !Runtime::here().is_some_and(|runtime| runtime.is_driven()) {
            return Poll::Pending;
        }
        let mut time = lock(&TIME);
        if time.now >= self.at {
            return Poll::Ready(());
        }
        let id = time.next_id;
        time.next_id += 1;
        time.timers.push((id, self.at, cx.waker().clone()));
        self.id = Some(id);
        Poll::Pending
    }

    fn unset(&mut self) {
        if let Some(id) = self.id.take() {
            lock(&TIME).timers.retain(|(other, ..)| *other != id);
        }
    }
}

impl Drop for Timer {
    /// A timer that is gone must not wake, or it would hide a wake-up that was lost.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.unset();
        }
    }
}

/// Replaces tokio's `Runtime`.
pub(super) struct Runtime {
    tasks: Mutex<Tasks>,
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Tasks {
    condition: Condition,
    /// The threads that poll the tasks of a driven runtime.
    threads: Vec<JoinHandle<()>>,
    /// The tasks that nobody polls.
    standing: Vec<Task>,
    /// Woken when the condition changes.
    wakers: Vec<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Condition {
    Driven,
    Standing,
    ShutDown,
}

shuttle::thread_local! {
    static HERE: RefCell<Option<Arc<Runtime>>> = RefCell::new(None);
}

impl Runtime {
    /// A runtime whose tasks are polled, or not until [`resume`](Self::resume).
    pub(super) fn new(is_driven: bool) -> Arc<Self> {
        let condition = if is_driven { Condition::Driven } else { Condition::Standing };
        let tasks = Tasks { condition, threads: Vec::new(), standing: Vec::new(), wakers: Vec::new() };
        Arc::new(Self { tasks: Mutex::new(tasks) })
    }

    /// Enters a runtime, or none. Returns the one that was entered before.
    pub(super) fn enter(runtime: Option<Arc<Self>>) -> Option<Arc<Self>> {
        HERE.with(|here| here.replace(runtime))
    }

    fn here() -> Option<Arc<Self>> {
        HERE.with(|here| here.borrow().clone())
    }

    fn is_driven(&self) -> bool {
        lock(&self.tasks).condition == Condition::Driven
    }

    fn spawn(self: &Arc<Self>, task: Task) {
        let mut tasks = lock(&self.tasks);
        match tasks.condition {
            Condition::Driven => self.start(&mut tasks, task),
            Condition::Standing => tasks.standing.push(task),
            Condition::ShutDown => {
                drop(tasks);
                drop(task);
            }
        }
    }

    fn start(self: &Arc<Self>, tasks: &mut Tasks, task: Task) {
        let runtime = Arc::clone(self);
        tasks.threads.push(shuttle::thread::spawn(move || {
            Self::enter(Some(Arc::clone(&runtime)));
            let mut task = Some(task);
            block_on(std::future::poll_fn(move |cx| {
                runtime.keep_driven(&mut task, cx);
                task.as_mut().map_or(Poll::Ready(()), |task| task.as_mut().poll(cx))
            }));
        }));
    }

    /// Takes a task away from its thread if the runtime is not driven any more.
    fn keep_driven(&self, task: &mut Option<Task>, cx: &Context<'_>) {
        let mut tasks = lock(&self.tasks);
        match tasks.condition {
            Condition::Driven => tasks.wakers.push(cx.waker().clone()),
            Condition::Standing => tasks.standing.extend(task.take()),
            Condition::ShutDown => {
                drop(tasks);
                *task = None;
            }
        }
    }

    /// Polls no task from now on, as a current-thread runtime whose `block_on` has returned.
    pub(super) fn stop(&self) {
        self.set(Condition::Standing);
    }

    /// Polls the tasks again.
    pub(super) fn resume(self: &Arc<Self>) {
        let mut tasks = lock(&self.tasks);
        tasks.condition = Condition::Driven;
        for task in std::mem::take(&mut tasks.standing) {
            self.start(&mut tasks, task);
        }
    }

    /// Drops all tasks without completing them.
    pub(super) fn shut_down(&self) {
        self.set(Condition::ShutDown);
        let standing = std::mem::take(&mut lock(&self.tasks).standing);
        drop(standing);
    }

    fn set(&self, condition: Condition) {
        let wakers = {
            let mut tasks = lock(&self.tasks);
            tasks.condition = condition;
            std::mem::take(&mut tasks.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Waits for the tasks of a driven runtime to end.
    pub(super) fn join(&self) {
        loop {
            let threads = std::mem::take(&mut lock(&self.tasks).threads);
            if threads.is_empty() {
                return;
            }
            threads.into_iter().for_each(|thread| thread.join().expect("a task panicked"));
        }
    }
}

/// Replaces tokio's `Handle::try_current`.
pub(crate) fn is_entered() -> bool {
    HERE.with(|here| here.borrow().is_some())
}

pub(crate) fn now_on_runtime() -> Option<Instant> {
    is_entered().then(Instant::now)
}

/// Sources get this time, so it must be the same for the same instant.
pub(crate) fn to_std(Instant(elapsed): Instant) -> std::time::Instant {
    static START: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);
    *START + elapsed
}

/// The runtime on which a fetch started.
#[derive(Default)]
pub(crate) struct HomeRuntime(OnceLock<Arc<Runtime>>);

impl HomeRuntime {
    pub(crate) fn spawn<F>(&self, make: impl FnOnce() -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if let Some(runtime) = Runtime::here() {
            self.0.get_or_init(|| runtime).spawn(Box::pin(make()));
        }
    }

    pub(crate) fn is_current(&self) -> bool {
        matches!((self.0.get(), Runtime::here()), (Some(home), Some(here)) if Arc::ptr_eq(home, &here))
    }
}

/// Polls a future until it is ready. That of shuttle also polls after a wait for a lock, which would hide a wake-up
/// that was lost.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    #[derive(Default)]
    struct Thread {
        is_woken: Mutex<bool>,
        woken: shuttle::sync::Condvar,
    }

    impl Wake for Thread {
        fn wake(self: Arc<Self>) {
            *lock(&self.is_woken) = true;
            self.woken.notify_one();
        }
    }

    let thread = Arc::<Thread>::default();
    let waker = Waker::from(Arc::clone(&thread));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        let mut is_woken = lock(&thread.is_woken);
        while !*is_woken {
            is_woken = thread.woken.wait(is_woken).expect("no waker panics");
        }
        *is_woken = false;
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
