//! Reads the headers that say how a body is written: `Content-Type` (RFC 9110 §8.3) and `Content-Encoding` (§8.4).

use http::{HeaderMap, HeaderValue};

/// How a body is written, by its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) media_type: MediaType,
    /// Whether the body has a content encoding, for example because it is compressed.
    pub(crate) is_encoded: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MediaType {
    /// There is no `Content-Type`.
    Missing,
    /// `application/json`, or a type with the suffix `+json`, in UTF-8.
    Json,
    /// Another type, another charset, more than one header, or a value that can't be parsed.
    Other,
}

impl Content {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut content = Self { media_type: MediaType::Missing, is_encoded: false };
        // Requests have few headers, so one pass costs less than two lookups.
        for (name, value) in headers {
            match name.as_str() {
                "content-type" => {
                    content.media_type = match content.media_type {
                        MediaType::Missing if is_utf8_json(value) => MediaType::Json,
                        _ => MediaType::Other,
                    };
                }
                "content-encoding" => content.is_encoded |= !is_identity(value),
                _ => {}
            }
        }
        content
    }
}

fn is_utf8_json(value: &HeaderValue) -> bool {
    // The usual value, compared first, so that nothing is parsed.
    if value.as_bytes() == b"application/json" {
        return true;
    }
    let Ok(media_type) = value.to_str() else { return false };
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

fn is_identity(value: &HeaderValue) -> bool {
    value.as_bytes().split(|byte| *byte == b',').all(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"identity"))
}

#[cfg(test)]
mod tests {
    use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

    use super::*;

    #[test]
    fn b3_content_type_is_json_in_utf8() {
        for (values, expected) in [
            (&[][..], MediaType::Missing),
            (&["application/json"], MediaType::Json),
            (&["Application/JSON ; Charset=\"UTF-8\""], MediaType::Json),
            (&["application/json;charset=utf-8"], MediaType::Json),
            (&["application/json; version=2"], MediaType::Json),
            (&["application/vnd.aiuta+json"], MediaType::Json),
            (&["application/json; charset=iso-8859-1"], MediaType::Other),
            (&["application/json; charset=utf-8; charset=utf-16"], MediaType::Other),
            (&["application/json; charset"], MediaType::Json),
            (&["application/jsonl"], MediaType::Other),
            (&["application/+json"], MediaType::Other),
            (&["/x+json"], MediaType::Other),
            (&["text/json"], MediaType::Other),
            (&["text/plain"], MediaType::Other),
            (&["multipart/form-data; boundary=json"], MediaType::Other),
            (&["json"], MediaType::Other),
            (&[""], MediaType::Other),
            (&["application/json", "application/json"], MediaType::Other),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CONTENT_TYPE, HeaderValue::from_static(value));
            }
            assert_eq!(Content::of(&headers).media_type, expected, "{values:?}");
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
            assert_eq!(Content::of(&headers).is_encoded, expected, "{values:?}");
        }
    }
}
