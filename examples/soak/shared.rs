//! State shared by all tasks of a run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tower_aiuta_auth::AuthParams;

use crate::counts::Counts;
use crate::invalidations::Invalidations;
use crate::invariants::Violations;
use crate::upstream::Upstream;

/// The frequently used keys: each photo with two garments, each without a partition and in two partitions.
pub(crate) const PARTITIONS: u64 = 3;
const GARMENTS: u64 = 2;

/// Number of consecutive requests for each key of a flood.
pub(crate) const REQUESTS_PER_FLOOD_KEY: u64 = 3;

pub(crate) struct Shared {
    pub(crate) counts: Counts,
    pub(crate) violations: Arc<Violations>,
    pub(crate) invalidations: Arc<Invalidations>,
    pub(crate) upstream: Upstream,
    /// Origin of the gate.
    pub(crate) origin: String,
    pub(crate) over: AtomicBool,
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

    fn photo(&self, number: u64) -> String {
        let photos = &self.upstream.photos;
        photos[usize::try_from(number % photos.len() as u64).expect("less than the number of photos")].clone()
    }
}
