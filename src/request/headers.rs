//! Reads the response headers that carry a time: `Date` (RFC 9110 §6.6.1), `Age` (RFC 9111 §5.1) and `Retry-After`
//! (RFC 9110 §10.2.3).

use std::time::{Duration, SystemTime};

#[cfg(any(feature = "remote", feature = "retry"))]
use http::header::RETRY_AFTER;
use http::header::{AGE, DATE};
use http::{HeaderMap, HeaderName, Response};

/// Response extension: a redirect was followed below the layer, so the response answers another request than the one
/// that the layer has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "reqwest-middleware"), allow(dead_code, reason = "only reqwest tells it"))]
pub(crate) enum Redirected {
    SameOrigin,
    CrossOrigin,
}

/// Returns whether the response is known to be that of a redirect.
pub(crate) fn redirected<R>(response: &Response<R>) -> Option<Redirected> {
    response.extensions().get().copied()
}

/// Returns the `Date` of a response if it is the current time of the server that sent it.
///
/// That is the case if there is exactly one valid date and the response did not come from an HTTP cache.
pub(crate) fn reliable_date(headers: &HeaderMap) -> Option<SystemTime> {
    if time_in_caches(headers)?.is_zero() { origin_date(headers) } else { None }
}

/// Returns the time at which the origin server created a response: its `Date`, if there is exactly one valid date.
///
/// The response may come from an HTTP cache, which does not change the date. Add [`time_in_caches`] to get the origin
/// server's current time.
pub(crate) fn origin_date(headers: &HeaderMap) -> Option<SystemTime> {
    httpdate::parse_http_date(single_value(headers, DATE)?).ok()
}

/// Returns how long a response was held in HTTP caches: its `Age` (RFC 9111 §5.1), or zero if it has none. Returns
/// `None` if the `Age` can't be read.
pub(crate) fn time_in_caches(headers: &HeaderMap) -> Option<Duration> {
    /// The value that RFC 9111 §1.2.2 prescribes for a number that is too large.
    const MAX: u64 = 1 << 31;
    if !headers.contains_key(AGE) {
        return Some(Duration::ZERO);
    }
    Some(Duration::from_secs(parse_seconds(single_value(headers, AGE)?)?.min(MAX)))
}

/// Returns the value of a header that occurs exactly once and is text.
fn single_value(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// Returns the delay that a response's `Retry-After` asks for: a number of seconds, or the time until a date. A date in
/// the past yields a delay of zero.
///
/// A date is measured from the server's own time, so that a wrong local clock does not matter (rule G2). It is measured
/// from `now` only if the response does not tell the server's time.
#[cfg(any(feature = "remote", feature = "retry"))]
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Some(seconds) = parse_seconds(value) {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    let server_time = origin_date(headers).and_then(|date| date.checked_add(time_in_caches(headers)?));
    Some(date.duration_since(server_time.unwrap_or(now)).unwrap_or_default())
}

/// Parses a number of seconds. A number that overflows still means a long time.
fn parse_seconds(value: &str) -> Option<u64> {
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| value.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn h1_date_is_returned_only_if_reliable() {
        const DATE: (&str, &str) = ("date", "Fri, 15 Jan 2027 08:00:30 GMT");
        let right = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_030));
        for (headers, expected) in [
            (&[DATE][..], right),
            (&[("date", "Friday, 15-Jan-27 08:00:30 GMT")], right),
            (&[("date", "Fri Jan 15 08:00:30 2027")], right),
            (&[DATE, ("age", "0")], right),
            (&[], None),
            (&[("date", "")], None),
            (&[("date", "1800000030")], None),
            (&[("date", "Fri, 99 Jan 2027 08:00:30 GMT")], None),
            (&[("date", "2027-01-15T08:00:30Z")], None),
            (&[("date", "Fri, 15 Jan 2027 08:00:30 GMT, Fri, 15 Jan 2027 08:00:30 GMT")], None),
            (&[("date", "\u{e4}")], None),
            (&[DATE, DATE], None),
            (&[DATE, ("age", "1")], None),
            (&[DATE, ("age", "soon")], None),
            (&[DATE, ("age", "0"), ("age", "0")], None),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            assert_eq!(reliable_date(&map), expected, "{headers:?}");
        }
    }

    #[test]
    fn d1_age_is_time_in_caches() {
        for (ages, seconds) in [
            (&[][..], Some(0)),
            (&["0"], Some(0)),
            (&["30"], Some(30)),
            (&["99999999999999999999999"], Some(1 << 31)),
            (&[""], None),
            (&["-1"], None),
            (&["1.5"], None),
            (&["soon"], None),
            (&["1", "1"], None),
        ] {
            let mut headers = HeaderMap::new();
            for age in ages {
                headers.append(AGE, age.parse().unwrap());
            }
            assert_eq!(time_in_caches(&headers), seconds.map(Duration::from_secs), "{ages:?}");
        }
    }

    #[cfg(any(feature = "remote", feature = "retry"))]
    fn retry_after_of(headers: &[(&'static str, &'static str)]) -> Option<Duration> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        retry_after(&HeaderMap::from_iter(headers), now)
    }

    #[test]
    #[cfg(any(feature = "remote", feature = "retry"))]
    fn retry_after_accepts_seconds_and_dates() {
        for (value, seconds) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("Fri, 15 Jan 2027 08:00:30 GMT", Some(30)),
            ("Friday, 15-Jan-27 08:00:30 GMT", Some(30)),
            ("Fri Jan 15 08:00:30 2027", Some(30)),
            ("Fri, 15 Jan 2027 07:59:59 GMT", Some(0)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(251_602_300_799)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("Fri, 99 Jan 2027 08:00:30 GMT", None),
        ] {
            assert_eq!(retry_after_of(&[("retry-after", value)]), seconds.map(Duration::from_secs), "{value}");
        }
        assert_eq!(retry_after_of(&[]), None);
    }

    #[test]
    #[cfg(any(feature = "remote", feature = "retry"))]
    fn g2_retry_after_date_is_measured_from_server_time() {
        // 30 seconds after `now`.
        const RETRY: (&str, &str) = ("retry-after", "Fri, 15 Jan 2027 08:00:30 GMT");
        for (headers, seconds) in [
            (&[RETRY][..], 30),
            // The local clock is slow, then fast.
            (&[RETRY, ("date", "Fri, 15 Jan 2027 08:00:20 GMT")], 10),
            (&[RETRY, ("date", "Fri, 15 Jan 2027 07:00:30 GMT")], 3600),
            (&[RETRY, ("date", "Fri, 15 Jan 2027 08:00:31 GMT")], 0),
            // The response was held in a cache.
            (&[RETRY, ("date", "Fri, 15 Jan 2027 08:00:00 GMT"), ("age", "20")], 10),
            (&[RETRY, ("date", "Fri, 15 Jan 2027 08:00:20 GMT"), ("age", "soon")], 30),
            (&[RETRY, ("date", "today")], 30),
            (&[("retry-after", "7"), ("date", "Fri, 15 Jan 2027 07:00:30 GMT")], 7),
        ] {
            assert_eq!(retry_after_of(headers), Some(Duration::from_secs(seconds)), "{headers:?}");
        }
    }
}
