//! What everyone in the storm shares.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tower_aiuta_auth::AuthParams;

use crate::counts::Counts;
use crate::findings::Findings;
use crate::forgets::Forgets;
use crate::stand_in::StandIn;

/// The keys that are asked for again and again: each photo with two garments, for nobody in particular and in two partitions.
pub(crate) const PARTITIONS: u64 = 3;
const GARMENTS: u64 = 2;

/// Every key of a flood is asked for so many times, one right after the other.
pub(crate) const FLOOD_ASKS: u64 = 3;

pub(crate) struct World {
    pub(crate) counts: Counts,
    pub(crate) findings: Arc<Findings>,
    pub(crate) forgets: Arc<Forgets>,
    pub(crate) stand_in: StandIn,
    /// Where the gate is.
    pub(crate) origin: String,
    pub(crate) over: AtomicBool,
    /// What is left of a flood, in requests.
    pub(crate) flood: AtomicU64,
}

/// What a try-on is for.
pub(crate) struct Wish {
    pub(crate) photo: String,
    pub(crate) garment: String,
    pub(crate) partition: u64,
}

impl Wish {
    pub(crate) fn params(&self) -> AuthParams {
        let params = AuthParams::new()
            .with("uploaded_image_id", self.photo.as_str())
            .with("sku_ids", vec![self.garment.clone()]);
        if self.partition > 0 { params.with_partition(self.partition.to_string()) } else { params }
    }
}

impl World {
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// How many keys there are apart from floods: those of wishes, and the one of no params at all.
    pub(crate) fn keys(&self) -> u64 {
        self.wishes() + 1
    }

    pub(crate) fn wishes(&self) -> u64 {
        self.stand_in.photos.len() as u64 * GARMENTS * PARTITIONS
    }

    pub(crate) fn wish(&self, number: u64) -> Wish {
        Wish {
            photo: self.photo(number / PARTITIONS / GARMENTS),
            garment: format!("garment-{}", number / PARTITIONS % GARMENTS),
            partition: number % PARTITIONS,
        }
    }

    /// The next request of a flood, if there is one now.
    pub(crate) fn flooding(&self) -> Option<Wish> {
        self.flood.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).ok()?;
        let key = self.counts.flood_asks.next() / FLOOD_ASKS;
        Some(Wish { photo: self.photo(key), garment: format!("flood-{key}"), partition: 0 })
    }

    fn photo(&self, number: u64) -> String {
        let photos = &self.stand_in.photos;
        photos[usize::try_from(number % photos.len() as u64).expect("it is less than a length")].clone()
    }
}
