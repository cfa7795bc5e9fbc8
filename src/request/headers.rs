//! Reads the response headers that carry a time: `Date` (RFC 9110 §6.6.1), `Age` (RFC 9111 §5.1) and `Retry-After`
//! (RFC 9110 §10.2.3).

#[cfg(any(feature = "remote", feature = "retry"))]
use std::time::Duration;
use std::time::SystemTime;

use http::header::{AGE, DATE};
use http::{HeaderMap, HeaderName, Response};

/// Response extension: the response came from another origin than the request was sent to, so its `Date` is not
/// trusted.
#[cfg(feature = "reqwest-middleware")]
#[derive(Clone, Copy)]
pub(crate) struct CrossOriginResponse;

/// Returns the time at which Aiuta created a response, if its `Date` is reliable.
pub(crate) fn response_date<R>(response: &Response<R>) -> Option<SystemTime> {
    #[cfg(feature = "reqwest-middleware")]
    if response.extensions().get::<CrossOriginResponse>().is_some() {
        return None;
    }
    reliable_date(response.headers())
}

/// Returns the `Date` of a response if it is the current time of the server that sent it.
///
/// That is the case if there is exactly one valid date and the response did not come from an HTTP cache. A cached
/// response has an `Age`.
pub(crate) fn reliable_date(headers: &HeaderMap) -> Option<SystemTime> {
    let is_cached = headers.contains_key(AGE) && single_value(headers, AGE)? != "0";
    if is_cached {
        return None;
    }
    httpdate::parse_http_date(single_value(headers, DATE)?).ok()
}

/// Returns the value of a header that occurs exactly once and is text.
fn single_value(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// Returns the delay that a response's `Retry-After` asks for.
///
/// A date in it is measured from the response's own `Date` if that is reliable, so that a wrong local clock (`now`)
/// does not matter.
#[cfg(feature = "retry")]
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?;
    parse_retry_after(value, reliable_date(headers).unwrap_or(now))
}

/// Parses a `Retry-After` value: a number of seconds, or a date. A date before `now` yields a delay of zero.
#[cfg(any(feature = "remote", feature = "retry"))]
pub(crate) fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number that overflows still means a long delay.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
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
    #[cfg(any(feature = "remote", feature = "retry"))]
    fn retry_after_accepts_seconds_and_dates() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        for (value, seconds) in [
            ("0", Some(0)),
            ("120", Some(120)),
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
            assert_eq!(parse_retry_after(value, now), seconds.map(Duration::from_secs), "{value}");
        }
    }
}
