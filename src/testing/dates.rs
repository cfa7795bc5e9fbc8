//! Formats times for responses: the `Date` header and the API's `expires_at`.

use std::time::SystemTime;

const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// The last second of the year 9999, the latest time in either format.
const LAST: u64 = 253_402_300_799;

/// Returns a time as `Fri, 15 Jan 2027 08:00:00 GMT` (RFC 9110, section 5.6.7).
pub(super) fn http_date(time: SystemTime) -> String {
    let Civil { year, month, day, weekday, hour, minute, second } = civil(time);
    let (weekday, month) = (WEEKDAYS[weekday], MONTHS[month]);
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

/// Returns a time as `2027-01-15T08:00:00Z` (RFC 3339), the `date-time` format of `OpenAPI`.
pub(super) fn rfc3339(time: SystemTime) -> String {
    let Civil { year, month, day, hour, minute, second, .. } = civil(time);
    format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z", month + 1)
}

/// A time in UTC. `month` counts from 0, `day` from 1. `weekday` counts from Thursday, the weekday of the Unix epoch.
struct Civil {
    year: u64,
    month: usize,
    day: u64,
    weekday: usize,
    hour: u64,
    minute: u64,
    second: u64,
}

/// Converts a time to UTC. A time before the Unix epoch becomes the epoch.
fn civil(time: SystemTime) -> Civil {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()).min(LAST);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (mut year, mut day) = (1970, days);
    while day >= days_of_year(year) {
        day -= days_of_year(year);
        year += 1;
    }
    let mut month = 0;
    while day >= days_of_month(year, month) {
        day -= days_of_month(year, month);
        month += 1;
    }
    Civil {
        year,
        month,
        day: day + 1,
        weekday: usize::try_from(days % 7).unwrap_or(0),
        hour: second / 3_600,
        minute: second / 60 % 60,
        second: second % 60,
    }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_of_year(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

fn days_of_month(year: u64, month: usize) -> u64 {
    match month {
        1 if is_leap(year) => 29,
        1 => 28,
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_formatted_correctly() {
        for (seconds, http, rfc) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT", "1970-01-01T00:00:00Z"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT", "1994-11-06T08:49:37Z"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT", "2000-02-29T00:00:00Z"),
            (1_800_000_000, "Fri, 15 Jan 2027 08:00:00 GMT", "2027-01-15T08:00:00Z"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT", "2100-03-01T00:00:00Z"),
            (u64::MAX / 4, "Fri, 31 Dec 9999 23:59:59 GMT", "9999-12-31T23:59:59Z"),
        ] {
            let Some(time) = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)) else { continue };
            assert_eq!((http_date(time).as_str(), rfc3339(time).as_str()), (http, rfc));
        }
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00Z");
    }
}
