//! Fuzzes the access table: no form of a try-on's path, as any reader may normalize it, gets `x-user-id` or a token for
//! empty params. A request without params gets a token only if that is allowed.
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
    let build = |unbound| {
        let layer = AiutaAuthLayer::builder().jwt("the-id", ParamsInToken).base_path(base).max_tokens(4);
        layer.allow_unbound_tokens(unbound).build()
    };
    let (Ok(strict), Ok(layer), Ok(method)) = (build(false), build(true), method.parse::<Method>()) else { return };
    let Ok(uri) = format!("{HOST}{path}").parse::<Uri>() else { return };
    if !path.starts_with('/') || uri.authority().is_none_or(|authority| authority != "api.aiuta.com") {
        return;
    }
    let send_by = |layer: &AiutaAuthLayer, body: &'static str| {
        let mut request = Request::new(Full::new(Bytes::from_static(body.as_bytes())));
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri.clone();
        send(layer, request)
    };
    let send = |body: &'static str| send_by(&layer, body);
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
            assert!(!is_plain(path) || resembles_try_on(&method, path_of(path)), "{path} is not a try-on");
            continue;
        };
        // Without permission, only a token for params is sent.
        let params = seen.claims().map(|claims| claims["params"].clone());
        match send_by(&strict, body) {
            Ok(strict) => {
                assert_eq!(strict.credentials(), seen.credentials());
                assert_ne!(params, Some(serde_json::json!({})), "{path}");
            }
            Err(error) => {
                assert_eq!(
                    (error.kind(), params),
                    (AuthErrorKind::MissingParams, Some(serde_json::json!({}))),
                    "{path}"
                )
            }
        }
        assert_eq!(seen.uri, uri, "the URI is unchanged");
        assert_eq!(seen.body, body);
        match seen.credentials()[..] {
            [] => assert!(matches!(method, Method::CONNECT | Method::OPTIONS)),
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
                assert_ne!(method, Method::OPTIONS);
                let params = &seen.claims().expect("a token")["params"];
                let is_unbound = *params == serde_json::json!({});
                assert!(!is_unbound || !forms.iter().any(|form| resembles_try_on(&method, form)), "{path}");
                check_deleted(&method, &forms, path, params);
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

/// Returns whether a server that is not strict may take a request for a try-on.
fn resembles_try_on(method: &Method, path: &str) -> bool {
    let last = path.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    let begins = |name: &&str| last.starts_with(*name);
    !method.is_safe()
        && *method != Method::DELETE
        && ["sku_images_operations", "sku_try_on_operations"].iter().any(|name| begins(name))
}

/// Checks the params of a token for a request that is not a try-on: the id of the image that it deletes.
fn check_deleted(method: &Method, forms: &[String], path: &str, params: &serde_json::Value) {
    let empty = serde_json::json!({});
    if *method != Method::DELETE {
        // The layer may take a path for that of a try-on and read the body, but not a plain path.
        return assert!(*params == empty || !is_plain(path), "{path}: {params}");
    }
    let id_in = |form: &str| {
        let (rest, id) = form.rsplit_once('/')?;
        let name = match rest.rsplit('/').next()? {
            "uploaded_images" => "uploaded_image_id",
            "generated_images" => "generated_image_id",
            _ => return None,
        };
        (rest.contains('/') && !id.is_empty()).then(|| serde_json::json!({ name: id }))
    };
    if *params != empty {
        // In any form without dot segments.
        let resolved = |form: &&String| !form.split('/').any(|segment| matches!(segment, "." | ".."));
        assert!(forms.iter().filter(resolved).all(|form| id_in(form).as_ref() == Some(params)), "{path}: {params}");
    } else if is_plain(path) {
        assert_eq!(id_in(path_of(path)), None, "{path}");
    }
}

/// The official SDKs' table of `x-user-id`, written independently of the crate's.
fn identified(method: &Method, bases: &[String], path: &str) -> bool {
    let below = |base: &String| path.strip_prefix(base.as_str()).filter(|path| path.starts_with('/'));
    let Some(path) = bases.iter().find_map(below) else { return false };
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let method = if *method == Method::HEAD { &Method::GET } else { method };
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
