//! Rules G5 and B4: the issuer can answer whatever `RemoteTokenSource` asks, and never answers 5xx to what a client
//! chose.

use http::Method;
use tower_aiuta_auth::{AuthErrorKind, ParamValue, RemoteTokenSource};

use super::*;

/// Values that one end might write and the other end might read differently.
fn values() -> Vec<ParamValue> {
    let texts = [
        "plain",
        "",
        " ",
        " a b ",
        "ü",
        "日本語",
        "\u{1f457}",
        "\0",
        "a\0b",
        "a,b",
        "a&b=c",
        "a+b",
        "100%",
        "%41",
        "\"quoted\"",
        "back\\slash",
        "line\nbreak",
        "\u{2028}",
        "\u{feff}",
        "a;b",
        "#",
        "null",
        "true",
        "7",
    ];
    let mut values: Vec<ParamValue> = texts.map(ParamValue::from).into();
    values.extend([true, false].map(ParamValue::from));
    values.extend([0, 1, -1, i64::MAX, i64::MIN].map(ParamValue::from));
    values.extend([&[][..], &[""], &["a", "b"], &["a,b"], &["\"", "\0", "ü"]].map(ParamValue::from));
    values
}

#[tokio::test]
async fn g5_both_ends_agree_on_every_value() {
    for method in [Method::POST, Method::GET] {
        for value in values() {
            let recording = recording_issuer();
            let source = RemoteTokenSource::new("https://shop.example/aiuta_jwt", recording.issuer.clone()).unwrap();
            let source = source.method(method.clone());
            let asked = AuthParams::new().with("sku_id", value);
            let token = jwt(source).build().unwrap().token_cache().unwrap().get(&asked).await.unwrap();
            let expected = match method {
                Method::POST => asked.clone(),
                // In a query all values are strings.
                _ => AuthParams::new().with("sku_id", asked.to_strings()["sku_id"].clone()),
            };
            assert_eq!(*recording.params.lock().unwrap(), std::slice::from_ref(&expected), "{method} {expected:?}");
            let signed = claims(token.expose())["sku_id"].clone();
            assert_eq!(signed, serde_json::to_value(&expected).unwrap()["sku_id"], "{method}");
        }
    }
}

#[tokio::test]
async fn b4_params_that_do_not_fit_into_a_token_are_refused_by_both_ends() {
    // Quotes take two bytes as JSON, control characters six.
    for (filler, fits, too_long) in [("x", 4090, 4091), ("\"", 2860, 2900), ("\0", 950, 970), ("ü", 2045, 2046)] {
        for (length, is_fine) in [(fits, true), (too_long, false)] {
            let params = AuthParams::new().with("sku_id", filler.repeat(length));
            let recording = recording_issuer();
            let request = json_post(serde_json::to_vec(&params).unwrap());
            let (status, _, answer) = request_token(&recording.issuer, request).await;
            assert_eq!(status, if is_fine { 200 } else { 400 }, "{length} × {filler:?}: {answer}");
            assert_eq!(recording.params.lock().unwrap().len(), usize::from(is_fine));

            let source = Source::new();
            let result = jwt(source.clone()).build().unwrap().token_cache().unwrap().get(&params).await;
            match is_fine {
                true => drop(result.unwrap()),
                false => assert_eq!(result.unwrap_err().kind(), AuthErrorKind::InvalidBody),
            }
            assert_eq!(source.calls(), usize::from(is_fine));
            // With the real signer the token fits into 8 KiB.
            let signed = jwt(signer()).build().unwrap().token_cache().unwrap().get(&params).await;
            assert_eq!(signed.is_ok(), is_fine, "{length} × {filler:?}");
        }
    }
}

#[tokio::test]
async fn b4_params_that_the_authorizer_makes_too_large_are_refused() {
    let issuer = JwtIssuer::new(signer(), |_, params: AuthParams| async {
        Ok(params.with("sku_catalog_name", "\"".repeat(3000)))
    });
    assert_eq!(request_token(&issuer, query("sku_id=x")).await.0, 400);
}

#[tokio::test]
async fn g5_params_of_deletes_are_known() {
    for name in ["uploaded_image_id", "generated_image_id"] {
        let (status, _, answer) = request_token(&recording_issuer().issuer, query(&format!("{name}=7"))).await;
        assert_eq!((status, signed(&answer)), (200, json!({ name: "7" })));
    }
}

#[tokio::test]
async fn g5_authorizer_is_asked_about_empty_params_only_if_allowed() {
    for (allowed, status, asked) in [(false, 400, 0), (true, 200, 1)] {
        for request in [get("/aiuta_jwt"), json_post("{}"), json_post(r#"{"sku_id":null}"#)] {
            let RecordingIssuer { issuer, params } = recording_issuer();
            let (answered, _, answer) = request_token(&issuer.allow_unbound_tokens(allowed), request).await;
            assert_eq!((answered, params.lock().unwrap().len()), (status, asked), "{answer}");
            if allowed {
                assert_eq!(signed(&answer), json!({}));
            }
        }
    }
}

#[tokio::test]
async fn g5_unknown_fields_are_ignored_only_on_request() {
    let post_to = |uri: &str, body: &'static str| {
        let mut request = json_post(body);
        *request.uri_mut() = uri.parse().unwrap();
        request
    };
    for (request, expected) in [
        (query("sku_id=1&_=1700000000&exp=9"), json!({"sku_id": "1"})),
        (json_post(r#"{"sku_id":1,"exp":9,"options":{"a":[1.5]}}"#), json!({"sku_id": 1})),
        (post_to("/aiuta_jwt?_=1", r#"{"sku_id":1}"#), json!({"sku_id": 1})),
        // The body wins, and a null in it does not.
        (post_to("/aiuta_jwt?sku_id=q&product_id=p", r#"{"sku_id":1}"#), json!({"sku_id": 1, "product_id": "p"})),
        (post_to("/aiuta_jwt?sku_id=q", r#"{"sku_id":null}"#), json!({"sku_id": "q"})),
    ] {
        assert_eq!(request_token(&recording_issuer().issuer, request.clone()).await.0, 400);
        let RecordingIssuer { issuer, params } = recording_issuer();
        let (status, _, answer) = request_token(&issuer.ignore_unknown_fields(true), request).await;
        assert_eq!((status, &signed(&answer)), (200, &expected));
        assert_eq!(serde_json::to_value(&params.lock().unwrap()[0]).unwrap(), expected, "the authorizer sees no more");
    }
    // What is ambiguous stays an error.
    let issuer = recording_issuer().issuer.ignore_unknown_fields(true);
    for request in [query("sku_id=1&sku_id=2"), json_post(r#"{"sku_id":1,"sku_id":1}"#), query("_=1"), json_post("[]")]
    {
        assert_eq!(request_token(&issuer, request).await.0, 400);
    }
}
