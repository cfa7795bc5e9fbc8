//! [`CorrectedClock`]: the clock, and how far it is off (rule H1).
//!
//! Each time in this crate is *raw* or *corrected*. Raw time is what the [`Clock`] says. Everything that is a length of
//! time, such as how long a token is used, is the difference of two raw times. Corrected time is raw time plus the offset
//! in force. It is only used to tell a source the time ([`TokenRequest::now`](crate::TokenRequest::now)), since Aiuta
//! compares the claims of a token with its own clock.
//!
//! ```text
//! 401 with a `Date` that the clock disagrees with ─▶ the offset is tried: a token is made by it, the request is replayed
//!     replay answered 401 ─▶ forgotten
//!     any other answer    ─▶ in force, for an hour, or until a `Date` agrees with the raw clock
//! ```

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::clock::Clock;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::trace;

/// How far two clocks may be apart without a correction: a `Date` is up to a second old, and responses take time.
const TOLERANCE: Duration = Duration::from_secs(5);

/// The largest offset that is tried. A clock that is off by more is not a clock that drifts, or the `Date` is wrong.
const MAX_OFFSET: Duration = Duration::from_secs(24 * 60 * 60);

/// How long an offset is in force. After that the clock may have been set right, and another 401 tells if it was not.
const MAX_AGE: Duration = Duration::from_secs(60 * 60);

/// What is added to the clock, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offset(i64);

impl Offset {
    const NONE: Self = Self(0);

    /// What `clock` lacks to say `right`: zero if that is within the tolerance, `None` if it is over a day.
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

/// What the clock said at one moment, and how it was corrected.
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

    pub(crate) fn is_by(self, offset: Offset) -> bool {
        self.offset == offset
    }

    /// A later moment, corrected as this one.
    pub(crate) fn later(self, raw: SystemTime) -> Self {
        Self { raw, ..self }
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

    /// What the clock said at `raw`, with the offset that is in force now.
    pub(crate) fn reading_at(&self, raw: SystemTime) -> ClockReading {
        ClockReading::new(raw, self.adopted.load().in_force(raw))
    }

    /// The offset in force, in whole seconds.
    pub(crate) fn offset(&self) -> i64 {
        self.adopted.load().in_force(self.raw()).0 / 1000
    }

    /// Returns whether an offset may be in force, without reading the clock.
    pub(crate) fn is_corrected(&self) -> bool {
        self.adopted.load().0 != 0
    }

    /// Returns the offset to try, if a token was made by a wrong clock: if Aiuta's clock said `date` when it rejected
    /// the token, which was found at `found`.
    pub(crate) fn offset_to_try(&self, found: ClockReading, date: SystemTime) -> Option<Offset> {
        let received = self.raw();
        if !is_off(date, found.corrected(), found.later(received).corrected()) {
            return None;
        }
        // Another request may have tried one with success meanwhile.
        let in_force = self.adopted.load().in_force(received);
        let corrected = in_force.add_to(received);
        if is_off(date, corrected, corrected) { Offset::between(received, date) } else { Some(in_force) }
    }

    /// Puts an offset in force that has helped.
    pub(crate) fn adopt(&self, offset: Offset) {
        let (now, current) = (self.raw(), self.adopted.load());
        if current.in_force(now) != offset && self.adopted.replace(current, offset, now) {
            trace::clock_offset_adopted(offset.0 / 1000);
        }
    }

    /// Voids the offset in force if the `date` of a response agrees with the raw clock.
    pub(crate) fn void_if_contradicted(&self, date: SystemTime) {
        if Offset::between(self.raw(), date) == Some(Offset::NONE) {
            self.adopt(Offset::NONE);
        }
    }
}

/// Returns whether a clock that said `made` before a request was sent, and `received` after its response came, is off if
/// another clock said `date` in between.
///
/// It is not if `date` is any moment in between: the request may have waited in a queue, or the response for a machine
/// that slept. A `date` before the first makes the token one of the future, a `date` after the last an old one.
fn is_off(date: SystemTime, made: SystemTime, received: SystemTime) -> bool {
    let too_early = made.checked_sub(TOLERANCE).is_some_and(|earliest| date < earliest);
    let too_late = received.checked_add(TOLERANCE).is_some_and(|latest| date > latest);
    too_early || too_late
}

/// An offset and when it was adopted, packed into one word: both are read at once, without a lock.
#[derive(Default)]
struct AtomicOffset(AtomicU64);

/// The lower bits are the offset, made positive. The 36 bits above are seconds since the epoch, up to the year 4147.
const OFFSET_BITS: u32 = 28;
const ZERO_OFFSET: i64 = 1 << (OFFSET_BITS - 1);

/// Zero if there is no offset.
#[derive(Clone, Copy)]
struct PackedOffset(u64);

impl AtomicOffset {
    fn load(&self) -> PackedOffset {
        PackedOffset(self.0.load(Ordering::Relaxed))
    }

    /// Returns whether this caller replaced it. Another caller that did so at the same moment had the same reason.
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

    /// The offset, unless it is too old at `raw`, or was adopted later: then the clock was set back, perhaps because
    /// someone set it right.
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
