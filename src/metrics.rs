//! The counters of the layer and of its token cache.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// A counter for rare events.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

const STRIPES: usize = 16;

/// Several counters on a cache line of their own, to avoid false sharing. CPUs load up to 128 bytes at once, as one
/// line or as two lines of 64 bytes.
#[derive(Debug)]
#[repr(align(128))]
struct Stripe<const N: usize>([Counter; N]);

/// `N` counters for frequent events. Each thread writes to its own cache line, as long as there are no more than
/// [`STRIPES`] threads.
#[derive(Debug)]
pub(crate) struct StripedCounters<const N: usize>([Stripe<N>; STRIPES]);

impl<const N: usize> Default for StripedCounters<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Stripe(std::array::from_fn(|_| Counter::default()))))
    }
}

impl<const N: usize> StripedCounters<N> {
    pub(crate) fn add(&self, counter: usize) {
        self.0[stripe()].0[counter].add();
    }

    pub(crate) fn get(&self, counter: usize) -> u64 {
        self.0.iter().map(|stripe| stripe.0[counter].get()).sum()
    }
}

/// Returns the stripe of this thread.
fn stripe() -> usize {
    thread_local!(static STRIPE: Cell<usize> = const { Cell::new(usize::MAX) });
    STRIPE.with(|stripe| {
        if stripe.get() == usize::MAX {
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            stripe.set(NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES);
        }
        stripe.get()
    })
}
