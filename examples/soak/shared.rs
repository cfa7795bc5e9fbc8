//! State shared by all tasks of a run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tower_aiuta_auth::AuthParams;

use crate::call::Call;
use crate::clock::WallClock;
use crate::counts::Counts;
use crate::invalidations::Invalidations;
use crate::invariants::{Invariant, Violations};
use crate::issued::Issued;
use crate::rejected_keys::RejectedKeys;
use crate::timers::Timers;
use crate::upstream::Upstream;

/// The frequently used keys: each photo with two garments, each without a partition and in two partitions.
pub(crate) const PARTITIONS: u64 = 3;
const GARMENTS: u64 = 2;

/// Number of consecutive requests for each key of a flood.
pub(crate) const REQUESTS_PER_FLOOD_KEY: u64 = 3;

/// Maximum time that a source may take.
///
/// Short, so that a source that hangs does not stop its callers for long.
pub(crate) const FETCH_TIMEOUT: Duration = Duration::from_millis(300);

/// Maximum time until a request is sent or has failed: it waits for a fetch whose runtime is not driven, and then for
/// one more (rule C4). If its token expires before it is sent, it does so once more (rule C2).
const MAX_WAIT: Duration = Duration::from_millis(4 * (300 + 100));

/// How much longer a wait may be on a busy machine.
const WAIT_TOLERANCE: Duration = Duration::from_millis(1_500);

pub(crate) struct Shared {
    pub(crate) counts: Counts,
    pub(crate) violations: Arc<Violations>,
    pub(crate) invalidations: Arc<Invalidations>,
    pub(crate) upstream: Upstream,
    pub(crate) issued: Arc<Issued>,
    pub(crate) rejected_keys: Arc<RejectedKeys>,
    /// The layer's clock.
    pub(crate) clock: WallClock,
    pub(crate) timers: Timers,
    /// Origin of the gate.
    pub(crate) origin: String,
    pub(crate) over: AtomicBool,
    /// Whether some 401 responses have a false date.
    pub(crate) false_dates: AtomicBool,
    /// Number of requests that are left of the current flood.
    pub(crate) flood: AtomicU64,
}

/// The params of a try-on, before they are turned into [`AuthParams`].
pub(crate) struct TryOn {
    pub(crate) photo: String,
    pub(crate) garment: String,
    pub(crate) partition: u64,
}

impl TryOn {
    pub(crate) fn params(&self) -> AuthParams {
        let params = AuthParams::new()
            .with("uploaded_image_id", self.photo.as_str())
            .with("sku_ids", vec![self.garment.clone()]);
        if self.partition > 0 { params.with_partition(self.partition.to_string()) } else { params }
    }
}

impl Shared {
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Checks that a request did not wait for its token too long. Without a runtime, a fetch ends by the clock, so a
    /// step of the clock may end it later.
    pub(crate) fn check_wait(&self, call: &Call) {
        if !call.poll.on_runtime && self.clock.stepped_within(call.began, call.poll.began) {
            return;
        }
        let waited = call.poll.began - call.began;
        let limit = MAX_WAIT + call.slow + WAIT_TOLERANCE;
        self.violations.check(Invariant::WaitsAreShort, waited <= limit, || {
            format!("{waited:?}, on a runtime: {}", call.poll.on_runtime)
        });
    }

    /// Number of keys outside floods: those of try-ons, and the empty params.
    pub(crate) fn keys(&self) -> u64 {
        self.try_on_keys() + 1
    }

    pub(crate) fn try_on_keys(&self) -> u64 {
        self.upstream.photos.len() as u64 * GARMENTS * PARTITIONS
    }

    pub(crate) fn try_on(&self, number: u64) -> TryOn {
        TryOn {
            photo: self.photo(number / PARTITIONS / GARMENTS),
            garment: format!("garment-{}", number / PARTITIONS % GARMENTS),
            partition: number % PARTITIONS,
        }
    }

    /// Returns the next try-on of the current flood, if there is one.
    pub(crate) fn next_in_flood(&self) -> Option<TryOn> {
        self.flood.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).ok()?;
        let key = self.counts.flood_requests.next() / REQUESTS_PER_FLOOD_KEY;
        Some(TryOn { photo: self.photo(key), garment: format!("flood-{key}"), partition: 0 })
    }

    pub(crate) fn photo(&self, number: u64) -> String {
        let photos = &self.upstream.photos;
        photos[usize::try_from(number % photos.len() as u64).expect("less than the number of photos")].clone()
    }
}
