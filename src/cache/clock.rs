//! The clock, and how far it is off (rule H1).
//!
//! There are two bases of time, and each moment in this crate has one of them:
//!
//! - **raw**, what the [`Clock`] shows: when a flight is late (C6), when a source's pause ends (G2), how old an offset is. None of these may
//!   jump when an offset is adopted.
//! - **corrected**, raw plus the offset in force: what a source is told ([`TokenRequest::now`](crate::TokenRequest::now)), and whether a
//!   token in the cache is fresh, due or stale (D1–D3). Both meet a token's claims, which are judged by Aiuta's clock.
//!
//! A [`ClockReading`] has both. When an offset is adopted or aged out, corrected time jumps, and what is in the cache is judged as after any
//! other step of the clock: tokens from a future that is no more, or over by now, are stale, which is what Aiuta takes them for.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::clock::Clock;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::trace;

/// So far may two clocks be apart without a correction: a `Date` is a whole second old at worst, and answers take time.
const TOLERANCE: Duration = Duration::from_secs(5);

/// The largest offset that is adopted. A clock that is off by more is not a clock that drifts, or the `Date` is nonsense.
const MAX_OFFSET: Duration = Duration::from_secs(24 * 60 * 60);

/// How long an offset is in force. Then the clock may have been set right, and another 401 tells if not.
const MAX_AGE: Duration = Duration::from_secs(60 * 60);

/// What is added to the clock, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Offset(i64);

impl Offset {
    const NONE: Self = Self(0);

    /// What `clock` lacks to show `right`; `None` if that is over a day.
    fn between(clock: SystemTime, right: SystemTime) -> Option<Self> {
        let (apart, sign) = match right.duration_since(clock) {
            Ok(ahead) => (ahead, 1),
            Err(error) => (error.duration(), -1),
        };
        let millis = i64::try_from(apart.as_millis()).ok()?;
        (apart <= MAX_OFFSET).then_some(Self(sign * millis))
    }

    fn is_small(self) -> bool {
        Duration::from_millis(self.0.unsigned_abs()) <= TOLERANCE
    }

    fn add_to(self, raw: SystemTime) -> SystemTime {
        let by = Duration::from_millis(self.0.unsigned_abs());
        match self.0 {
            0 => Some(raw),
            1.. => raw.checked_add(by),
            _ => raw.checked_sub(by),
        }
        .unwrap_or(raw)
    }
}

/// What the clock showed at one moment, and the offset that was in force.
#[derive(Clone, Copy)]
pub(crate) struct ClockReading {
    pub(crate) raw: SystemTime,
    offset: Offset,
}

impl ClockReading {
    #[cfg(tower_aiuta_auth_model)]
    pub(crate) fn at(raw: SystemTime) -> Self {
        Self { raw, offset: Offset::NONE }
    }

    pub(crate) fn corrected(self) -> SystemTime {
        self.offset.add_to(self.raw)
    }
}

/// The layer's clock, with the offset that was adopted from Aiuta's.
pub(crate) struct CorrectedClock {
    clock: Arc<dyn Clock>,
    adopted: AtomicOffset,
}

impl CorrectedClock {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, adopted: AtomicOffset::default() }
    }

    pub(crate) fn raw(&self) -> SystemTime {
        self.clock.now()
    }

    pub(crate) fn read(&self) -> ClockReading {
        self.reading_at(self.clock.now())
    }

    /// What the clock showed a moment ago, with the offset that is in force now.
    pub(crate) fn reading_at(&self, raw: SystemTime) -> ClockReading {
        ClockReading { raw, offset: self.adopted.load().in_force(raw) }
    }

    /// The offset in force, in whole seconds.
    pub(crate) fn offset(&self) -> i64 {
        self.read().offset.0 / 1000
    }

    /// Compares the clock with Aiuta's, which showed `date` when it refused a token. Adopts the difference if ours is off, and answers
    /// whether it was when the token was made, or found in the cache: at `made`.
    ///
    /// These are two questions: of twenty requests that were refused for one wrong clock, the first adopts the difference, and all of them
    /// have a token that was made too early or too late.
    pub(crate) fn compare(&self, made: ClockReading, date: SystemTime) -> bool {
        let received = self.clock.now();
        let Some(difference) = Offset::between(received, date) else { return false };
        let is_off = |offset: Offset| is_off(date, offset.add_to(made.raw), offset.add_to(received));

        let current = self.adopted.load();
        // A clock that needs no correction gets none: this is how an offset goes away once the machine's clock was set right.
        let offset = if difference.is_small() { Offset::NONE } else { difference };
        let in_force = current.in_force(received);
        if is_off(in_force) && offset != in_force && self.adopted.replace(current, offset, received) {
            trace::clock_offset_adopted(offset.0 / 1000);
        }
        is_off(made.offset)
    }
}

/// Whether a clock that showed `made` before a request was sent and `received` after its answer came is off, if another one showed `date`
/// in between.
///
/// Any moment in between will do, however long that was: the request may have waited in a queue, or the answer for a machine that slept. A
/// `date` before the first makes the token one of the future; one after the last, an old one.
fn is_off(date: SystemTime, made: SystemTime, received: SystemTime) -> bool {
    let too_early = made.checked_sub(TOLERANCE).is_some_and(|earliest| date < earliest);
    let too_late = received.checked_add(TOLERANCE).is_some_and(|latest| date > latest);
    too_early || too_late
}

/// An offset and when it was adopted, in one word: a hit reads both at once, without a lock.
#[derive(Default)]
struct AtomicOffset(AtomicU64);

/// The lower bits of the word are the offset, made positive; the 36 above are the second since the epoch, good until the year 4147.
const OFFSET_BITS: u32 = 28;
const ZERO_OFFSET: i64 = 1 << (OFFSET_BITS - 1);

/// The word; 0 if there is no offset.
#[derive(Clone, Copy)]
struct PackedOffset(u64);

impl AtomicOffset {
    fn load(&self) -> PackedOffset {
        PackedOffset(self.0.load(Ordering::Relaxed))
    }

    /// Answers whether it was this caller that replaced it. Another who did so at the same moment did it for the same reason.
    fn replace(&self, current: PackedOffset, offset: Offset, now: SystemTime) -> bool {
        PackedOffset::new(offset, now)
            .is_some_and(|new| self.0.compare_exchange(current.0, new.0, Ordering::Relaxed, Ordering::Relaxed).is_ok())
    }
}

impl PackedOffset {
    fn new(offset: Offset, now: SystemTime) -> Option<Self> {
        if offset == Offset::NONE {
            return Some(Self(0));
        }
        let second = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
        let fits = second < 1 << (u64::BITS - OFFSET_BITS);
        fits.then(|| Self(second << OFFSET_BITS | (ZERO_OFFSET + offset.0).unsigned_abs()))
    }

    /// The offset, unless it is too old at `raw`, or adopted after that: then the clock was set back meanwhile, perhaps because somebody
    /// else found out how wrong it was.
    fn in_force(self, raw: SystemTime) -> Offset {
        if self.0 == 0 {
            return Offset::NONE;
        }
        let adopted = SystemTime::UNIX_EPOCH + Duration::from_secs(self.0 >> OFFSET_BITS);
        let in_force = match raw.duration_since(adopted) {
            Ok(age) => age < MAX_AGE,
            Err(before) => before.duration() <= TOLERANCE,
        };
        let millis = (self.0 & ((1 << OFFSET_BITS) - 1)).cast_signed() - ZERO_OFFSET;
        if in_force { Offset(millis) } else { Offset::NONE }
    }
}

#[cfg(all(test, not(tower_aiuta_auth_model)))]
mod tests;
