//! The table of access: no spelling of a try-on's path, by any reader's rules, gets the weak credential, or a token for no params.
//!
//! Input, a line each: the method, the base path, and the path with its query.
#![no_main]

use std::borrow::Cow;

use bytes::Bytes;
use http::{Method, Request, Uri};
use http_body_util::Full;
use libfuzzer_sys::fuzz_target;
use percent_encoding::percent_decode_str;
use tower_aiuta_auth::{AiutaAuthLayer, AuthErrorKind};
use tower_aiuta_auth_fuzz::{Telling, line, send};
use url::Url;

const HOST: &str = "https://api.aiuta.com";
const BODY: &str = r#"{"uploaded_image_id":"image-1"}"#;

fuzz_target!(|data: &[u8]| {
    let mut data = data;
    let (Some(method), Some(base), Some(path)) = (line(&mut data), line(&mut data), line(&mut data)) else { return };
    let layer = AiutaAuthLayer::builder().jwt("the-id", Telling).base_path(base).max_tokens(4).build();
    let (Ok(layer), Ok(method)) = (layer, method.parse::<Method>()) else { return };
    let Ok(uri) = format!("{HOST}{path}").parse::<Uri>() else { return };
    if !path.starts_with('/') || uri.authority().is_none_or(|authority| authority != "api.aiuta.com") {
        return;
    }
    let send = |body: &'static str| {
        let mut request = Request::new(Full::new(Bytes::from_static(body.as_bytes())));
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri.clone();
        send(&layer, request)
    };
    let readings = readings(uri.path());
    let starts = |path: &String| {
        let last = path.rsplit('/').next();
        method == Method::POST && matches!(last, Some("sku_images_operations" | "sku_try_on_operations"))
    };
    if readings.iter().chain(&read_again(&readings)).any(starts) && method != Method::CONNECT {
        for empty in ["", "{}"] {
            let error = send(empty).expect_err("a try-on without params");
            assert_eq!(error.kind(), AuthErrorKind::MissingParams);
        }
        let claims = send(BODY).expect("sent").claims().expect("one token");
        assert_eq!(claims["params"], serde_json::json!({ "uploaded_image_id": "image-1" }), "{path}");
        return;
    }

    let bases = self::readings(base);
    // Not a try-on: the body need not say anything.
    for body in ["", "{}", BODY] {
        let Ok(seen) = send(body) else {
            // The layer knows a reading that is not among these: it errs on the safe side, but not on plain paths.
            assert!(!is_plain(path), "{path} is no try-on");
            continue;
        };
        assert_eq!(seen.uri, uri, "sent as it came");
        assert_eq!(seen.body, body);
        match seen.credentials()[..] {
            [] => assert_eq!(method, Method::CONNECT),
            [("x-user-id", value)] => {
                assert_eq!(value, "the-id");
                // To those who leave dots as they are, what has some is no operation at all.
                let resolved = |path: &&String| !path.split('/').any(|segment| matches!(segment, "." | ".."));
                for reading in readings.iter().filter(resolved) {
                    assert!(identified(&method, &bases, reading), "{path} may be read as {reading}");
                }
            }
            [("authorization", _)] => {
                assert!(!(is_plain(path) && is_plain(base) && identified(&method, &bases, path_of(path))), "{path}");
            }
            _ => panic!("{:?}", seen.credentials()),
        }
    }
});

/// What a path may be taken for: by the `url` crate, which knows `%2e` and backslashes, by those who decode it before they resolve dots,
/// those who merge slashes first, and those who resolve nothing.
fn readings(path: &str) -> Vec<String> {
    let decoded = decode(path);
    let slashes = decoded.replace('\\', "/");
    let mut readings = Vec::new();
    for path in [Cow::from(path), Cow::from(escape(&decoded)), Cow::from(escape(&slashes))] {
        // A backslash is a slash to the `url` crate, and a part of a segment to those who go by RFC 3986.
        let (slashes, kept) = (path.replace('\\', "/"), path.replace('\\', "%5c"));
        for path in [merge(&path), merge(&slashes), merge(&kept), slashes, kept, path.into_owned()] {
            readings.push(decode(&path));
            if let Ok(url) = Url::parse(&format!("{HOST}{path}")) {
                readings.push(decode(url.path()));
            }
        }
    }
    readings.iter_mut().for_each(|path| *path = merge(path).trim_end_matches('/').to_owned());
    readings.sort();
    readings.dedup();
    readings
}

/// The same by one after the other: what one has resolved and decoded, another resolves once more.
fn read_again(readings: &[String]) -> Vec<String> {
    let mut again = Vec::new();
    for path in readings {
        let path = escape(path);
        for path in [path.replace('\\', "%5c"), path] {
            let url = Url::parse(&format!("{HOST}{path}"));
            again.extend(url.ok().map(|url| merge(&decode(url.path())).trim_end_matches('/').to_owned()));
        }
    }
    again
}

fn decode(path: &str) -> String {
    percent_decode_str(path).decode_utf8_lossy().into_owned()
}

/// A decoded path as one that decodes to it, its slashes and dots as they are.
fn escape(path: &str) -> String {
    let mut escaped = String::new();
    for byte in path.bytes() {
        match byte {
            b'/' | b'\\' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => escaped.push(byte.into()),
            _ => escaped += &format!("%{byte:02x}"),
        }
    }
    escaped
}

fn merge(path: &str) -> String {
    let mut merged = String::new();
    for character in path.chars() {
        if character != '/' || !merged.ends_with('/') {
            merged.push(character);
        }
    }
    merged
}

fn path_of(target: &str) -> &str {
    target.split('?').next().unwrap_or_default()
}

/// Nothing in it that two readers could read in two ways.
fn is_plain(target: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'_' | b'-');
    let path = path_of(target);
    path.bytes().all(plain) && !path.contains("//") && !path.ends_with('/')
}

/// The official SDKs' table of `x-user-id`, in other words than the crate's.
fn identified(method: &Method, bases: &[String], path: &str) -> bool {
    let below = |base: &String| path.strip_prefix(base.as_str()).filter(|path| path.starts_with('/'));
    let Some(path) = bases.iter().find_map(below) else { return false };
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    match (method.as_str(), &segments[..]) {
        ("POST", ["analytics", "v1", platform]) => {
            ["ios", "android", "web"].iter().any(|known| *platform == format!("{known}-sdk-analytics"))
        }
        ("POST" | "GET", ["digital-try-on", "v1", rest @ ..] | ["v1", rest @ ..]) => match (method.as_str(), rest) {
            ("POST", ["uploaded_images"] | ["size_and_fit", "recommendation"]) => true,
            ("POST", [platform]) => {
                ["ios", "android", "web"].iter().any(|known| *platform == format!("{known}-sdk-analytics"))
            }
            ("GET", ["predefined_try_on_models" | "try_on_models" | "subscription_details"]) => true,
            ("GET", ["uploaded_images" | "sku_images_operations" | "sku_try_on_operations", id]) => !id.is_empty(),
            _ => false,
        },
        _ => false,
    }
}
