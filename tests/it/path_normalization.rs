//! Rule A3: paths are compared after normalization and sent unchanged. A try-on is recognized in every spelling.

use http::Request;
use http_body_util::Full;
use tower_aiuta_auth::{AiutaAuthLayer, AuthErrorKind, AuthParams};

use crate::support::*;

fn layer() -> AiutaAuthLayer {
    jwt(Source::new()).build().unwrap()
}

const BODY: &str = r#"{"uploaded_image_id":"image-1"}"#;

/// Spellings of the path of a try-on. The first three are normalized.
const SPELLINGS: [&str; 37] = [
    "/v1/sku_try_on_operations",
    "/digital-try-on/v1/sku_images_operations",
    "/gateway/of/mine/v7/sku_try_on_operations",
    "/v1/sku_try_on_operations/",
    "/v1/sku_try_on_operations///",
    "//v1///sku_try_on_operations",
    "/v1/./sku_try_on_operations",
    "/v1/sku_try_on_operations/.",
    "/v1/x/../sku_try_on_operations",
    "/v1/sku_try_on_operations/x/..",
    "/../../v1/sku_try_on_operations",
    "/v1/uploaded_images/../sku_try_on_operations",
    "/v1/%73ku_try_on_operations",
    "/v1/sku%5Ftry%5fon_operations",
    "/%76%31/%73%6b%75%5f%74%72%79%5f%6f%6e%5f%6f%70%65%72%61%74%69%6f%6e%73",
    "/v1%2Fsku_try_on_operations",
    "/v1/sku_try_on_operations%2f",
    "/v1/%2e/sku_try_on_operations",
    "/v1/x/%2e%2E/sku_try_on_operations",
    "/v1/x/.%2e/sku_try_on_operations",
    "/v1/uploaded_images%2F..%2Fsku_try_on_operations",
    "/v1/uploaded_images%2f%2e%2e%2fsku_try_on_operations",
    // Clients that follow the URL standard, such as reqwest, read a backslash as a slash.
    "/v1\\sku_try_on_operations",
    "/v1/x\\..\\sku_try_on_operations",
    "/v1/sku_try_on_operations\\",
    "/v1/uploaded_images%5C..%5Csku_try_on_operations",
    // Servers differ in whether `..` removes an empty segment, and whether `%2F` is decoded before or after dots are
    // resolved. The path is a try-on if it is one in any of these normalizations.
    "/v1/sku_try_on_operations//..",
    "/v1/sku_try_on_operations/x%2Fy/..",
    "/v1/sku_try_on_operations/%2F%2e%2e",
    "/v1/sku_try_on_operations/x%5Cy/..",
    "/v1/sku_try_on_operations//../uploaded_images%2Fx/..",
    // Two servers in a row: the first resolves dots without decoding `%2F` or `%2e`, the second decodes them.
    "/v1/sku_try_on_operations%2f/x%2Fy/..",
    "/v1/sku_try_on_operations%2Fx%2F..%2F/y/..",
    "/v1/sku_try_on_operations/x/%2e%2e/../..%2f",
    // A backslash is a slash in the URL standard, and part of a segment in RFC 3986.
    "/v1/sku_try_on_operations/x\\y/..",
    "/v1/sku_try_on_operations/x%5Cy%2f%2e.",
    "/v1/uploaded_images\\..\\..\\x/../sku_try_on_operations",
];

#[tokio::test]
async fn a3_try_on_is_recognized_in_every_spelling_and_sent_unchanged() {
    for path in SPELLINGS {
        for query in ["", "?uploaded_image_id=image-1&sku_id=x"] {
            let uri = format!("https://api.aiuta.com{path}{query}");
            let (layer, inner) = (layer(), Recorder::new());
            let service = service(&layer, &inner);
            assert_eq!(error_kind(send(&service, post(&uri, "")).await), AuthErrorKind::MissingParams, "{uri}");
            assert_eq!(error_kind(send(&service, post(&uri, "{}")).await), AuthErrorKind::MissingParams, "{uri}");
            let mut empty = post(&uri, "not JSON");
            empty.extensions_mut().insert(AuthParams::new().with_partition("customer-1"));
            assert_eq!(error_kind(send(&service, empty).await), AuthErrorKind::InvalidBody, "{uri}");
            assert_eq!(inner.count(), 0, "{uri}");

            send(&service, post(&uri, BODY)).await.unwrap();
            let seen = inner.only();
            assert_eq!(seen.uri.to_string(), uri, "the URI is sent unchanged");
            assert_eq!(claims(seen.token())["params"], serde_json::json!({"uploaded_image_id": "image-1"}), "{uri}");
        }
    }
}

#[tokio::test]
async fn a3_other_operations_are_recognized_in_every_spelling_and_sent_unchanged() {
    for (method, path, credential) in [
        ("GET", "/v1//uploaded_images/%31/", "x-user-id"),
        ("GET", "/%761/./uploaded_images/x/../1", "x-user-id"),
        ("GET", "/v1/uploaded_images/..%2F1", "authorization"),
        ("GET", "/v1/uploaded_images/a%2Fb", "authorization"),
        ("GET", "/v1/uploaded_images/%2e%2e/sku_items", "authorization"),
        ("GET", "/v1/uploaded_images/", "authorization"),
        ("GET", "//v1/x//../..//try_on_models", "authorization"),
        ("GET", "//v1/x/..//try_on_models", "x-user-id"),
        ("GET", "/v1/uploaded_images/%E2%9C%93%zz%", "x-user-id"),
        ("GET", "/v1/uploaded_images/a\\b", "authorization"),
        ("GET", "/v1/uploaded_images\\1", "authorization"),
        ("POST", "/v1/size_and_fit\\recommendation", "authorization"),
        ("POST", "/v1/sku_try_on_operations/../uploaded_images", "x-user-id"),
        ("POST", "/v1/try_on_operations", "authorization"),
        ("POST", "/v1/%ffsku_try_on_operations", "authorization"),
        ("POST", "/v1/sku_try_on_operations/..", "authorization"),
    ] {
        let uri = format!("https://api.aiuta.com{path}");
        let inner = Recorder::new();
        let request = Request::builder().method(method).uri(&uri).body(Full::from(BODY)).unwrap();
        let layer = jwt(Source::new()).allow_unbound_tokens(true).build().unwrap();
        send(&service(&layer, &inner), request).await.unwrap();
        let seen = inner.only();
        assert_eq!(seen.credentials(), [credential], "{method} {path}");
        assert_eq!(seen.uri.to_string(), uri, "the URI is sent unchanged");
        if credential == "authorization" {
            assert_eq!(claims(seen.token())["params"], serde_json::json!({}), "{method} {path}: the body is not read");
        }
    }
}

#[tokio::test]
async fn a3_long_path_that_is_not_normal_is_no_known_operation() {
    let of_length = |length: usize, tail: &str| {
        let mut path = "/v1/.".to_owned();
        path.push_str(&"/x/..".repeat((length - path.len() - tail.len()) / 5));
        path.push_str(&"/".repeat(length - path.len() - tail.len()));
        path + tail
    };
    let unbound = || jwt(Source::new()).allow_unbound_tokens(true).build().unwrap();
    for (method, length, tail, credential) in [
        ("GET", 2048, "/uploaded_images/1", "x-user-id"),
        ("GET", 2049, "/uploaded_images/1", "authorization"),
        ("GET", 65_000, "/uploaded_images/1", "authorization"),
        ("POST", 65_000, "/uploaded_images", "authorization"),
    ] {
        let path = of_length(length, tail);
        assert_eq!(path.len(), length);
        let inner = Recorder::new();
        let uri = format!("https://api.aiuta.com{path}");
        let request = Request::builder().method(method).uri(&uri).body(Full::default()).unwrap();
        send(&service(&unbound(), &inner), request).await.unwrap();
        assert_eq!(
            (&inner.only().credentials()[..], inner.only().uri.to_string()),
            (&[credential][..], uri),
            "{length}"
        );
    }
    // A try-on is recognized anywhere in the path, so its token is always made for the params.
    for path in [of_length(65_000, "/sku_try_on_operations"), of_length(65_000, "/sku%5Ftry%5Fon%5Foperations/x/..")] {
        let uri = format!("https://api.aiuta.com{path}");
        let (layer, inner) = (unbound(), Recorder::new());
        assert_eq!(error_kind(send(&service(&layer, &inner), post(&uri, "{}")).await), AuthErrorKind::MissingParams);
        send(&service(&layer, &inner), post(&uri, BODY)).await.unwrap();
        assert_eq!(claims(inner.only().token())["params"], serde_json::json!({"uploaded_image_id": "image-1"}));
    }
    // A long path in normal form needs no limit.
    let uri = format!("https://api.aiuta.com/v1/uploaded_images/{}", "x".repeat(60_000));
    let inner = Recorder::new();
    send(&service(&layer(), &inner), get(&uri)).await.unwrap();
    assert_eq!(inner.only().credentials(), ["x-user-id"]);
}
