//! Reads the headers that say how a body is written: `Content-Type` (RFC 9110 §8.3) and `Content-Encoding` (§8.4).

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

/// What the `Content-Type` says about a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContentType {
    /// There is no `Content-Type`.
    Missing,
    /// `application/json`, or a type with the suffix `+json`, in UTF-8.
    Json,
    /// Another type, another charset, more than one header, or a value that can't be parsed.
    Other,
}

impl ContentType {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(CONTENT_TYPE).iter();
        match (values.next(), values.next()) {
            (None, _) => Self::Missing,
            (Some(only), None) if only.to_str().is_ok_and(is_utf8_json) => Self::Json,
            _ => Self::Other,
        }
    }
}

fn is_utf8_json(media_type: &str) -> bool {
    let mut parts = media_type.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    let is_json = match essence.split_once('/') {
        Some(("application", "json")) => true,
        Some((kind, subtype)) => !kind.is_empty() && subtype.strip_suffix("+json").is_some_and(|name| !name.is_empty()),
        None => false,
    };
    // JSON is always UTF-8 (RFC 8259 §8.1). A body that claims another charset would be read differently by others.
    is_json && parts.filter_map(charset).all(|charset| charset.eq_ignore_ascii_case("utf-8"))
}

/// Returns the value of a parameter if it is the charset.
fn charset(parameter: &str) -> Option<&str> {
    let (name, value) = parameter.split_once('=')?;
    name.trim_end().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"'))
}

/// Returns whether a body is encoded, for example compressed.
pub(crate) fn is_encoded(headers: &HeaderMap) -> bool {
    let is_identity = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"identity");
    let mut values = headers.get_all(CONTENT_ENCODING).iter();
    values.any(|value| !value.as_bytes().split(|byte| *byte == b',').all(is_identity))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn b3_content_type_is_json_in_utf8() {
        for (values, expected) in [
            (&[][..], ContentType::Missing),
            (&["application/json"], ContentType::Json),
            (&["Application/JSON ; Charset=\"UTF-8\""], ContentType::Json),
            (&["application/json;charset=utf-8"], ContentType::Json),
            (&["application/json; version=2"], ContentType::Json),
            (&["application/vnd.aiuta+json"], ContentType::Json),
            (&["application/json; charset=iso-8859-1"], ContentType::Other),
            (&["application/json; charset=utf-8; charset=utf-16"], ContentType::Other),
            (&["application/json; charset"], ContentType::Json),
            (&["application/jsonl"], ContentType::Other),
            (&["application/+json"], ContentType::Other),
            (&["/x+json"], ContentType::Other),
            (&["text/json"], ContentType::Other),
            (&["text/plain"], ContentType::Other),
            (&["multipart/form-data; boundary=json"], ContentType::Other),
            (&["json"], ContentType::Other),
            (&[""], ContentType::Other),
            (&["application/json", "application/json"], ContentType::Other),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CONTENT_TYPE, HeaderValue::from_static(value));
            }
            assert_eq!(ContentType::of(&headers), expected, "{values:?}");
        }
    }

    #[test]
    fn b3_identity_is_no_encoding() {
        for (values, expected) in [
            (&[][..], false),
            (&["identity"], false),
            (&["Identity, identity"], false),
            (&["gzip"], true),
            (&["identity, br"], true),
            (&["identity", "gzip"], true),
            (&[""], true),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CONTENT_ENCODING, HeaderValue::from_static(value));
            }
            assert_eq!(is_encoded(&headers), expected, "{values:?}");
        }
    }
}
