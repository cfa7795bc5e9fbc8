//! `JwtIssuer`: which requests it signs, which it rejects, and that it signs only authorized params.

mod agreement;
mod malformed;

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::{BodyExt, Channel, Full};
use serde_json::{Value, json};
use tower::ServiceExt;
use tower_aiuta_auth::testing::{FakeAiuta, ManualClock};
use tower_aiuta_auth::{
    AuthParams, Clock, IssuerError, JwtIssuer, JwtSigner, RemoteTokenSource, TokenError, TokenRequest, TokenSource,
};

use crate::support::*;

const PYJWT: &str = include_str!("../fixtures/pyjwt.jwt");
const SIGNER: &str = include_str!("../fixtures/signer.jwt");

fn signer() -> JwtSigner {
    JwtSigner::hs256(FakeAiuta::ISSUER, FakeAiuta::SECRET).unwrap()
}

/// An issuer that authorizes every request, and the params of those requests.
#[derive(Clone)]
struct RecordingIssuer {
    issuer: JwtIssuer,
    params: Arc<Mutex<Vec<AuthParams>>>,
}

fn recording_issuer() -> RecordingIssuer {
    let params: Arc<Mutex<Vec<AuthParams>>> = Arc::default();
    let recorded = Arc::clone(&params);
    let issuer = JwtIssuer::new(signer(), move |_, params| {
        recorded.lock().unwrap().push(params.clone());
        async move { Ok(params) }
    });
    RecordingIssuer { issuer: issuer.clock(ManualClock::default()), params }
}

fn json_post(body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    typed_post("application/json", body)
}

fn typed_post(content_type: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let mut request = post("/aiuta_jwt", body);
    request.headers_mut().insert("content-type", content_type.parse().unwrap());
    request
}

fn query(query: &str) -> Request<Full<Bytes>> {
    get(&format!("/aiuta_jwt?{query}"))
}

/// Sends a request, and returns status, headers and JSON of the response. Asserts that it is JSON and must not be
/// stored.
async fn request_token(issuer: &JwtIssuer, request: Request<Full<Bytes>>) -> (u16, Response<()>, Value) {
    let (head, body) = issuer.clone().oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    assert_eq!(
        (&head.headers["content-type"], &head.headers["cache-control"]),
        (&http::HeaderValue::from_static("application/json"), &http::HeaderValue::from_static("no-store"))
    );
    (head.status.as_u16(), Response::from_parts(head, ()), serde_json::from_slice(&body).unwrap())
}

/// Returns the claims of the token in a response, without `iss`, `iat` and `exp`, which it checks.
fn signed(answer: &Value) -> Value {
    assert_eq!((answer.as_object().unwrap().len(), &answer["type"]), (2, &json!("jwt")));
    let mut claims = claims(answer["token"].as_str().unwrap());
    for (name, value) in
        [("iss", json!(FakeAiuta::ISSUER)), ("iat", json!(1_799_999_995)), ("exp", json!(1_800_000_060))]
    {
        assert_eq!(claims.as_object_mut().unwrap().remove(name), Some(value), "{name}");
    }
    claims
}

#[tokio::test]
async fn issuer_signs_params_from_query_and_json() {
    for (request, expected) in [
        (query("uploaded_image_id=a+b%2Bc&sku_ids=x%2Cy"), json!({"uploaded_image_id": "a b+c", "sku_ids": "x,y"})),
        (query("product_id=42&sku_id="), json!({"product_id": "42", "sku_id": ""})),
        (json_post(r#"{"product_id":42,"sku_ids":["x","y"]}"#), json!({"product_id": 42, "sku_ids": ["x", "y"]})),
        (
            json_post(r#" {"sku_id":null,"uploaded_image_id":"\u0061","sku_catalog_name":false} "#),
            json!({"uploaded_image_id": "a", "sku_catalog_name": false}),
        ),
        (typed_post("Application/JSON; charset=utf-8", r#"{"sku_id":"x"}"#), json!({"sku_id": "x"})),
    ] {
        let (status, _, answer) = request_token(&recording_issuer().issuer, request).await;
        assert_eq!((status, signed(&answer)), (200, expected));
    }
}

#[tokio::test]
async fn issuer_rejects_ambiguous_or_malformed_requests() {
    let many = format!(r#"{{"sku_id":"{}"}}"#, "x".repeat(16 * 1024));
    let over_4_kib = format!(r#"{{"sku_id":"{}"}}"#, "x".repeat(5 * 1024));
    let deep = format!(r#"{{"sku_id":{}1{}}}"#, "[".repeat(5000), "]".repeat(5000));
    let with = |method: &str| Request::builder().method(method).uri("/?sku_id=x").body(Full::default()).unwrap();
    let mut two_types = json_post(r#"{"sku_id":"x"}"#);
    two_types.headers_mut().append("content-type", "text/plain".parse().unwrap());
    let mut encoded = typed_post("application/json", r#"{"sku_id":"x"}"#);
    encoded.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
    let mut both = query("sku_id=x");
    *both.body_mut() = Full::from("{}");
    let mut post_with_query = json_post(r#"{"sku_id":"x"}"#);
    *post_with_query.uri_mut() = "/?product_id=1".parse().unwrap();
    let mut cases = vec![
        (post("/", r#"{"sku_id":"x"}"#), 415, "application/json"),
        (typed_post("text/plain", r#"{"sku_id":"x"}"#), 415, "application/json"),
        (typed_post("application/x-www-form-urlencoded", "sku_id=x"), 415, "application/json"),
        (typed_post("application/jsonp", r#"{"sku_id":"x"}"#), 415, "application/json"),
        (typed_post("application/json; charset=latin1", r#"{"sku_id":"x"}"#), 415, "UTF-8"),
        (two_types, 415, "application/json"),
        (encoded, 415, "content encoding"),
        (json_post(many), 413, "16 KiB"),
        (json_post(over_4_kib), 400, "4 KiB"),
        (query(&format!("sku_id={}", "x".repeat(5 * 1024))), 400, "4 KiB"),
        (json_post(deep), 400, "neither"),
        (both, 400, "no body"),
        (post_with_query, 400, "no query"),
        (get("/"), 400, "no params"),
        (query("&"), 400, "no params"),
        (json_post("{}"), 400, "no params"),
        (json_post(r#"{"sku_id":null}"#), 400, "no params"),
        (query("sku_id=x&sku_id=x"), 400, "twice"),
        (json_post(r#"{"sku_id":"x","sku\u005fid":"y"}"#), 400, "twice"),
        (json_post(r#"{"sku_id":null,"sku_id":"y"}"#), 400, "twice"),
        (query("sku_id=%f"), 400, "percent-encoded"),
        (query("sku_id=%ff"), 400, "percent-encoded"),
    ];
    for body in [
        "",
        "null",
        "[]",
        r#"["sku_id"]"#,
        "\"sku_id\"",
        "sku_id=x",
        "{",
        r#"{"sku_id":"x"}x"#,
        r#"{"sku_id":"x",}"#,
        "{'sku_id':'x'}",
        "\u{feff}{}",
    ] {
        cases.push((json_post(body), 400, "not a JSON object"));
    }
    cases.push((json_post(&b"{\"sku_id\":\"\xff\"}"[..]), 400, "not a JSON object"));
    for value in ["1.5", "1e3", "-0", "9223372036854775808", "{}", r#"{"a":"b"}"#, "[1]", "[[]]", "[null]"] {
        cases.push((json_post(format!(r#"{{"uploaded_image_id":"a","sku_id":{value}}}"#)), 400, "neither"));
    }
    for name in ["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "role", "SKU_ID", "sku_ids[]", ""] {
        cases.push((json_post(json!({"sku_id": "x", name: "y"}).to_string()), 400, "uploaded_image_id, sku_id"));
        cases.push((query(&format!("sku_id=x&{name}=1")), 400, "uploaded_image_id, sku_id"));
    }
    for method in ["HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND", "get"] {
        cases.push((with(method), 405, "GET or POST"));
    }
    for (request, status, hint) in cases {
        let name = format!("{request:?}");
        let RecordingIssuer { issuer, params } = recording_issuer();
        let (got, response, answer) = request_token(&issuer, request).await;
        assert_eq!((got, answer.as_object().unwrap().len()), (status, 1), "{name}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains(hint), "{name}: {answer}");
        assert_eq!(
            response.headers().get("allow").map(|allow| allow == "GET, POST"),
            (got == 405).then_some(true),
            "{name}"
        );
        assert!(params.lock().unwrap().is_empty(), "{name}: the authorizer is not called");
    }
}

#[tokio::test]
async fn issuer_reads_a_body_of_unknown_length_up_to_the_limit() {
    for (bytes, cut, status) in [(16 * 1024, false, 400), (16 * 1024 + 1, false, 413), (100, true, 400)] {
        let (mut sender, body) = Channel::<Bytes, std::io::Error>::new(1);
        tokio::spawn(async move {
            for chunk in vec![b' '; bytes].chunks(1000) {
                let _ = sender.send_data(Bytes::copy_from_slice(chunk)).await;
            }
            if cut {
                sender.abort(std::io::Error::other("reset"));
            }
        });
        let request = json_post("").map(|_| body);
        assert_eq!(recording_issuer().issuer.oneshot(request).await.unwrap().status(), status, "{bytes}");
    }
}

#[tokio::test]
async fn issuer_accepts_only_the_configured_fields() {
    let issuer = recording_issuer().issuer.fields(["look_id"]).unwrap();
    assert_eq!(signed(&request_token(&issuer, query("look_id=7")).await.2), json!({"look_id": "7"}));
    assert_eq!(request_token(&issuer, query("sku_id=7")).await.0, 400);
    for bad in [&[][..], &["look_id", ""], &["look_id", "exp"]] {
        assert_eq!(recording_issuer().issuer.fields(bad.iter().copied()).unwrap_err().setting(), "fields", "{bad:?}");
    }
}

#[tokio::test]
async fn issuer_signs_what_the_authorizer_returns() {
    async fn authorize(head: Parts, params: AuthParams) -> Result<AuthParams, IssuerError> {
        match head.headers.get("cookie").map(|cookie| cookie.to_str().unwrap()) {
            None => Err(IssuerError::unauthorized()),
            Some("mallory") => Err(IssuerError::forbidden()),
            Some("eager") => Err(IssuerError::too_many_requests(std::time::Duration::from_millis(1500))),
            Some("alice") => Ok(params.with("product_id", 42).with_partition("alice")),
            Some("root") => Ok(params.with("exp", 9_999_999_999_i64)),
            Some(_) => Err(IssuerError::unavailable()),
        }
    }
    let issuer = JwtIssuer::new(signer(), authorize).clock(ManualClock::default());
    for (cookie, expected, retry_after) in [
        (None, 401, None),
        (Some("mallory"), 403, None),
        (Some("eager"), 429, Some("2")),
        (Some("bob"), 503, None),
        (Some("root"), 500, None),
        (Some("alice"), 200, None),
    ] {
        let mut request = query("sku_id=x");
        cookie.map(|cookie| request.headers_mut().insert("cookie", cookie.parse().unwrap()));
        let (status, response, answer) = request_token(&issuer, request).await;
        assert_eq!(status, expected, "{answer}");
        assert_eq!(
            response.headers().get("retry-after").map(|value| value.to_str().unwrap()),
            retry_after,
            "{cookie:?}"
        );
        if status == 200 {
            assert_eq!(signed(&answer), json!({"sku_id": "x", "product_id": 42}));
        } else {
            assert!(answer["error"].is_string() && answer.get("token").is_none(), "{answer}");
        }
    }
    let open = JwtIssuer::danger_allow_all(signer()).clock(ManualClock::default());
    assert_eq!(signed(&request_token(&open, query("sku_id=x")).await.2), json!({"sku_id": "x"}));
}

#[tokio::test]
async fn issuer_hides_the_reason_of_a_signing_failure() {
    type Make = fn() -> TokenError;
    for (error, expected, retry_after) in [
        ((|| TokenError::new("hush-hush")) as Make, 500, None),
        (|| tower_aiuta_auth::Jwt::parse("hush-hush").unwrap_err().into(), 500, None),
        (|| TokenError::denied("hush-hush"), 403, None),
        (|| TokenError::transient("hush-hush"), 503, None),
        (|| TokenError::transient("hush-hush").with_retry_after(secs(7)), 503, Some("7")),
    ] {
        let issuer = JwtIssuer::danger_allow_all(Source::from_fn(move |_, _| async move { Err(error()) }));
        let (status, response, answer) = request_token(&issuer, query("sku_id=x")).await;
        assert_eq!(status, expected);
        assert_eq!(response.headers().get("retry-after").map(|value| value.to_str().unwrap()), retry_after);
        assert!(!answer.to_string().contains("hush"), "{answer}");
        assert!(!format!("{issuer:?}").contains("hush"));
    }
}

#[tokio::test]
async fn issuer_matches_the_documented_component() {
    // Recorded requests of Python's http.client to the documented component, and its responses. See
    // tests/fixtures/make.py.
    let documented = |answer: &str| {
        let answer: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        let mut claims = claims(answer["token"].as_str().unwrap());
        claims["iat"] = json!(1_799_999_995); // `JwtSigner` backdates by 5 s
        claims
    };
    let origin = loopback::serve(recording_issuer().issuer).await;
    for (request, answer) in [
        (&include_bytes!("../fixtures/client_get.http")[..], include_str!("../fixtures/backend_get.http")),
        (&include_bytes!("../fixtures/client_post.http")[..], include_str!("../fixtures/backend_post.http")),
    ] {
        let (head, body) = loopback::send_raw(&origin, request).await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("content-type: application/json"), "{head}");
        let token =
            body.strip_prefix(r#"{"type":"jwt","token":""#).and_then(|body| body.strip_suffix(r#""}"#)).unwrap();
        assert_eq!(claims(token), documented(answer));
    }
}

#[tokio::test]
async fn issuer_is_an_axum_route_service() {
    let app = axum::Router::new().route_service("/aiuta_jwt", recording_issuer().issuer);
    let answer = |request: Request<Full<Bytes>>| app.clone().oneshot(request.map(axum::body::Body::new));
    assert_eq!(answer(query("sku_id=x")).await.unwrap().status(), 200);
    assert_eq!(answer(json_post(r#"{"exp":1}"#)).await.unwrap().status(), 400);
}

#[tokio::test]
async fn issuer_tokens_and_pyjwt_tokens_are_interchangeable() {
    let clock = ManualClock::default();
    // PyJWT verified these bytes when the fixtures were made.
    let params = AuthParams::new()
        .with("uploaded_image_id", "user_image-06f5948c")
        .with("sku_ids", ["dress-1", "belt-7"])
        .with("product_id", 42)
        .with("hijab_protection", true);
    let made = signer().token(TokenRequest::new(params, clock.now())).await.unwrap();
    assert_eq!(made.expose(), SIGNER.trim_end(), "put the left token into signer.jwt and run tests/fixtures/make.py");

    let aiuta = FakeAiuta::new().with_clock(clock);
    let mut request = post(SKU_IMAGES, r#"{"uploaded_image_id":"user_image-06f5948c","sku_ids":["dress-1","belt-7"]}"#);
    request.headers_mut().insert("authorization", format!("Bearer {}", PYJWT.trim_end()).parse().unwrap());
    let response = aiuta.clone().oneshot(request).await.unwrap();
    assert_eq!(
        response.status(),
        400,
        "the image is unknown, so the token was accepted: {:?}",
        aiuta.requests()[0].refusal
    );
}

#[tokio::test]
async fn d5_issuer_takes_no_cache_for_a_forced_token() {
    let source = Source::new();
    let issuer = JwtIssuer::danger_allow_all(source.clone());
    for (values, forced) in [
        (&[][..], false),
        (&["no-cache"], true),
        (&["No-Cache"], true),
        (&["max-age=0 ,\tNO-CACHE, foo=\"bar\""], true),
        (&["max-age=0", ",, no-cache ,"], true),
        (&["foo=\"a\\\\\", no-cache"], true),
        (&["no-store", "max-age=0"], false),
        (&["no-caches", "xno-cache", "no cache", "no-cache-x"], false),
        (&["foo=no-cache", "no-cache=\"set-cookie\"", "\"no-cache\""], false),
        (&["foo=\"a, no-cache, b\""], false),
        (&["foo=\"a\\\", no-cache, b\""], false),
        (&["foo=\"open, no-cache"], false),
        (&["foo=\"open", "no-cache"], true),
    ] {
        for mut request in [query("sku_id=x"), json_post(r#"{"sku_id":"x"}"#)] {
            for value in values {
                request.headers_mut().append("cache-control", value.parse().unwrap());
            }
            assert_eq!(request_token(&issuer, request).await.0, 200);
            assert_eq!(source.requests().pop().unwrap().force_refresh(), forced, "{values:?}");
        }
    }
}

#[tokio::test]
async fn d5_issuer_never_answers_no_cache_with_same_token_twice() {
    let clock = ManualClock::default();
    let issuer = JwtIssuer::danger_allow_all(signer()).clock(clock.clone());
    let token = async |source: &RemoteTokenSource<JwtIssuer>, force: bool| {
        let request = TokenRequest::new(AuthParams::new().with("sku_id", "x"), clock.now());
        let request = if force { request.with_force_refresh() } else { request };
        source.token(request).await.unwrap().expose().to_owned()
    };
    // Both instances of the client use the same issuer.
    let sources = [(); 2].map(|()| RemoteTokenSource::new("https://shop.example/aiuta_jwt", issuer.clone()).unwrap());
    let mut tokens = std::collections::HashSet::from([token(&sources[0], false).await]);
    assert_eq!(token(&sources[1], false).await, *tokens.iter().next().unwrap());
    for number in 0..100 {
        assert!(tokens.insert(token(&sources[number % 2], true).await), "{number}");
    }
}
