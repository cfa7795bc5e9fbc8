//! Fuzzes the access table: no form of a try-on's path, as any reader may normalize it, gets `x-user-id` or a token for
//! empty params.
//!
//! Input, one per line: the method, the base path, the path with its query.
#![no_main]

use std::borrow::Cow;

use bytes::Bytes;
use http::{Method, Request, Uri};
use http_body_util::Full;
use libfuzzer_sys::fuzz_target;
use percent_encoding::percent_decode_str;
use tower_aiuta_auth::{AiutaAuthLayer, AuthErrorKind};
use tower_aiuta_auth_fuzz::{ParamsInToken, line, send};
use url::Url;

const HOST: &str = "https://api.aiuta.com";
const BODY: &str = r#"{"uploaded_image_id":"image-1"}"#;

fuzz_target!(|data: &[u8]| {
    let mut data = data;
    let (Some(method), Some(base), Some(path)) = (line(&mut data), line(&mut data), line(&mut data)) else { return };
    let layer = AiutaAuthLayer::builder().jwt("the-id", ParamsInToken).base_path(base).max_tokens(4).build();
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
    let forms = forms(uri.path());
    let starts = |path: &String| {
        let last = path.rsplit('/').next();
        method == Method::POST && matches!(last, Some("sku_images_operations" | "sku_try_on_operations"))
    };
    if forms.iter().chain(&normalized_again(&forms)).any(starts) && method != Method::CONNECT {
        for empty in ["", "{}"] {
            let error = send(empty).expect_err("a try-on without params must fail");
            assert_eq!(error.kind(), AuthErrorKind::MissingParams);
        }
        let claims = send(BODY).expect("sent").claims().expect("one token");
        assert_eq!(claims["params"], serde_json::json!({ "uploaded_image_id": "image-1" }), "{path}");
        return;
    }

    let bases = self::forms(base);
    // Not a try-on, so the body may contain anything.
    for body in ["", "{}", BODY] {
        let Ok(seen) = send(body) else {
            // The layer may know a normalization that is missing here and be stricter, but not for plain paths.
            assert!(!is_plain(path), "{path} is not a try-on");
            continue;
        };
        assert_eq!(seen.uri, uri, "the URI is unchanged");
        assert_eq!(seen.body, body);
        match seen.credentials()[..] {
            [] => assert_eq!(method, Method::CONNECT),
            [("x-user-id", value)] => {
                assert_eq!(value, "the-id");
                // For a reader that does not resolve dot segments, a path with dot segments is no known operation.
                let resolved = |path: &&String| !path.split('/').any(|segment| matches!(segment, "." | ".."));
                for form in forms.iter().filter(resolved) {
                    assert!(identified(&method, &bases, form), "{path} may be normalized to {form}");
                }
            }
            [("authorization", _)] => {
                assert!(!(is_plain(path) && is_plain(base) && identified(&method, &bases, path_of(path))), "{path}");
            }
            _ => panic!("{:?}", seen.credentials()),
        }
    }
});

/// Returns the forms that a path may be normalized to: by the `url` crate, which knows `%2e` and backslashes; by
/// readers that decode before they resolve dots; by readers that merge slashes first; and by readers that resolve
/// nothing.
fn forms(path: &str) -> Vec<String> {
    let decoded = decode(path);
    let slashes = decoded.replace('\\', "/");
    let mut forms = Vec::new();
    for path in [Cow::from(path), Cow::from(escape(&decoded)), Cow::from(escape(&slashes))] {
        // The `url` crate treats a backslash as a slash, RFC 3986 as a character of a segment.
        let (slashes, kept) = (path.replace('\\', "/"), path.replace('\\', "%5c"));
        for path in [merge(&path), merge(&slashes), merge(&kept), slashes, kept, path.into_owned()] {
            forms.push(decode(&path));
            if let Ok(url) = Url::parse(&format!("{HOST}{path}")) {
                forms.push(decode(url.path()));
            }
        }
    }
    forms.iter_mut().for_each(|path| *path = merge(path).trim_end_matches('/').to_owned());
    forms.sort();
    forms.dedup();
    forms
}

/// Normalizes each form once more, as a second reader behind the first one does.
fn normalized_again(forms: &[String]) -> Vec<String> {
    let mut again = Vec::new();
    for path in forms {
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

/// Encodes a decoded path again. Slashes and dots are kept.
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

/// Returns whether all readers normalize the path to the same form.
fn is_plain(target: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'_' | b'-');
    let path = path_of(target);
    path.bytes().all(plain) && !path.contains("//") && !path.ends_with('/')
}

/// The official SDKs' table of `x-user-id`, written independently of the crate's.
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
