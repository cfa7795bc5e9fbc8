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

/// What `RemoteTokenSource` asks without the layer, which would refuse some of it before.
#[tokio::test]
async fn g5_any_params_get_a_token_or_a_permanent_error_before_signing() {
    let of = |value: ParamValue| AuthParams::new().with("sku_id", value);
    let mut all: Vec<AuthParams> = values().into_iter().map(of).collect();
    for filler in ["x", "\"", "\\", "\0", "\n", "ü", "👗", "&", "+", " ", "%"] {
        for bytes in [960, 1500, 2900, 4090, 4096, 5000, 9000, 16 * 1024, 20_000, 70_000] {
            let text = filler.repeat(bytes / filler.len());
            all.extend([of(text.as_str().into()), of([text.as_str(), ""].into())]);
        }
    }
    all.push(of(vec![""; 4000].into()));
    all.extend([AuthParams::new(), AuthParams::new().with_partition("alice")]);
    all.extend(["", "role", "a&b", "ü", "\0"].map(|name| AuthParams::new().with(name, "x")));
    let mut tokens = 0;
    for method in [Method::POST, Method::GET] {
        for asked in &all {
            let RecordingIssuer { issuer, params } = recording_issuer();
            let statuses = Arc::new(Mutex::new(Vec::new()));
            let recorded = Arc::clone(&statuses);
            let service = tower::ServiceBuilder::new()
                .map_response(move |response: Response<Full<Bytes>>| {
                    recorded.lock().unwrap().push(response.status().as_u16());
                    response
                })
                .service(issuer);
            let source = RemoteTokenSource::new("https://shop.example/aiuta_jwt", service).unwrap();
            let request = TokenRequest::new(asked.clone(), ManualClock::default().now());
            let result = source.method(method.clone()).token(request).await;
            let (statuses, authorized) = (statuses.lock().unwrap().clone(), params.lock().unwrap().clone());
            match result {
                Ok(token) => {
                    let mut signed = claims(token.expose());
                    signed.as_object_mut().unwrap().retain(|name, _| !["iss", "iat", "exp"].contains(&name.as_str()));
                    let expected = match method {
                        Method::POST => serde_json::to_value(asked),
                        _ => serde_json::to_value(asked.to_strings()),
                    };
                    assert_eq!((statuses, signed), (vec![200], expected.unwrap()));
                    tokens += 1;
                }
                Err(error) => {
                    assert!(!error.is_transient() && !error.is_denied(), "{method} {asked:?}: {error:?}");
                    // A query of more than 64 KiB is not sent.
                    assert!(matches!(statuses[..], [] | [400 | 413]), "{method} {asked:?}: {statuses:?}");
                    assert!(authorized.is_empty(), "{method} {asked:?}");
                }
            }
        }
    }
    assert!(tokens > 100 && tokens < all.len() * 2, "{tokens}");
}

#[tokio::test]
async fn g5_layer_deletes_images_with_tokens_of_the_issuer() {
    let RecordingIssuer { issuer, params } = recording_issuer();
    let source = RemoteTokenSource::new("https://shop.example/aiuta_jwt", issuer).unwrap();
    let layer = jwt(source).build().unwrap();
    for (kind, name) in [("uploaded_images", "uploaded_image_id"), ("generated_images", "generated_image_id")] {
        let recorder = Recorder::new();
        let uri = format!("https://api.aiuta.com/digital-try-on/v1/{kind}/image%2D1");
        let request = Request::delete(uri).body(Full::default()).unwrap();
        assert_eq!(send(&service(&layer, &recorder), request).await.unwrap(), 200);
        assert_eq!(claims(recorder.only().token())[name], "image-1");
        assert_eq!(params.lock().unwrap().pop().unwrap(), AuthParams::new().with(name, "image-1"));
    }
}

#[tokio::test]
async fn b4_params_that_do_not_fit_beside_a_long_issuer_id_are_refused() {
    for (length, status) in [(100, 200), (2800, 400)] {
        let signer = JwtSigner::hs256("i".repeat(1000), FakeAiuta::SECRET).unwrap();
        let request = json_post(serde_json::to_vec(&AuthParams::new().with("sku_id", "\"".repeat(length))).unwrap());
        let (answered, _, answer) = request_token(&JwtIssuer::danger_allow_all(signer), request).await;
        assert_eq!(answered, status, "{answer}");
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
async fn b4_short_names_count_with_what_they_take_as_json() {
    // Two control characters are 2 bytes, and take 18 as JSON: escaped, with quotes, a colon, an empty value, a comma.
    let name = |number: u8| move |first: u8| format!("{}{}", char::from(first + 1), char::from(number + 1));
    let all = (0..31).flat_map(|number| (0..31).map(name(number)));
    for (count, is_fine) in [(300, true), (430, false)] {
        let params = all.clone().take(count).fold(AuthParams::new(), |params, name| params.with(name, ""));
        let source = Source::new();
        let result = jwt(source.clone()).build().unwrap().token_cache().unwrap().get(&params).await;
        assert_eq!(source.calls(), usize::from(is_fine), "{count} names");
        assert_eq!(result.err().map(|error| error.kind()), (!is_fine).then_some(AuthErrorKind::InvalidBody));
        assert_eq!(jwt(signer()).build().unwrap().token_cache().unwrap().get(&params).await.is_ok(), is_fine);
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
