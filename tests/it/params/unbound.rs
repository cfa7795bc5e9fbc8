//! Rules B1 and B3: params from the path, params with a partition only, and requests without params. A token that is
//! valid for any request is sent only if it is allowed.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use tower_aiuta_auth::{Access, AiutaAuthLayer, AuthErrorKind, AuthParams};

use super::{BODY, token_params};
use crate::support::*;

const MISSING: Result<Value, AuthErrorKind> = Err(AuthErrorKind::MissingParams);

#[tokio::test]
async fn b1_partition_is_combined_with_the_params_of_the_request() {
    let delete = Request::delete("https://api.aiuta.com/v1/uploaded_images/image-1").body(Full::default()).unwrap();
    let unbound = get("https://api.aiuta.com/v1/sku_items");
    for (mut request, expected) in [
        (post(SKU_IMAGES, BODY), json!({"uploaded_image_id": "image-1", "sku_ids": ["dress-1", "belt-7"]})),
        (delete, json!({"uploaded_image_id": "image-1"})),
        (unbound, json!({})),
    ] {
        let source = Source::new();
        let layer = jwt(source.clone()).allow_unbound_tokens(true).build().unwrap();
        let inner = Recorder::new();
        request.extensions_mut().insert(AuthParams::new().with_partition("customer-1"));
        send(&service(&layer, &inner), request).await.unwrap();
        assert_eq!(claims(inner.only().token())["params"], expected);
        assert_eq!(source.requests()[0].params().partition(), Some("customer-1"));
    }
}

#[tokio::test]
async fn b1_path_of_a_delete_provides_the_id() {
    let delete = |path: &str| Request::delete(format!("https://api.aiuta.com{path}")).body(Full::from(BODY)).unwrap();
    for (path, expected) in [
        ("/v1/uploaded_images/image-7", Ok(json!({"uploaded_image_id": "image-7"}))),
        ("/digital-try-on/v1/uploaded_images/image-7?x=1", Ok(json!({"uploaded_image_id": "image-7"}))),
        ("/gateway/studio/v1/generated_images/7", Ok(json!({"generated_image_id": "7"}))),
        ("/v1/uploaded_images/a%20b%C3%BC", Ok(json!({"uploaded_image_id": "a b\u{fc}"}))),
        ("/v1/uploaded_images/%2541", Ok(json!({"uploaded_image_id": "%41"}))),
        ("/v1//uploaded_images/./image-7/", Ok(json!({"uploaded_image_id": "image-7"}))),
        ("/v1/uploaded_images/x/../image-7", Ok(json!({"uploaded_image_id": "image-7"}))),
        // Empty, or read differently by different readers.
        ("/v1/uploaded_images", MISSING),
        ("/v1/uploaded_images/", MISSING),
        ("/v1/uploaded_images/..", MISSING),
        ("/v1/uploaded_images/a%2Fb", MISSING),
        ("/v1/uploaded_images/a\\b", MISSING),
        ("/v1/uploaded_images/a/b", MISSING),
        ("/v1/uploaded_images/x%2Fy/../image-7", MISSING),
        ("/v1/uploaded_images/x//../image-7", MISSING),
        ("/v1/uploaded_images/%ff", MISSING),
        ("/v1/Uploaded_images/image-7", MISSING),
        ("/v1/sku_items/7", MISSING),
        ("/uploaded_images", MISSING),
    ] {
        assert_eq!(token_params(delete(path)).await, expected, "{path}");
    }
    // A name that is not one of the signed fields, and a method that deletes nothing.
    let layer = jwt(Source::new()).signed_fields(["sku_id"]).build().unwrap();
    let inner = Recorder::new();
    send(&service(&layer, &inner), delete("/v1/uploaded_images/image-7")).await.unwrap();
    assert_eq!(claims(inner.only().token())["params"], json!({"uploaded_image_id": "image-7"}));
    let put = Request::put("https://api.aiuta.com/v1/uploaded_images/image-7").body(Full::default()).unwrap();
    assert_eq!(token_params(put).await, Err(AuthErrorKind::MissingParams));
    // The extensions win.
    let mut request = delete("/v1/uploaded_images/image-7");
    request.extensions_mut().insert(params("image-2"));
    assert_eq!(token_params(request).await, Ok(json!({"sku_id": "dress-1", "uploaded_image_id": "image-2"})));
}

/// Sends a request through a layer that allows unbound tokens, and one that does not. Returns the params of the tokens.
async fn unbound_params(request: Request<Full<Bytes>>) -> [Result<Value, AuthErrorKind>; 2] {
    let source = Source::new();
    let layer = jwt(source.clone()).allow_unbound_tokens(true).build().unwrap();
    let inner = Recorder::new();
    let allowed = match send(&service(&layer, &inner), request.clone()).await {
        Ok(_) => Ok(claims(inner.only().token())["params"].clone()),
        Err(error) => {
            assert_eq!((source.calls(), inner.count()), (0, 0), "no token is fetched and no request is sent");
            Err(error_kind(Err::<(), _>(error)))
        }
    };
    [allowed, token_params(request).await]
}

#[tokio::test]
async fn b3_request_without_params_needs_permission_for_an_unbound_token() {
    for (method, path) in [
        ("GET", "sku_items"),
        ("POST", "sku_items"),
        ("DELETE", "sku_items/7"),
        ("GET", "sku_images_operations"),
        ("HEAD", "sku_images_operations"),
        ("DELETE", "sku_images_operations/op-1"),
        ("POST", "sku_images_operations/op-1"),
        ("PATCH", "never/heard-of"),
    ] {
        for given in [None, Some(AuthParams::new()), Some(AuthParams::new().with_partition("customer-1"))] {
            let uri = format!("https://api.aiuta.com/v1/{path}");
            let mut request = Request::builder().method(method).uri(uri).body(Full::from(BODY)).unwrap();
            given.clone().map(|given| request.extensions_mut().insert(given));
            let seen = unbound_params(request).await;
            assert_eq!(seen, [Ok(json!({})), MISSING], "{method} {path} {given:?}");
        }
    }
    // The access does not matter.
    let mut request = get("https://api.aiuta.com/v1/try_on_models");
    request.extensions_mut().insert(Access::Jwt);
    assert_eq!(unbound_params(request).await, [Ok(json!({})), MISSING]);
}

#[tokio::test]
async fn b3_request_that_resembles_a_try_on_never_gets_an_unbound_token() {
    for (method, path) in [
        ("POST", "SKU_IMAGES_OPERATIONS"),
        ("POST", "Sku_Try_On_Operations"),
        ("POST", "sku_images_operations%20"),
        ("POST", "%20sku_images_operations"),
        ("POST", "sku_images_operations.json"),
        ("POST", "sku_try_on_operations;v=1"),
        ("POST", "sku_try_on_operations_"),
        ("POST", "SKU_IMAGES_OPERATIONS/x/%2e%2e"),
        ("PUT", "sku_images_operations"),
        ("PATCH", "sku_try_on_operations"),
        ("post", "sku_images_operations"),
        ("Post", "sku_try_on_operations"),
    ] {
        let uri = format!("https://api.aiuta.com/v1/{path}");
        let mut request = Request::builder().method(method).uri(uri).body(Full::from(BODY)).unwrap();
        assert_eq!(unbound_params(request.clone()).await, [MISSING; 2], "{method} {path}");
        // The remedy in the error text.
        request.extensions_mut().insert(AuthParams::new().with("uploaded_image_id", "image-1"));
        assert_eq!(token_params(request).await, Ok(json!({"uploaded_image_id": "image-1"})), "{method} {path}");
    }
    for request in [post(TRY_ON, "{}"), post(TRY_ON, "")] {
        assert_eq!(unbound_params(request).await, [MISSING; 2]);
    }
}

#[tokio::test]
async fn b3_missing_params_says_what_was_looked_for() {
    let error_of = async |layer: AiutaAuthLayer, request| {
        let result = send(&service(&layer, &Recorder::new()), request).await;
        auth_error(result).to_string()
    };
    let camel_case = post(TRY_ON, r#"{"uploadedImageId":"image-1"}"#);
    let text = error_of(jwt(Source::new()).build().unwrap(), camel_case.clone()).await;
    let fields = "`uploaded_image_id`, `sku_id`, `sku_ids`, `sku_catalog_name`, `product_id`";
    assert!(text.contains(fields) && !text.contains("uploadedImageId"), "{text}");
    let text = error_of(jwt(Source::new()).signed_fields(["a", "b"]).build().unwrap(), camel_case).await;
    assert!(text.contains("`a`, `b`;") && text.contains("`signed_fields`"), "{text}");

    let text = error_of(jwt(Source::new()).build().unwrap(), post("https://api.aiuta.com/v1/sku_items", BODY)).await;
    assert!(text.contains("not those of a try-on") && text.contains("`allow_unbound_tokens(true)`"), "{text}");
}

#[tokio::test]
async fn b3_body_that_is_read_must_be_json_by_its_headers() {
    for (name, value, is_read) in [
        ("content-type", "application/json", true),
        ("content-type", "application/json; charset=UTF-8", true),
        ("content-type", "application/vnd.aiuta+json", true),
        ("content-type", "text/plain", false),
        ("content-type", "application/json; charset=utf-16", false),
        ("content-type", "application/x-www-form-urlencoded", false),
        ("content-encoding", "identity", true),
        ("content-encoding", "gzip", false),
        ("content-encoding", "identity, br", false),
    ] {
        let mut request = post(TRY_ON, BODY);
        request.headers_mut().insert(name, value.parse().unwrap());
        let expected = if is_read { Ok(()) } else { Err(AuthErrorKind::InvalidBody) };
        assert_eq!(token_params(request.clone()).await.map(drop), expected, "{name}: {value}");
        // A body that is not read may have any format.
        request.extensions_mut().insert(params("image-1"));
        assert_eq!(token_params(request.clone()).await.map(drop), Ok(()), "{name}: {value}");
        *request.uri_mut() = "https://api.aiuta.com/v1/sku_items".parse().unwrap();
        assert_eq!(token_params(request).await.map(drop), Ok(()), "{name}: {value}");
    }
    let mut request = post(TRY_ON, BODY);
    request.headers_mut().append("content-type", "application/json".parse().unwrap());
    request.headers_mut().append("content-type", "application/json".parse().unwrap());
    assert_eq!(token_params(request).await, Err(AuthErrorKind::InvalidBody));
}
