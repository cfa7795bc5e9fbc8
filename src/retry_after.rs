//! The `Retry-After` header (RFC 9110 §10.2.3).

use std::time::{Duration, SystemTime};

/// How long an answer with these headers asks to wait. A date is measured from the answer's own `Date` if that can be relied on, so that it does not
/// matter what this machine's clock says (`now`).
#[cfg(feature = "retry")]
pub(crate) fn retry_after(headers: &http::HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?;
    delay(value, crate::date::date(headers).unwrap_or(now))
}

/// What the header's value says: seconds, or a date, which is no delay if it has passed at `now`.
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
    use super::*;

    #[test]
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
