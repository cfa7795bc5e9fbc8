//! Offsets in tables. What comes of them on the wire is tested in `tests/clock_skew.rs`.

use std::sync::Mutex;

use super::*;

const START: i64 = 1_800_000_000;
const DAY: i64 = 24 * 3600;

fn at(seconds: f64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs_f64(START as f64 + seconds)
}

/// A clock that tests set, by seconds from the start.
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

fn clock() -> (Hand, CorrectedClock) {
    let hand = Hand::default();
    (hand.clone(), CorrectedClock::new(Arc::new(hand)))
}

#[test]
fn h1_a_clock_is_off_if_the_date_is_not_in_between() {
    // Made at 0 s, received at these seconds, dated at those; the clock that dates cuts off what is no whole second.
    for (received, date, off) in [
        (0.0, 0.0, false),
        (0.9, 0.0, false),
        (0.0, 5.0, false),
        (0.0, -5.0, false),
        (0.0, 5.01, true),
        (0.0, 6.0, true),
        (0.0, -6.0, true),
        // The answer took its time: the clock may have been right at any moment of it.
        (60.0, -5.0, false),
        (60.0, 0.0, false),
        (60.0, 65.0, false),
        (60.0, 66.0, true),
        (60.0, -6.0, true),
        // The clock was set back meanwhile: the token is one of the future.
        (-600.0, -600.0, true),
    ] {
        assert_eq!(is_off(at(date), at(0.0), at(received)), off, "received at {received} s, dated {date} s");
    }
}

#[test]
fn h1_offsets_are_adopted_up_to_a_day() {
    for (date, offset, wrong) in [
        (0, 0, false),
        (5, 0, false),
        (6, 6, true),
        (-5, 0, false),
        (-6, -6, true),
        (600, 600, true),
        (-600, -600, true),
        (DAY, DAY, true),
        (-DAY, -DAY, true),
        (DAY + 1, 0, false),
        (-DAY - 1, 0, false),
        (3650 * DAY, 0, false),
        (-START, 0, false),
    ] {
        let (_, clock) = clock();
        let made = clock.read();
        assert_eq!(clock.compare(made, at(date as f64)), wrong, "{date} s");
        assert_eq!(clock.offset(), offset, "{date} s");
        assert_eq!(clock.read().corrected(), at(offset as f64), "{date} s");
        assert_eq!(clock.raw(), at(0.0));
    }
}

#[test]
fn h1_a_corrected_clock_is_never_ahead_of_the_one_it_was_corrected_by() {
    // Whose date has no fractions of a second, as ours has.
    for right in [0.0, 0.3, 0.999] {
        for ours in [600.0, 600.25, -599.5] {
            let (hand, clock) = clock();
            hand.set(ours);
            assert!(clock.compare(clock.read(), at(0.0)));
            let corrected = clock.read().corrected();
            assert!(corrected <= at(right) && corrected > at(right) - Duration::from_secs(1), "{ours} s, {right} s");
        }
    }
}

#[test]
fn h1_an_offset_is_in_force_for_an_hour_and_not_once_the_clock_was_set_back() {
    for (seconds, offset) in [(0.0, 600), (3599.0, 600), (3600.0, 0), (1e6, 0), (-5.0, 600), (-6.0, 0)] {
        let (hand, clock) = clock();
        assert!(clock.compare(clock.read(), at(600.0)));
        hand.set(seconds);
        assert_eq!(clock.offset(), offset, "at {seconds} s");
    }
}

#[test]
fn h1_who_comes_second_has_an_old_token_and_adopts_nothing() {
    let (_, clock) = clock();
    let (first, second) = (clock.read(), clock.read());
    assert!(clock.compare(first, at(600.0)));
    // Its answer was dated a moment later.
    assert!(clock.compare(second, at(602.0)));
    assert_eq!(clock.offset(), 600);
    // One that was made by the corrected clock has no excuse.
    assert!(!clock.compare(clock.read(), at(602.0)));
}

#[test]
fn h1_a_clock_that_was_set_right_is_found_out_as_well() {
    let (hand, clock) = clock();
    assert!(clock.compare(clock.read(), at(600.0)));
    // Set right, ten minutes ahead; the offset makes it wrong.
    hand.set(610.0);
    let made = clock.read();
    assert_eq!(made.corrected(), at(1210.0));
    assert!(clock.compare(made, at(611.0)));
    assert_eq!((clock.offset(), clock.adopted.load().0), (0, 0), "a second is no offset");
    assert!(!clock.compare(clock.read(), at(611.0)));
}

#[test]
fn h1_what_can_not_be_told_is_left_alone() {
    // Before the epoch, and too late for the word.
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
        clock.compare(clock.read(), start + Duration::from_secs(600));
        assert_eq!((clock.offset(), clock.read().corrected()), (0, start));
    }
}
