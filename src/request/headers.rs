//! The headers that tell a time: `Date` (RFC 9110 §6.6.1), `Age` (RFC 9111 §5.1) and `Retry-After` (RFC 9110 §10.2.3).

#[cfg(any(feature = "remote", feature = "retry"))]
use std::time::Duration;
use std::time::SystemTime;

use http::header::{AGE, DATE};
use http::{HeaderMap, HeaderName, Response};

/// Marks a response that came from another origin than the request went to: its `Date` is a stranger's.
#[cfg(feature = "reqwest-middleware")]
#[derive(Clone, Copy)]
pub(crate) struct CrossOriginResponse;

/// When a response was made, if that can be relied on.
pub(crate) fn of<R>(response: &Response<R>) -> Option<SystemTime> {
    #[cfg(feature = "reqwest-middleware")]
    if response.extensions().get::<CrossOriginResponse>().is_some() {
        return None;
    }
    date(response.headers())
}

/// An answer's `Date`, if it says what time it is there: one readable date, and not the date of an answer that was kept in a cache, which
/// tells its [age](https://www.rfc-editor.org/rfc/rfc9111#section-5.1).
pub(crate) fn date(headers: &HeaderMap) -> Option<SystemTime> {
    let is_kept = headers.contains_key(AGE) && only(headers, AGE)? != "0";
    if is_kept {
        return None;
    }
    httpdate::parse_http_date(only(headers, DATE)?).ok()
}

/// The value of a header that is there once, and is text.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// How long an answer with these headers asks to wait. A date is measured from the answer's own `Date` if that can be relied on, so that it does not
/// matter what this machine's clock says (`now`).
#[cfg(feature = "retry")]
pub(crate) fn retry_after(headers: &http::HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?;
    delay(value, date(headers).unwrap_or(now))
}

/// What the header's value says: seconds, or a date, which is no delay if it has passed at `now`.
#[cfg(any(feature = "remote", feature = "retry"))]
pub(crate) fn delay(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Too many digits for a number are a long time all the same.
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
    fn h1_a_date_is_read_if_it_can_be_relied_on() {
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
            assert_eq!(date(&map), expected, "{headers:?}");
        }
    }

    #[test]
    #[cfg(any(feature = "remote", feature = "retry"))]
    fn retry_after_is_seconds_or_a_date() {
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
            assert_eq!(delay(value, now), seconds.map(Duration::from_secs), "{value}");
        }
    }
}
