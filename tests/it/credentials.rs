//! Rules A1 and A3: the layer sends exactly one credential, the one that Aiuta's table requires. Rule E3: responses
//! that pass through untouched.

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderMap, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::ServiceExt;
use tower_aiuta_auth::{Access, AiutaAuthBuilder, AiutaAuthLayer, AuthParams};

use crate::support::*;

const KEY: &str = "0123456789abcdef0123456789abcdef";
const CREDENTIALS: [&str; 3] = ["authorization", "x-api-key", "x-user-id"];

fn api_key() -> AiutaAuthLayer {
    AiutaAuthLayer::api_key(KEY).unwrap()
}

fn jwt_layer() -> AiutaAuthLayer {
    jwt(Source::new()).build().unwrap()
}

/// Returns a layer that fetches tokens without params, too.
fn unbound() -> AiutaAuthBuilder {
    jwt(Source::new()).allow_unbound_tokens(true)
}

/// Sends a request, and returns what the inner service received.
async fn sent(layer: &AiutaAuthLayer, request: Request<Full<Bytes>>) -> SentRequest {
    let inner = Recorder::new();
    send(&service(layer, &inner), request).await.unwrap();
    inner.only()
}

/// Returns a request whose body is valid for a try-on.
fn request(method: &str, uri: &str) -> Request<Full<Bytes>> {
    let body = Full::from(r#"{"uploaded_image_id":"image-1"}"#);
    Request::builder().method(method).uri(uri).body(body).unwrap()
}

/// Adds two values of each credential header, as a caller might by mistake.
fn with_stale_credentials(mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    for name in CREDENTIALS {
        for value in ["callers-own", "callers-second"] {
            request.headers_mut().append(name, value.parse().unwrap());
        }
    }
    request.headers_mut().insert("x-trace", "7".parse().unwrap());
    request
}

fn assert_one_credential(seen: &SentRequest, name: &str) {
    assert_eq!(seen.credentials(), [name], "{}", seen.uri);
    assert!(!seen.header(name).contains("callers"), "{}", seen.uri);
    assert_eq!(seen.header("x-trace"), "7", "{}", seen.uri);
}

#[tokio::test]
async fn a1_one_credential_replaces_those_of_the_caller() {
    let seen = sent(&api_key(), with_stale_credentials(try_on("image-1"))).await;
    assert_one_credential(&seen, "x-api-key");
    assert_eq!(seen.header("x-api-key"), KEY);

    let seen = sent(&jwt_layer(), with_stale_credentials(get("https://api.aiuta.com/v1/uploaded_images/1"))).await;
    assert_one_credential(&seen, "x-user-id");
    assert_eq!(seen.header("x-user-id"), ID);

    let seen = sent(&jwt_layer(), with_stale_credentials(try_on("image-1"))).await;
    assert_one_credential(&seen, "authorization");
    assert_eq!(claims(seen.token())["params"]["uploaded_image_id"], "image-1");
}

#[tokio::test]
async fn a1_one_credential_among_any_number_of_headers() {
    for headers in [1, 12, 13, 14, 40] {
        for own in CREDENTIALS {
            let mut request = try_on("image-1");
            for number in 0..headers {
                let name = http::HeaderName::try_from(format!("x-number-{number}")).unwrap();
                request.headers_mut().insert(name, "1".parse().unwrap());
            }
            request.headers_mut().insert(own, "callers-own".parse().unwrap());
            for (layer, name) in [(api_key(), "x-api-key"), (jwt_layer(), "authorization")] {
                let seen = sent(&layer, request.clone()).await;
                assert_eq!(
                    (&seen.credentials()[..], seen.headers.len()),
                    (&[name][..], headers + 1),
                    "{headers} {own}"
                );
                assert!(!seen.header(name).contains("callers"));
            }
        }
    }
}

#[tokio::test]
async fn a1_replay_carries_one_credential() {
    let (source, rejected) = (Source::new(), RejectedTokens::default());
    let layer = jwt(source).build().unwrap();
    let inner = Recorder::rejecting(&rejected);
    let service = service(&layer, &inner);
    send(&service, try_on("image-1")).await.unwrap();
    rejected.add(inner.last().token());
    assert_eq!(send(&service, with_stale_credentials(try_on("image-1"))).await.unwrap(), 200);
    assert_eq!(inner.count(), 3);
    for seen in &inner.requests()[1..] {
        assert_one_credential(seen, "authorization");
    }
    assert_ne!(inner.requests()[1].token(), inner.requests()[2].token());
}

#[tokio::test]
async fn a1_api_key_is_sent_with_every_operation() {
    let layer =
        AiutaAuthLayer::builder().api_key(KEY).access_rule(|_, _| Some(Access::SubscriptionId)).build().unwrap();
    for access in [None, Some(Access::Jwt), Some(Access::SubscriptionId)] {
        for (method, path) in [("GET", "/v1/uploaded_images/1"), ("POST", "/v1/sku_try_on_operations"), ("PUT", "/x")] {
            let mut request = with_stale_credentials(request(method, &format!("https://api.aiuta.com{path}")));
            access.map(|access| request.extensions_mut().insert(access));
            assert_one_credential(&sent(&layer, request).await, "x-api-key");
        }
    }
}

#[tokio::test]
async fn a1_anonymous_and_foreign_requests_are_untouched() {
    let source = Source::new();
    let plain = [api_key(), jwt(source.clone()).build().unwrap()];
    let anonymous = |_: &Method, _: &http::Uri| Some(Access::Anonymous);
    let by_rule = [
        AiutaAuthLayer::builder().api_key(KEY).access_rule(anonymous).build().unwrap(),
        jwt(source.clone()).access_rule(anonymous).build().unwrap(),
    ];
    let mut by_extension = try_on("image-1");
    by_extension.extensions_mut().insert(Access::Anonymous);
    let mut elsewhere = try_on("image-1");
    *elsewhere.uri_mut() = "https://storage.example/image.jpg?token=1".parse().unwrap();

    let cases = [(&plain, by_extension), (&plain, elsewhere), (&by_rule, try_on("image-1"))];
    for (layers, request) in cases {
        for layer in layers {
            for request in [request.clone(), with_stale_credentials(request.clone())] {
                let seen = sent(layer, request.clone()).await;
                assert_eq!(
                    (&seen.method, &seen.uri, &seen.headers),
                    (request.method(), request.uri(), request.headers())
                );
                assert_eq!(seen.version, request.version());
                assert_eq!(seen.extensions.get::<AuthParams>(), request.extensions().get());
                assert_eq!(seen.body, request.into_body().collect().await.unwrap().to_bytes());
            }
        }
    }
    assert_eq!(source.calls(), 0, "no token was fetched");
}

const BEARER: &str = "authorization";
const USER_ID: &str = "x-user-id";

/// Aiuta's table: method, path below the base path, and the credential it requires.
const TABLE: [(&str, &str, &str); 34] = [
    ("POST", "sku_images_operations", BEARER),
    ("POST", "sku_try_on_operations", BEARER),
    ("POST", "uploaded_images", USER_ID),
    ("GET", "uploaded_images/user_image-1", USER_ID),
    ("GET", "sku_images_operations/op-1", USER_ID),
    ("GET", "sku_try_on_operations/op-1", USER_ID),
    ("GET", "predefined_try_on_models", USER_ID),
    ("GET", "try_on_models", USER_ID),
    ("GET", "subscription_details", USER_ID),
    ("POST", "size_and_fit/recommendation", USER_ID),
    ("POST", "ios-sdk-analytics", USER_ID),
    ("POST", "android-sdk-analytics", USER_ID),
    ("POST", "web-sdk-analytics", USER_ID),
    ("HEAD", "try_on_models", USER_ID),
    ("HEAD", "sku_images_operations/op-1", USER_ID),
    ("HEAD", "uploaded_images/user_image-1", USER_ID),
    // Everything else requires a JWT.
    ("GET", "uploaded_images", BEARER),
    ("DELETE", "uploaded_images/user_image-1", BEARER),
    ("POST", "uploaded_images/user_image-1", BEARER),
    ("GET", "uploaded_images/user_image-1/more", BEARER),
    ("GET", "sku_images_operations", BEARER),
    ("GET", "sku_try_on_operations/op-1/cancel", BEARER),
    ("POST", "sku_try_on_operations/op-1", BEARER),
    ("DELETE", "sku_try_on_operations/op-1", BEARER),
    ("PUT", "sku_images_operations/op-1", BEARER),
    ("get", "try_on_models", BEARER),
    ("HEAD", "uploaded_images", BEARER),
    ("POST", "try_on_models", BEARER),
    ("GET", "try_on_models/1", BEARER),
    ("GET", "size_and_fit/recommendation", BEARER),
    ("GET", "web-sdk-analytics", BEARER),
    ("GET", "sku_items", BEARER),
    ("POST", "sku_items", BEARER),
    ("PATCH", "never/heard-of", BEARER),
];

#[tokio::test]
async fn a3_table_selects_the_credential_on_both_paths() {
    for base in ["digital-try-on/v1", "v1"] {
        for (method, path, credential) in TABLE {
            let uri = format!("https://api.aiuta.com/{base}/{path}?a=b");
            let seen = sent(&unbound().build().unwrap(), request(method, &uri)).await;
            assert_eq!(seen.credentials(), [credential], "{method} {base}/{path}");
        }
    }
}

#[tokio::test]
async fn a3_other_products_have_their_own_table() {
    for (method, path, credential) in [
        ("POST", "/analytics/v1/ios-sdk-analytics", USER_ID),
        ("POST", "/analytics/v1/android-sdk-analytics", USER_ID),
        ("POST", "/analytics/v1/web-sdk-analytics", USER_ID),
        ("POST", "/analytics/v1/uploaded_images", BEARER),
        ("GET", "/analytics/v1/try_on_models", BEARER),
        ("POST", "/studio/v1/uploaded_images", BEARER),
        ("GET", "/studio/v1/uploaded_images/1", BEARER),
        ("POST", "/v2/uploaded_images", BEARER),
        ("POST", "/uploaded_images", BEARER),
        ("POST", "/digital-try-on/uploaded_images", BEARER),
        ("POST", "/x/v1/uploaded_images", BEARER),
        ("GET", "/V1/try_on_models", BEARER),
        ("GET", "/", BEARER),
    ] {
        let layer = unbound().build().unwrap();
        let seen = sent(&layer, request(method, &format!("https://api.aiuta.com{path}"))).await;
        assert_eq!(seen.credentials(), [credential], "{method} {path}");
    }
}

#[tokio::test]
async fn a3_table_applies_below_the_base_path() {
    for (base, path, credential) in [
        ("", "/aiuta/v1/uploaded_images", BEARER),
        ("/aiuta", "/aiuta/v1/uploaded_images", USER_ID),
        ("/aiuta/", "/aiuta/digital-try-on/v1/uploaded_images", USER_ID),
        ("//aiuta/./", "/%61iuta//v1/uploaded_images", USER_ID),
        ("/%61iuta", "/aiuta/v1/uploaded_images", USER_ID),
        ("/a/b", "/a/b/v1/uploaded_images", USER_ID),
        ("/", "/v1/uploaded_images", USER_ID),
        ("/aiuta", "/v1/uploaded_images", BEARER),
        ("/aiuta", "/aiutas/v1/uploaded_images", BEARER),
        ("/aiuta", "/x/aiuta/v1/uploaded_images", BEARER),
        ("/aiuta", "/aiuta/../v1/uploaded_images", BEARER),
        ("/aiuta", "/aiuta/aiuta/v1/uploaded_images", BEARER),
        ("/aiuta", "/aiuta/studio/v1/uploaded_images", BEARER),
    ] {
        let layer = unbound().base_path(base).build().unwrap();
        let seen = sent(&layer, request("POST", &format!("https://api.aiuta.com{path}"))).await;
        assert_eq!(seen.credentials(), [credential], "{path} below {base:?}");
    }
}

#[tokio::test]
async fn a3_extension_overrides_access_rule_and_access_rule_overrides_table() {
    let (bearer, user_id, nothing) = (&[BEARER][..], &[USER_ID][..], &[][..]);
    let get_image = ("GET", "https://api.aiuta.com/v1/uploaded_images/1", user_id);
    let start = ("POST", TRY_ON, bearer);
    for (method, uri, by_table) in [get_image, start] {
        for (rule, by_rule) in [
            (None, by_table),
            (Some(Access::Jwt), bearer),
            (Some(Access::SubscriptionId), user_id),
            (Some(Access::Anonymous), nothing),
        ] {
            let layer = unbound().access_rule(move |_, _| rule).build().unwrap();
            for (extension, expected) in [
                (None, by_rule),
                (Some(Access::Jwt), bearer),
                (Some(Access::SubscriptionId), user_id),
                (Some(Access::Anonymous), nothing),
            ] {
                let mut request = request(method, uri);
                extension.map(|access| request.extensions_mut().insert(access));
                let seen = sent(&layer, request).await;
                assert_eq!(seen.credentials(), expected, "{method} {rule:?} {extension:?}");
            }
        }
    }
}

#[tokio::test]
async fn a3_options_is_anonymous_with_jwts() {
    let options = |path: &str| with_stale_credentials(request("OPTIONS", &format!("https://api.aiuta.com{path}")));
    for path in ["/v1/sku_try_on_operations", "/v1/uploaded_images/1", "/v1/sku_items", "/"] {
        let seen = sent(&jwt_layer(), options(path)).await;
        assert_eq!(seen.headers, *options(path).headers(), "{path}");
        assert_one_credential(&sent(&api_key(), options(path)).await, "x-api-key");
    }
    let mut stated = options("/v1/uploaded_images/1");
    stated.extensions_mut().insert(Access::SubscriptionId);
    assert_one_credential(&sent(&jwt_layer(), stated).await, "x-user-id");
}

#[tokio::test]
async fn a3_access_rule_sees_method_and_uri() {
    let layer = unbound()
        .access_rule(|method, uri| {
            (*method == Method::GET && uri.path() == "/status" && uri.query() == Some("a=%20b"))
                .then_some(Access::Anonymous)
        })
        .build()
        .unwrap();
    assert_eq!(sent(&layer, get("https://api.aiuta.com/status?a=%20b")).await.credentials(), [""; 0]);
    assert_eq!(sent(&layer, get("https://api.aiuta.com/status?a=b")).await.credentials(), [BEARER]);
    assert_eq!(sent(&layer, post("https://api.aiuta.com/status?a=%20b", "")).await.credentials(), [BEARER]);
}

/// Sends a request to a service that responds with `status`, headers and a body. Asserts that the response is unchanged
/// and that the request was sent once.
async fn assert_passes_through(layer: &AiutaAuthLayer, request: Request<Full<Bytes>>, status: StatusCode) {
    let headers = HeaderMap::from_iter([(RETRY_AFTER, "3".parse().unwrap()), (AUTHORIZATION, "odd".parse().unwrap())]);
    let answered = headers.clone();
    let inner = Recorder::with_response(move |_| {
        let mut response = Response::builder().status(status).body(Full::from("why")).unwrap();
        response.headers_mut().clone_from(&answered);
        async move { Ok(response) }
    });
    let response = service(layer, &inner).oneshot(request).await.unwrap();
    assert_eq!((response.status(), response.headers()), (status, &headers));
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "why");
    assert_eq!(inner.count(), 1, "{status}");
}

#[tokio::test]
async fn e3_errors_for_api_key_or_subscription_id_pass_through_untouched() {
    for status in [400, 401, 403, 404, 422, 429, 500, 502, 503, 504] {
        let status = StatusCode::from_u16(status).unwrap();
        assert_passes_through(&api_key(), try_on("image-1"), status).await;
        assert_passes_through(&jwt_layer(), get("https://api.aiuta.com/v1/uploaded_images/1"), status).await;
    }
}

#[tokio::test]
async fn e3_forbidden_is_a_rejection_only_if_configured() {
    let (source, rejected) = (Source::new(), RejectedTokens::default());
    for (reject, sent, seen) in [(false, vec![1, 1, 1], [200, 403, 403]), (true, vec![1, 1, 2, 2], [200, 200, 200])] {
        let layer = jwt(source.clone()).reject_on_forbidden(reject).build().unwrap();
        let inner = {
            let rejected = rejected.clone();
            Recorder::with_status(move |request| match rejected.contains(request.token()) {
                true => StatusCode::FORBIDDEN,
                false => StatusCode::OK,
            })
        };
        let service = service(&layer, &inner);
        let first = send(&service, try_on("image-1")).await.unwrap();
        let number_of_first = token_number(inner.last().token()) - 1;
        rejected.add(inner.last().token());
        let then = [send(&service, try_on("image-1")).await.unwrap(), send(&service, try_on("image-1")).await.unwrap()];
        assert_eq!([first, then[0], then[1]], seen.map(|status| StatusCode::from_u16(status).unwrap()));
        let numbers: Vec<_> = inner.tokens().iter().map(|token| token_number(token) - number_of_first).collect();
        assert_eq!(numbers, sent);
        assert_eq!(layer.stats().rejected, u64::from(reject));
    }
}

#[tokio::test]
async fn e3_forbidden_with_another_credential_passes_through() {
    let layers = [
        jwt(Source::new()).reject_on_forbidden(true).build().unwrap(),
        AiutaAuthLayer::builder().api_key(KEY).reject_on_forbidden(true).build().unwrap(),
    ];
    for layer in layers {
        let request = get("https://api.aiuta.com/v1/uploaded_images/1");
        assert_passes_through(&layer, request, StatusCode::FORBIDDEN).await;
    }
}

#[tokio::test]
async fn e3_only_401_forgets_a_token() {
    let source = Source::new();
    let layer = jwt(source.clone()).build().unwrap();
    for status in [400, 403, 429, 500, 502, 503] {
        assert_passes_through(&layer, try_on("image-1"), StatusCode::from_u16(status).unwrap()).await;
    }
    let stats = layer.token_cache().unwrap().stats();
    assert_eq!((source.calls(), stats.rejected, stats.replays, stats.entries), (1, 0, 0, 1));
}
