//! The layer's clock, the time of the timers, and the correction of the clock (rule H1). All in milliseconds.

/// Differences of this size between clocks count as none.
const TOLERANCE: i64 = 5_000;

const DAY: i64 = 24 * 60 * 60 * 1_000;

const HOUR: i64 = 60 * 60 * 1_000;

#[derive(Clone, Copy)]
pub struct Time {
    /// What the layer's clock says.
    pub clock: i64,
    /// What has passed since the start, which no step of the clock changes.
    pub passed: i64,
    /// Whether there are timers, which go by `passed`.
    pub on_runtime: bool,
}

/// A time to wait. It ends as soon as the clock or the timers say so (rule C6).
#[derive(Clone, Copy)]
pub struct Pause {
    length: i64,
    since: Time,
}

impl Pause {
    pub fn new(length: i64, since: Time) -> Self {
        Self { length, since }
    }

    pub fn left(self, now: Time) -> i64 {
        let by_clock = now.clock - self.since.clock;
        let by_timer = now.on_runtime.then(|| now.passed - self.since.passed);
        // A clock that went back to before the start says nothing.
        let elapsed = by_timer.into_iter().chain((by_clock >= 0).then_some(by_clock)).max();
        elapsed.map_or(0, |elapsed| (self.length - elapsed).max(0))
    }

    pub fn is_running(self, now: Time) -> bool {
        self.left(now) > 0
    }
}

/// The offset that was adopted, and when.
#[derive(Clone, Copy, Default)]
pub struct Correction {
    offset: i64,
    since: i64,
}

impl Correction {
    pub fn adopt(&mut self, offset: i64, now: Time) {
        *self = Self { offset, since: now.clock };
    }

    /// The offset, unless it is older than an hour, or the clock was set back to before it was adopted.
    pub fn in_force(self, now: Time) -> i64 {
        if (-TOLERANCE..HOUR).contains(&(now.clock - self.since)) { self.offset } else { 0 }
    }

    pub fn has_lapsed(self, now: Time) -> bool {
        self.offset != 0 && self.in_force(now) == 0
    }

    /// The offset to try after a 401 with this `date` to a token that was made by `offset`, and found at `found`. A
    /// `date` between then and now shows no wrong clock, since the request may have waited.
    pub fn to_try(self, date: i64, (found, offset): (i64, i64), now: Time) -> Option<i64> {
        if (found + offset - TOLERANCE..=now.clock + offset + TOLERANCE).contains(&date) {
            return None;
        }
        let in_force = self.in_force(now);
        if agree(date, now.clock + in_force) {
            return Some(in_force);
        }
        match date - now.clock {
            apart if apart.abs() <= TOLERANCE => Some(0),
            apart if apart.abs() <= DAY => Some(apart),
            _ => None,
        }
    }
}

/// Returns whether two clocks agree.
pub fn agree(one: i64, other: i64) -> bool {
    (one - other).abs() <= TOLERANCE
}
