//! Offsets in tables. Their effect on the wire is tested in `tests/it/clock_skew.rs`.

use std::sync::Mutex;

use super::*;

const START: i64 = 1_800_000_000;
const DAY: i64 = 24 * 3600;

fn at(seconds: f64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs_f64(START as f64 + seconds)
}

/// A clock that tests set, in seconds from the start.
#[derive(Clone, Default)]
struct Hand(Arc<Mutex<f64>>);

impl Clock for Hand {
    fn now(&self) -> SystemTime {
        at(*self.0.lock().unwrap())
    }
}

impl Hand {
    fn set(&self, seconds: f64) {
        *self.0.lock().unwrap() = seconds;
    }
}

impl CorrectedClock {
    fn reading(&self) -> ClockReading {
        self.reading_at(self.raw())
    }
}

fn clock() -> (Hand, CorrectedClock) {
    let hand = Hand::default();
    (hand.clone(), CorrectedClock::new(Arc::new(hand)))
}

#[test]
fn h1_clock_is_off_if_the_date_is_not_in_between() {
    // Made at 0 s; received and dated at these seconds. A `Date` has no fractions of a second.
    for (received, date, off) in [
        (0.0, 0.0, false),
        (0.9, 0.0, false),
        (0.0, 5.0, false),
        (0.0, -5.0, false),
        (0.0, 5.01, true),
        (0.0, 6.0, true),
        (0.0, -6.0, true),
        // The response took long. The clock is right if it agrees with the `Date` at any moment of that.
        (60.0, -5.0, false),
        (60.0, 0.0, false),
        (60.0, 65.0, false),
        (60.0, 66.0, true),
        (60.0, -6.0, true),
        // The clock was set back meanwhile, so the token is one of the future.
        (-600.0, -600.0, true),
    ] {
        assert_eq!(is_off(at(date), at(0.0), at(received)), off, "received at {received} s, dated {date} s");
    }
}

#[test]
fn h1_offsets_up_to_a_day_are_tried() {
    for (date, offset) in [
        (0, None),
        (5, None),
        (6, Some(6)),
        (-5, None),
        (-6, Some(-6)),
        (600, Some(600)),
        (-600, Some(-600)),
        (DAY, Some(DAY)),
        (-DAY, Some(-DAY)),
        (DAY + 1, None),
        (-DAY - 1, None),
        (3650 * DAY, None),
        (-START, None),
    ] {
        let (_, clock) = clock();
        let tried = clock.offset_to_try(clock.reading(), at(date as f64));
        assert_eq!(tried, offset.map(|seconds| Offset(seconds * 1000)), "{date} s");
        assert_eq!(clock.offset(), 0, "it is not adopted before it has helped");
        if let Some(tried) = tried {
            clock.adopt(tried);
            assert_eq!(Some(clock.offset()), offset);
            assert_eq!(clock.reading().corrected(), at(date as f64));
            assert_eq!(clock.raw(), at(0.0));
        }
    }
}

#[test]
fn h1_corrected_clock_is_never_ahead_of_the_one_it_was_corrected_by() {
    // The `Date` of that clock has no fractions of a second, this clock has.
    for right in [0.0, 0.3, 0.999] {
        for ours in [600.0, 600.25, -599.5] {
            let (hand, clock) = clock();
            hand.set(ours);
            clock.adopt(clock.offset_to_try(clock.reading(), at(0.0)).unwrap());
            let corrected = clock.reading().corrected();
            assert!(corrected <= at(right) && corrected > at(right) - Duration::from_secs(1), "{ours} s, {right} s");
        }
    }
}

#[test]
fn h1_offset_lapses_after_an_hour_and_when_the_clock_is_set_back() {
    for (seconds, offset) in [(0.0, 600), (3599.0, 600), (3600.0, 0), (1e6, 0), (-5.0, 600), (-6.0, 0)] {
        let (hand, clock) = clock();
        clock.adopt(Offset(600_000));
        hand.set(seconds);
        assert_eq!(clock.offset(), offset, "at {seconds} s");
    }
}

#[test]
fn h1_request_that_comes_second_tries_the_offset_in_force() {
    let (_, clock) = clock();
    let second = clock.reading();
    clock.adopt(Offset(600_000));
    // Its response is dated a moment later, but the offset in force explains that.
    assert_eq!(clock.offset_to_try(second, at(602.0)), Some(Offset(600_000)));
    // A token that was made by the corrected clock was rejected for another reason.
    assert_eq!(clock.offset_to_try(clock.reading(), at(602.0)), None);
}

#[test]
fn h1_date_that_agrees_with_the_raw_clock_voids_the_offset() {
    for (date, offset) in [(5.0, 0), (-5.0, 0), (6.0, 600), (-6.0, 600), (600.0, 600)] {
        let (_, clock) = clock();
        clock.adopt(Offset(600_000));
        assert!(clock.is_corrected());
        clock.void_if_contradicted(at(date));
        assert_eq!(clock.offset(), offset, "dated {date} s");
    }
}

#[test]
fn h1_token_of_an_offset_that_is_wrong_by_now_is_made_without() {
    let (hand, clock) = clock();
    clock.adopt(Offset(600_000));
    // The clock is set right, ten minutes ahead. With the offset it is wrong.
    hand.set(610.0);
    let made = clock.reading();
    assert_eq!(made.corrected(), at(1210.0));
    assert_eq!(clock.offset_to_try(made, at(611.0)), Some(Offset::NONE));
    clock.adopt(Offset::NONE);
    assert_eq!(clock.adopted.load().0, 0);
}

#[test]
fn h1_offset_that_does_not_fit_is_not_adopted() {
    // Before the epoch, and too late for the packed word.
    for start in
        [SystemTime::UNIX_EPOCH - Duration::from_secs(3600), SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 36)]
    {
        struct Stopped(SystemTime);
        impl Clock for Stopped {
            fn now(&self) -> SystemTime {
                self.0
            }
        }
        let clock = CorrectedClock::new(Arc::new(Stopped(start)));
        clock.adopt(Offset(600_000));
        assert_eq!((clock.offset(), clock.reading().corrected()), (0, start));
    }
}
