//! [`CorrectedClock`]: the layer's clock, with a correction (rule H1).
//!
//! Each time in this crate is *raw* or *corrected*. Raw time is the time of the [`Clock`]. Each length of time, such as
//! how long a token is used, is the difference of two raw times. Corrected time is raw time plus the offset in force.
//! Sources get the corrected time ([`TokenRequest::now`](crate::TokenRequest::now)), because Aiuta compares the claims
//! of a token with its own clock.
//!
//! ```text
//! 401 with a `Date` that differs from the clock ─▶ the offset is tried: a token is made with it for one replay
//!     Aiuta accepts the token ─▶ the offset is in force for an hour, or until a `Date` agrees with the raw clock
//!     otherwise               ─▶ the offset is forgotten
//! ```

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::clock::Clock;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::trace;

/// Maximum difference between two clocks that needs no correction. A `Date` is up to a second old, and responses take
/// time.
const TOLERANCE: Duration = Duration::from_secs(5);

/// The largest offset that is tried. A larger difference does not come from drift. Either the clock was never set, or
/// the `Date` is wrong.
const MAX_OFFSET: Duration = Duration::from_secs(24 * 60 * 60);

/// How long an offset is in force. After this time the clock may have been set right. If it is still wrong, the next
/// 401 starts another try.
const MAX_AGE: Duration = Duration::from_secs(60 * 60);

/// Number of milliseconds that are added to the raw time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offset(i64);

impl Offset {
    const NONE: Self = Self(0);

    /// Returns the offset that turns `clock` into `right`. Returns zero if they differ by at most the tolerance, and
    /// `None` if they differ by more than a day.
    fn between(clock: SystemTime, right: SystemTime) -> Option<Self> {
        let (apart, sign) = match right.duration_since(clock) {
            Ok(ahead) => (ahead, 1),
            Err(error) => (error.duration(), -1),
        };
        let millis = i64::try_from(apart.as_millis()).ok()?;
        match apart {
            _ if apart <= TOLERANCE => Some(Self::NONE),
            _ if apart <= MAX_OFFSET => Some(Self(sign * millis)),
            _ => None,
        }
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

/// A reading of the clock, with the offset that corrects it.
#[derive(Clone, Copy)]
pub(crate) struct ClockReading {
    pub(crate) raw: SystemTime,
    offset: Offset,
}

impl ClockReading {
    pub(crate) fn new(raw: SystemTime, offset: Offset) -> Self {
        Self { raw, offset }
    }

    #[cfg(all(test, not(tower_aiuta_auth_model)))]
    pub(crate) fn uncorrected(raw: SystemTime) -> Self {
        Self::new(raw, Offset::NONE)
    }

    pub(crate) fn corrected(self) -> SystemTime {
        self.offset.add_to(self.raw)
    }

    pub(crate) fn offset(self) -> Offset {
        self.offset
    }

    /// Returns whether the reading was corrected by about this offset.
    pub(crate) fn is_corrected_by(self, offset: Offset) -> bool {
        Duration::from_millis(self.offset.0.abs_diff(offset.0)) <= TOLERANCE
    }

    /// Returns a reading at the later time `raw`, with the same offset.
    pub(crate) fn later(self, raw: SystemTime) -> Self {
        Self { raw, ..self }
    }
}

/// The layer's clock, with the offset that was adopted after a comparison with Aiuta's clock.
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

    /// Returns the reading for the raw time `raw`, with the offset that is in force now.
    pub(crate) fn reading_at(&self, raw: SystemTime) -> ClockReading {
        ClockReading::new(raw, self.adopted.load().in_force(raw))
    }

    /// Returns the offset in force, in whole seconds.
    pub(crate) fn offset(&self) -> i64 {
        self.adopted.load().in_force(self.raw()).0 / 1000
    }

    /// Returns whether an offset may be in force, without reading the clock.
    pub(crate) fn is_corrected(&self) -> bool {
        self.adopted.load().0 != 0
    }

    /// Returns the offset to try after a 401, or `None` if the clock was right. `found` is the reading of the clock
    /// when the rejected token was found. `date` is the `Date` of the 401.
    pub(crate) fn offset_to_try(&self, found: ClockReading, date: SystemTime) -> Option<Offset> {
        let received = self.raw();
        if !is_off(date, found.corrected(), found.later(received).corrected()) {
            return None;
        }
        // Another request may have adopted an offset since then. If that offset agrees with `date`, it is used.
        let in_force = self.adopted.load().in_force(received);
        let corrected = in_force.add_to(received);
        if is_off(date, corrected, corrected) { Offset::between(received, date) } else { Some(in_force) }
    }

    /// Puts `offset` in force from now on.
    pub(crate) fn adopt(&self, offset: Offset) {
        let (now, current) = (self.raw(), self.adopted.load());
        let in_force = current.in_force(now);
        // An offset that is too old is cleared, too.
        let is_stale = in_force != offset || (offset == Offset::NONE && current.0 != 0);
        if is_stale && self.adopted.replace(current, offset, now) && in_force != offset {
            trace::clock_offset_adopted(offset.0 / 1000);
        }
    }

    /// Removes the offset in force if `date`, the `Date` of a response, agrees with the raw clock.
    pub(crate) fn void_if_contradicted(&self, date: SystemTime) {
        if Offset::between(self.raw(), date) == Some(Offset::NONE) {
            self.adopt(Offset::NONE);
        }
    }
}

/// Compares a clock with another clock, and returns whether it is wrong. The clock showed `made` before a request was
/// sent, and `received` after the response came. The other clock showed `date` in between.
///
/// Every `date` from `made` to `received` is possible, because the request or the response may have been delayed. If
/// `date` is earlier than `made`, the clock is ahead. If `date` is later than `received`, the clock is behind.
fn is_off(date: SystemTime, made: SystemTime, received: SystemTime) -> bool {
    let too_early = made.checked_sub(TOLERANCE).is_some_and(|earliest| date < earliest);
    let too_late = received.checked_add(TOLERANCE).is_some_and(|latest| date > latest);
    too_early || too_late
}

/// An offset and the time of its adoption. They are packed into one word, so that both can be read at once without a
/// lock.
#[derive(Default)]
struct AtomicOffset(AtomicU64);

/// Number of the lower bits, which contain the offset plus [`ZERO_OFFSET`]. The sum is never negative. The 36 bits
/// above contain seconds since the Unix epoch, up to the year 4147.
const OFFSET_BITS: u32 = 28;
const ZERO_OFFSET: i64 = 1 << (OFFSET_BITS - 1);

/// The word is zero if there is no offset.
#[derive(Clone, Copy)]
struct PackedOffset(u64);

impl AtomicOffset {
    fn load(&self) -> PackedOffset {
        PackedOffset(self.0.load(Ordering::Relaxed))
    }

    /// Returns whether this caller has replaced the value. If another caller was faster, it had the same reason, so no
    /// second try is needed.
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

    /// Returns the offset, or zero if the offset is not in force at `raw`. It is not in force if it is too old. It is
    /// also not in force if it was adopted later than `raw`, because the clock was then set back, perhaps to the right
    /// time.
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
