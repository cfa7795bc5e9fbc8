//! Rules B1–B5: where params come from, which values are valid, and that they are the cache key.

mod unbound;

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::Frame;
use http_body_util::combinators::{BoxBody, UnsyncBoxBody};
use http_body_util::{BodyExt, Channel, Either, Empty, Full};
use serde_json::{Value, json};
use tower::ServiceExt;
use tower_aiuta_auth::testing::ManualClock;
use tower_aiuta_auth::{AuthErrorKind, AuthParams, BoxError, NoReplay, ParamValue, RequestBody};

use crate::support::*;

const BODY: &str = r#"{"uploaded_image_id":"image-1","sku_ids":["dress-1","belt-7"],"hijab_protection":true}"#;

/// Sends a request, and returns the params of its token or the error.
async fn token_params(request: Request<Full<Bytes>>) -> Result<Value, AuthErrorKind> {
    let source = Source::new();
    let layer = jwt(source.clone()).build().unwrap();
    let inner = Recorder::new();
    match send(&service(&layer, &inner), request).await {
        Ok(_) => Ok(claims(inner.only().token())["params"].clone()),
        Err(error) => {
            assert_eq!((source.calls(), inner.count()), (0, 0), "no token is fetched and no request is sent");
            Err(error_kind(Err::<(), _>(error)))
        }
    }
}

/// Sends a try-on with this body, and returns the params of its token or the error.
async fn params_of_body(body: impl Into<Bytes>) -> Result<Value, AuthErrorKind> {
    token_params(post(SKU_IMAGES, body)).await
}

#[tokio::test]
async fn b1_try_on_body_provides_the_signed_fields() {
    let expected = json!({"uploaded_image_id": "image-1", "sku_ids": ["dress-1", "belt-7"]});
    assert_eq!(token_params(post(SKU_IMAGES, BODY)).await, Ok(expected.clone()));
    assert_eq!(token_params(post(TRY_ON, BODY)).await, Ok(expected));
}

#[tokio::test]
async fn b1_values_keep_json_types_and_nulls_are_omitted() {
    let body = r#" {"sku_id": null, "product_id": -42, "sku_catalog_name": false, "sku_ids": [], "uploaded_image_id": "\u0061\"\n"} "#;
    let expected = json!({"product_id": -42, "sku_catalog_name": false, "sku_ids": [], "uploaded_image_id": "a\"\n"});
    assert_eq!(params_of_body(body).await, Ok(expected));
    assert_eq!(params_of_body(format!(r#"{{"product_id":{}}}"#, i64::MIN)).await, Ok(json!({"product_id": i64::MIN})));
}

#[tokio::test]
async fn b1_nested_fields_are_not_read() {
    let nested = r#"{"options":{"sku_id":"inner"},"uploaded_image_id":"image-1","list":[{"sku_id":"x"}]}"#;
    assert_eq!(params_of_body(nested).await, Ok(json!({"uploaded_image_id": "image-1"})));
}

#[tokio::test]
async fn b1_params_in_extensions_override_the_body() {
    let mut request = post(SKU_IMAGES, "no JSON at all");
    request.extensions_mut().insert(params("image-2"));
    assert_eq!(token_params(request).await, Ok(json!({"sku_id": "dress-1", "uploaded_image_id": "image-2"})));
}

#[tokio::test]
async fn b1_signed_fields_are_configurable() {
    let layer = jwt(Source::new()).signed_fields(["hijab_protection", "x"]).build().unwrap();
    let inner = Recorder::new();
    send(&service(&layer, &inner), post(SKU_IMAGES, BODY)).await.unwrap();
    assert_eq!(claims(inner.only().token())["params"], json!({"hijab_protection": true}));
}

#[tokio::test]
async fn b2_inner_service_receives_identical_bytes() {
    let spaced = " {\n \"uploaded_image_id\" : \"image-1\", \"sku_id\":\"\\u0061\", \"sku_id2\": 1.50 }\n";
    let layer = jwt(Source::new()).build().unwrap();
    for body in [BODY, spaced] {
        let inner = Recorder::new();
        send(&service(&layer, &inner), post(SKU_IMAGES, body)).await.unwrap();
        assert_eq!(inner.only().body, body);
    }
}

#[tokio::test]
async fn b2_body_in_many_frames_arrives_complete() {
    let frames = BODY.as_bytes().chunks(7).map(Bytes::copy_from_slice).collect::<Vec<_>>();
    let (mut sender, body) = Channel::<Bytes, BoxError>::new(1);
    let layer = jwt(Source::new()).build().unwrap();
    let inner = Recorder::new();
    let service = tower::Layer::layer(&layer, inner.clone());
    let answer = tokio::spawn(service.oneshot(Request::post(SKU_IMAGES).body(BoxBody::new(body)).unwrap()));
    for frame in frames {
        settle().await;
        sender.send_data(frame).await.unwrap();
    }
    drop(sender);
    assert_eq!(answer.await.unwrap().unwrap().status(), 200);
    assert_eq!(inner.only().body, BODY);
}

#[tokio::test]
async fn b2_bodies_that_are_not_read_are_streamed() {
    for (method, uri, extension) in [
        ("POST", "https://api.aiuta.com/digital-try-on/v1/uploaded_images", false),
        ("POST", "https://api.aiuta.com/studio/v1/uploaded_images", true),
        // The params are in the extensions and the size is unknown, so the body is not read.
        ("POST", SKU_IMAGES, true),
    ] {
        let (mut sender, body) = Channel::<Bytes, BoxError>::new(1);
        let (arrived, first_frame) = tokio::sync::oneshot::channel();
        let arrived = Arc::new(Mutex::new(Some(arrived)));
        let inner = tower::service_fn(move |request: Request<BoxBody<Bytes, BoxError>>| {
            let arrived = arrived.lock().unwrap().take().unwrap();
            async move {
                let mut body = request.into_body();
                arrived.send(body.frame().await.unwrap().unwrap().into_data().unwrap()).unwrap();
                body.collect().await?;
                Ok::<_, BoxError>(http::Response::new(()))
            }
        });
        let layer = jwt(Source::new()).build().unwrap();
        let mut request = Request::builder().method(method).uri(uri).body(BoxBody::new(body)).unwrap();
        if extension {
            request.extensions_mut().insert(params("image-1"));
        }
        let answer = tokio::spawn(tower::Layer::layer(&layer, inner).oneshot(request));
        sender.send_data(Bytes::from_static(b"first")).await.unwrap();
        // The first frame arrives before the body has ended.
        assert_eq!(first_frame.await.unwrap(), "first");
        drop(sender);
        answer.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn b3_try_on_without_params_is_not_sent() {
    for body in ["{}", r#"{"hijab_protection":true}"#, r#"{"sku_id":null}"#, ""] {
        assert_eq!(params_of_body(body).await, Err(AuthErrorKind::MissingParams), "{body}");
    }
    for params in [AuthParams::new(), AuthParams::new().with_partition("customer-1")] {
        let mut request = post(TRY_ON, "{}");
        request.extensions_mut().insert(params);
        assert_eq!(token_params(request).await, Err(AuthErrorKind::MissingParams));
    }
}

#[tokio::test]
async fn b3_body_that_is_not_a_json_object_is_not_sent() {
    let not_utf8 = b"{\"uploaded_image_id\":\"image-1\",\"other\":\"\xff\"}".as_slice();
    let deep = format!(r#"{{"sku_id":"a","x":{}"#, "[".repeat(60_000));
    let bodies: Vec<Bytes> = vec![
        "not json".into(),
        r#"{"sku_id":"a""#.into(),
        r#"{"sku_id":"a"} {}"#.into(),
        r#"[{"sku_id":"a"}]"#.into(),
        "\u{feff}{\"sku_id\":\"a\"}".into(),
        not_utf8.into(),
        deep.into(),
    ];
    for body in bodies {
        assert_eq!(params_of_body(body.clone()).await, Err(AuthErrorKind::InvalidBody), "{body:.40?}");
    }
}

#[tokio::test]
async fn b3_duplicate_signed_field_is_not_sent() {
    for body in [
        r#"{"sku_id":"a","sku_id":"a"}"#,
        r#"{"sku_id":"a","\u0073ku_id":"b"}"#,
        r#"{"sku_id":null,"sku_id":"b"}"#,
        r#"{"sku_id":"a","sku\u005Fid":null}"#,
    ] {
        assert_eq!(params_of_body(body).await, Err(AuthErrorKind::InvalidBody), "{body}");
    }
    // Other fields may occur twice.
    assert!(params_of_body(r#"{"sku_id":"a","x":1,"x":2}"#).await.is_ok());
}

#[tokio::test]
async fn b3_signed_field_of_unsupported_type_is_not_sent() {
    for value in [
        "1.5",
        "1.0",
        "1e3",
        "-0",
        "9223372036854775808",
        "{}",
        r#"{"a":1}"#,
        "[1]",
        r#"["a",null]"#,
        "[[]]",
        r#"["a",["b"]]"#,
    ] {
        let body = format!(r#"{{"uploaded_image_id":"image-1","sku_id":{value}}}"#);
        assert_eq!(params_of_body(body).await, Err(AuthErrorKind::InvalidBody), "{value}");
    }
}

#[tokio::test]
async fn b3_body_over_the_limit_is_not_sent() {
    let at = |limit: usize| async move {
        let layer = jwt(Source::new()).body_limit(limit).build().unwrap();
        let inner = Recorder::new();
        let result = send(&service(&layer, &inner), post(SKU_IMAGES, BODY)).await;
        (result, inner.count())
    };
    assert_eq!(at(BODY.len()).await.0.unwrap(), 200);
    let (result, sent) = at(BODY.len() - 1).await;
    assert_eq!((error_kind(result), sent), (AuthErrorKind::BodyTooLarge, 0));
}

#[tokio::test]
async fn b3_endless_body_fails_at_the_limit() {
    let endless = futures::stream::repeat_with(|| Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[b' '; 1000]))));
    let body = BoxBody::new(http_body_util::StreamBody::new(endless));
    let layer = jwt(Source::new()).build().unwrap();
    let service = tower::Layer::layer(&layer, Recorder::new());
    let result = service.oneshot(Request::post(SKU_IMAGES).body(body).unwrap()).await;
    assert_eq!(error_kind(result), AuthErrorKind::BodyTooLarge);
}

#[tokio::test]
async fn b3_trailers_are_rejected_if_the_body_is_buffered() {
    let with_trailers = |uri: &str, extensions: bool| {
        let trailers =
            std::future::ready(Some(Ok(HeaderMap::from_iter([(http::header::ETAG, "\"1\"".parse().unwrap())]))));
        let body = UnsyncBoxBody::new(Full::new(Bytes::from(BODY)).with_trailers(trailers));
        let mut request = Request::post(uri).body(body).unwrap();
        if extensions {
            request.extensions_mut().insert(params("image-1"));
            request.extensions_mut().insert(NoReplay);
        }
        request
    };
    let layer = jwt(Source::new()).build().unwrap();
    let inner = Recorder::new();
    let service = || tower::Layer::layer(&layer, inner.clone());
    assert_eq!(error_kind(service().oneshot(with_trailers(SKU_IMAGES, false)).await), AuthErrorKind::InvalidBody);
    assert_eq!(inner.count(), 0);
    // The remedy in the error text.
    assert!(service().oneshot(with_trailers(SKU_IMAGES, true)).await.is_ok());
}

#[tokio::test]
async fn b3_body_error_is_the_cause_of_the_error() {
    let broken = futures::stream::iter([Ok(Frame::data(Bytes::from("{"))), Err("disk error")]);
    let body = BoxBody::new(http_body_util::StreamBody::new(broken).map_err(BoxError::from));
    let layer = jwt(Source::new()).build().unwrap();
    let service = tower::Layer::layer(&layer, Recorder::new());
    let error = auth_error(service.oneshot(Request::post(SKU_IMAGES).body(body).unwrap()).await);
    assert_eq!(error.kind(), AuthErrorKind::InvalidBody);
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "disk error");
}

/// Sends a request for each of these params, and returns the numbers of their tokens. Equal numbers mean a shared
/// token.
async fn numbers(requests: impl IntoIterator<Item = AuthParams>) -> Vec<u64> {
    let clock = ManualClock::default();
    let layer = jwt_with_clock(&clock, Source::new());
    let inner = Recorder::new();
    for params in requests {
        send(&service(&layer, &inner), with_params(params)).await.unwrap();
    }
    inner.tokens().iter().map(|token| token_number(token)).collect()
}

#[tokio::test]
async fn b4_key_is_the_full_set_of_params_in_any_order() {
    let p = AuthParams::new;
    let sets = [
        p().with("a", "x").with("b", "y"),
        p().with("b", "y").with("a", "x"),
        p().with("a", "x").with("b", "first").with("b", "y"),
        p().with("a", "x"),
        p().with("a", "x").with("b", "y").with("c", "z"),
        p().with("a", "xb").with("", "y"),
    ];
    assert_eq!(sets[0], sets[1]);
    // They differ by comparison, not only by hash.
    assert!(sets[3..].iter().all(|other| *other != sets[0]));
    assert_eq!(numbers(sets).await, [1, 1, 1, 2, 3, 4]);
}

#[tokio::test]
async fn b4_values_of_different_types_have_different_keys() {
    let values: [ParamValue; 8] = [
        "1".into(),
        1.into(),
        true.into(),
        "true".into(),
        ["1"].into(),
        ["1", "2"].into(),
        "1,2".into(),
        ["1,2"].into(),
    ];
    let sets = values.map(|value| AuthParams::new().with("a", value));
    assert_eq!(numbers(sets).await, [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[tokio::test]
async fn b4_params_from_extension_and_body_have_the_same_key() {
    let clock = ManualClock::default();
    let source = Source::new();
    let layer = jwt_with_clock(&clock, source.clone());
    let inner = Recorder::new();
    send(&service(&layer, &inner), try_on("image-1")).await.unwrap();
    let body = r#"{"sku_id":"dress-1","options":1.5,"uploaded_image_id":"image-1"}"#;
    send(&service(&layer, &inner), post(TRY_ON, body)).await.unwrap();
    assert_eq!(source.calls(), 1);
}

#[tokio::test]
async fn b4_params_over_4_kib_are_not_sent() {
    let of_size = |size: usize| AuthParams::new().with("sku_id", "x".repeat(size - "sku_id".len()));
    let send = |params| token_params(with_params(params));
    assert!(send(of_size(4096)).await.is_ok());
    assert_eq!(send(of_size(4097)).await, Err(AuthErrorKind::InvalidBody));
    assert_eq!(send(of_size(4000).with_partition("p".repeat(97))).await, Err(AuthErrorKind::InvalidBody));
    // A replaced value or partition does not count.
    assert!(send(of_size(4096).with("sku_id", "y").with("uploaded_image_id", "x".repeat(4000))).await.is_ok());
    assert!(send(of_size(2000).with_partition("p".repeat(3000)).with_partition("q".repeat(2000))).await.is_ok());
    let empty_strings = AuthParams::new().with("sku_ids", vec![String::new(); 2000]);
    assert_eq!(send(empty_strings).await, Err(AuthErrorKind::InvalidBody));

    let tokens = jwt(Source::new()).build().unwrap().token_cache().unwrap().clone();
    assert_eq!(tokens.get(&of_size(4097)).await.unwrap_err().kind(), AuthErrorKind::InvalidBody);
}

#[tokio::test]
async fn b4_token_over_8_kib_is_not_sent() {
    let claims = |filler: usize| token(&json!({"exp": 4_000_000_000_u64, "x": "x".repeat(filler)}));
    let of_size = move |size: usize| {
        tower_aiuta_auth::source_fn(move |_| async move {
            let mut token = claims(0);
            token.push_str(&"A".repeat(size - token.len()));
            Ok::<_, BoxError>(token)
        })
    };
    for (size, expected) in [(8192, None), (8193, Some(AuthErrorKind::InvalidToken))] {
        let layer = jwt(of_size(size)).build().unwrap();
        let inner = Recorder::new();
        let result = send(&service(&layer, &inner), try_on("image-1")).await;
        match expected {
            None => assert_eq!(inner.only().token().len(), size),
            Some(expected) => assert_eq!((error_kind(result), inner.count()), (expected, 0)),
        }
    }
}

#[tokio::test]
async fn b5_partitions_never_share_a_token() {
    let clock = ManualClock::default();
    let source = Source::new();
    let layer = jwt_with_clock(&clock, source.clone());
    let inner = Recorder::new();
    assert_ne!(params("image-1").with_partition("alice"), params("image-1").with_partition("bob"));
    let partitions = [None, Some("alice"), Some("bob"), Some(""), Some("alice")];
    for partition in partitions {
        let params = partition.into_iter().fold(params("image-1"), AuthParams::with_partition);
        send(&service(&layer, &inner), with_params(params)).await.unwrap();
    }
    let numbers: Vec<_> = inner.tokens().iter().map(|token| token_number(token)).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 2]);
    let partitions_seen: Vec<_> =
        source.requests().iter().map(|request| request.params().partition().map(str::to_owned)).collect();
    assert_eq!(partitions_seen, [None, Some("alice".to_owned()), Some("bob".to_owned()), Some(String::new())]);
}

#[test]
fn b4_params_are_ordered_by_name() {
    let params = AuthParams::new().with("b", 2).with("a", "x").with("c", ["y", "z"]).with_partition("p");
    let names: Vec<_> = params.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(params.get("a").unwrap(), "x");
    assert!(params.get("d").is_none());
    assert_eq!(serde_json::to_value(&params).unwrap(), json!({"a": "x", "b": 2, "c": ["y", "z"]}));
    let strings: Vec<_> = params.to_strings().into_iter().collect();
    let expected = [("a", "x"), ("b", "2"), ("c", "y,z")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(strings, expected);
}

#[tokio::test]
async fn b2_every_body_type_is_rebuilt_from_bytes() {
    async fn bytes<B: RequestBody>() -> Bytes
    where
        B::Error: std::fmt::Debug,
    {
        let body = B::from_bytes(Bytes::from("body"));
        assert_eq!(body.size_hint().exact(), Some(4));
        body.collect().await.unwrap().to_bytes()
    }
    assert_eq!(bytes::<Full<Bytes>>().await, "body");
    assert_eq!(bytes::<BoxBody<Bytes, std::io::Error>>().await, "body");
    assert_eq!(bytes::<UnsyncBoxBody<Bytes, BoxError>>().await, "body");
    assert_eq!(bytes::<Either<Full<Bytes>, Empty<Bytes>>>().await, "body");
    assert_eq!(bytes::<axum_core::body::Body>().await, "body");
}
