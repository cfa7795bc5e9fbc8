//! `RemoteTokenSource`: its requests to a backend, the responses that it accepts, and its errors.

mod over_reqwest;

use std::error::Error;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use tower_aiuta_auth::testing::{FakeAiuta, ManualClock};
use tower_aiuta_auth::{
    AiutaAuthLayer, AuthError, AuthErrorKind, AuthParams, BoxError, Clock, JwtIssuer, JwtSigner, RemoteTokenSource,
    TokenError, TokenRequest, TokenSource,
};

use crate::support::*;

const URL: &str = "https://shop.example/aiuta_jwt";
/// A secret that no error may show.
const SECRET: &str = "hush-hush";

fn good_token() -> String {
    token(&serde_json::json!({"exp": 4_000_000_000_u64}))
}

fn response(status: u16, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    Response::builder().status(status).body(Full::new(body.into())).unwrap()
}

/// Returns a backend that responds to every request with `make`.
fn backend(make: impl Fn() -> Response<Full<Bytes>> + Send + Sync + 'static) -> Recorder {
    Recorder::with_response(move |_| {
        let response = make();
        async move { Ok(response) }
    })
}

/// Sends a try-on with a token from this source. Returns the status, or the error, with which nothing may have been
/// sent.
async fn try_with(source: impl TokenSource) -> Result<StatusCode, AuthError> {
    let aiuta = Recorder::new();
    let layer = jwt(source).build().unwrap();
    let result = send(&service(&layer, &aiuta), try_on("image-1")).await;
    result.map_err(|error| {
        assert_eq!(aiuta.count(), 0, "no request is sent to Aiuta");
        auth_error(Err::<(), BoxError>(error))
    })
}

/// Returns the text of the error and its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = format!("{error}\n{error:?}");
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!("\ncaused by {cause}");
        next = cause.source();
    }
    text
}

#[tokio::test]
async fn remote_post_sends_params_as_json() {
    let backend = backend(|| response(200, good_token()));
    let issuer = RemoteTokenSource::new(URL, backend.clone()).unwrap();
    let issuer = issuer.header("X-Api-Token", SECRET).unwrap().partition_header("x-user").unwrap();
    let params = params("image-1").with("sku_ids", ["a", "b"]).with("product_id", 42).with_partition("customer 42");
    let request = TokenRequest::new(params, ManualClock::default().now());
    issuer.token(request.clone()).await.unwrap();

    let seen = backend.only();
    assert_eq!((seen.method, seen.uri.to_string().as_str()), (Method::POST, URL));
    assert_eq!(seen.body, r#"{"product_id":42,"sku_id":"dress-1","sku_ids":["a","b"],"uploaded_image_id":"image-1"}"#);
    assert_eq!(seen.headers.len(), 3);
    assert_eq!(seen.headers[CONTENT_TYPE], "application/json");
    for (name, value) in [("x-api-token", SECRET), ("x-user", "customer 42")] {
        assert_eq!(seen.headers[name], value);
        assert!(seen.headers[name].is_sensitive(), "{name}");
    }

    // After a 401, caches must not answer. Without a partition, the partition header is absent.
    issuer.token(request.with_force_refresh()).await.unwrap();
    assert_eq!(backend.last().header("cache-control"), "no-cache");
    issuer.token(TokenRequest::new(AuthParams::new(), ManualClock::default().now())).await.unwrap();
    assert_eq!((backend.last().header("x-user"), &backend.last().body[..]), ("", &b"{}"[..]));
}

#[tokio::test]
async fn remote_get_sends_params_in_the_query_like_the_sdks() {
    let params = AuthParams::new()
        .with("sku_ids", ["a&b", "c d"])
        .with("uploaded_image_id", "+ü%=~")
        .with("n", 7)
        .with("b", true);
    let query = "b=true&n=7&sku_ids=a%26b%2Cc%20d&uploaded_image_id=%2B%C3%BC%25%3D~";
    for (url, expected) in [
        (URL, format!("{URL}?{query}")),
        ("https://shop.example", format!("https://shop.example/?{query}")),
        ("https://shop.example/jwt?", format!("https://shop.example/jwt?{query}")),
        ("https://shop.example:8443/jwt?key=%20x", format!("https://shop.example:8443/jwt?key=%20x&{query}")),
    ] {
        let backend = backend(|| response(200, good_token()));
        let issuer = RemoteTokenSource::new(url, backend.clone()).unwrap().method(Method::GET);
        issuer.token(TokenRequest::new(params.clone(), ManualClock::default().now())).await.unwrap();
        let seen = backend.only();
        assert_eq!((seen.method, seen.uri.to_string()), (Method::GET, expected));
        assert!(seen.body.is_empty() && seen.headers.is_empty(), "{:?}", seen.headers);
    }
}

#[tokio::test]
async fn g4_token_is_read_from_any_2xx_and_content_type() {
    let token = good_token();
    for (status, content_type, body) in [
        (200, "application/json", format!(r#"{{"type":"jwt","token":"{token}"}}"#)),
        (200, "text/html; charset=utf-8", format!(r#"{{"type": "jwt", "token": "{token}"}}"#)),
        (201, "", format!("\n{{\"token\":\"{token}\",\"expires_in\":60,\"more\":[{{}}]}}\n")),
        (202, "application/octet-stream", format!(r#"{{"token":"{}"}}"#, token.replace('.', "\\u002e"))),
        (203, "application/json", token.clone()),
        (200, "text/plain", format!(" {token}\r\n")),
        (200, "text/plain", format!("{token}{}", " ".repeat(16 * 1024 - token.len()))),
        (200, "application/json", format!("\"{token}\"")),
        (200, "application/json", format!("\u{feff} \"{}\"\n", token.replace('.', "\\u002e"))),
        (200, "application/json", format!("\u{feff}{{\"token\":\"{token}\"}}")),
        (200, "text/plain", format!("\u{feff}{token}")),
        (200, "application/json", format!(r#"{{"access_token":"{token}","token_type":"Bearer"}}"#)),
        (200, "application/json", format!(r#"{{"access_token":"{token}","token":"{token}"}}"#)),
        (200, "application/json", format!(r#"{{"access_token":null,"token":"{token}"}}"#)),
    ] {
        let make = move || {
            let mut response = response(status, body.clone());
            response.headers_mut().insert(CONTENT_TYPE, content_type.parse().unwrap());
            response
        };
        let issuer = RemoteTokenSource::new(URL, backend(make)).unwrap();
        let given = issuer.token(TokenRequest::new(params("a"), ManualClock::default().now())).await.unwrap();
        assert_eq!(given.expose(), token, "{status} {content_type}");
    }
}

#[tokio::test]
async fn g4_response_without_token_is_an_error_that_hides_the_body() {
    let token = good_token();
    let long = format!("{token}{}", " ".repeat(17 * 1024 - token.len()));
    let mut bytes = format!(r#"{{"token":"{token}"}}{SECRET}"#).into_bytes();
    bytes.push(0xff);
    for (body, hint) in [
        (format!("<!DOCTYPE html><p>{SECRET}</p>").into(), "HTML page"),
        (Bytes::new(), "empty"),
        (Bytes::from(" \n"), "empty"),
        (long.into(), "larger than 16 KiB"),
        (format!(r#"{{"jwt":"{token}","note":"{SECRET}"}}"#).into(), "`token`"),
        (format!(r#"{{"data":{{"token":"{token}{SECRET}"}}}}"#).into(), "`token`"),
        (format!(r#"{{"token":["{token}","{SECRET}"]}}"#).into(), "`token`"),
        (format!(r#"{{"token":null,"x":"{SECRET}"}}"#).into(), "`token`"),
        (format!(r#"{{"token":"{token}","token":"{SECRET}"}}"#).into(), "`token`"),
        (format!(r#"{{"token":"{token}""#).into(), "`token`"),
        (format!(r#"{{"token":"{SECRET}"}}"#).into(), "base64url"),
        (format!(r#"["{token}"]"#).into(), "base64url"),
        (format!("Bearer {token}").into(), "begins with `Bearer `"),
        (format!(r#"{{"token":"bearer {token}"}}"#).into(), "begins with `Bearer `"),
        (format!("\"{token}").into(), "not a JSON string"),
        (format!("\"{SECRET}\"").into(), "base64url"),
        (format!("\u{feff}\u{feff}{token}").into(), "base64url"),
        ("\u{feff}".into(), "empty"),
        (format!(r#"{{"token":"{token}","access_token":"{SECRET}"}}"#).into(), "different values"),
        (format!(r#"{{"access_token":{{"token":"{token}"}}}}"#).into(), "not a string"),
        (format!(r#"{{"token":7,"access_token":"{token}"}}"#).into(), "not a string"),
        (format!("{}.", &token[..token.rfind('.').unwrap()]).into(), "`alg: none`"),
        ("eyJhbGciOiJub25lIn0.e30.c2ln".into(), "`none`"),
        (format!("Error: {SECRET}").into(), "base64url"),
        (bytes.into(), "UTF-8"),
    ] {
        let backend = backend(move || response(200, body.clone()));
        let error = try_with(RemoteTokenSource::new(URL, backend).unwrap()).await.unwrap_err();
        assert_eq!((error.kind(), error.is_transient()), (AuthErrorKind::InvalidToken, false), "{hint}");
        let text = chain(&error);
        assert!(text.contains(hint) && !text.contains(SECRET) && !text.contains(&token[..40]), "{hint}: {text}");
    }
}

#[tokio::test]
async fn g4_response_with_a_content_encoding_is_named() {
    for (encoding, is_read) in [("gzip", false), ("br, identity", false), ("identity", true)] {
        let result = answering(200, &[("content-encoding", encoding)], good_token()).token(request_now()).await;
        assert_eq!(result.is_ok(), is_read, "{encoding}");
        let text = result.map_or_else(|error| error.source().unwrap().to_string(), |_| "content encoding".to_owned());
        assert!(text.contains("content encoding"), "{text}");
    }
}

#[tokio::test]
async fn g3_param_with_the_name_of_a_registered_claim_is_not_sent() {
    for name in ["iss", "sub", "aud", "exp", "nbf", "iat", "jti"] {
        let backend = backend(|| response(200, good_token()));
        let source = RemoteTokenSource::new(URL, backend.clone()).unwrap();
        let request = TokenRequest::new(params("a").with(name, SECRET), ManualClock::default().now());
        let error = source.token(request).await.unwrap_err();
        let text = error.source().unwrap().to_string();
        assert!(!error.is_transient() && text.contains(&format!("`{name}`")) && !text.contains(SECRET), "{text}");
        assert_eq!(backend.count(), 0);
    }
}

#[tokio::test]
async fn g4_status_decides_whether_the_error_is_transient() {
    // No other 4xx is transient.
    let others = (400..500).filter(|status| ![401, 403, 408, 429].contains(status));
    let others = others.map(|status| (status, false, false, "status 4"));
    let listed = [
        (401, false, true, "401"),
        (403, false, true, "403"),
        (408, true, false, "408"),
        (429, true, false, "429"),
        (500, true, false, "500"),
        (503, true, false, "503"),
        (599, true, false, "599"),
        (301, false, false, "redirects are not followed"),
        (302, false, false, "redirects are not followed"),
        (304, false, false, "304"),
        (308, false, false, "redirects are not followed"),
        (101, false, false, "101"),
    ];
    for (status, transient, denied, hint) in listed.into_iter().chain(others) {
        let backend = backend(move || {
            let mut response = response(status, format!("{} {SECRET}", good_token()));
            response.headers_mut().insert("location", format!("https://{SECRET}.example").parse().unwrap());
            response
        });
        let error = try_with(RemoteTokenSource::new(URL, backend).unwrap()).await.unwrap_err();
        assert_eq!((error.kind(), error.is_transient()), (AuthErrorKind::TokenSource, transient), "{status}");
        let of_source = error.source().and_then(|source| source.downcast_ref::<TokenError>()).unwrap();
        assert_eq!((of_source.is_denied(), of_source.retry_after()), (denied, None), "{status}");
        assert!(chain(&error).contains(hint) && !chain(&error).contains(SECRET), "{}", chain(&error));
    }
}

#[tokio::test]
async fn remote_retry_after_pauses_the_partition() {
    // The manual clock starts at 15 January 2027, 08:00 UTC.
    for (status, retry_after) in [(429, "30"), (503, "Fri, 15 Jan 2027 08:00:30 GMT"), (408, " 30 ")] {
        let has_failed = std::sync::atomic::AtomicBool::new(false);
        let backend = backend(move || match has_failed.swap(true, std::sync::atomic::Ordering::SeqCst) {
            true => response(200, good_token()),
            false => {
                let mut response = response(status, "busy");
                response.headers_mut().insert(RETRY_AFTER, retry_after.parse().unwrap());
                response
            }
        });
        let clock = ManualClock::default();
        let layer = jwt_with_clock(&clock, RemoteTokenSource::new(URL, backend.clone()).unwrap());
        let service = service(&layer, &Recorder::new());
        let ask = async |who: &str| send(&service, with_params(params("a").with_partition(who))).await;
        assert_eq!(auth_error(ask("alice").await).retry_after(), Some(secs(30)), "{retry_after}");
        clock.advance(secs(29));
        assert_eq!(auth_error(ask("alice").await).retry_after(), Some(secs(1)), "{retry_after}");
        assert_eq!(backend.count(), 1);
        assert_eq!(ask("bob").await.unwrap(), 200);
        clock.advance(secs(1));
        assert_eq!(ask("alice").await.unwrap(), 200);
    }
}

/// The manual clock stands at this time.
const NOW: u64 = 1_800_000_000;
/// The backend's `Date`. Its clock is two minutes ahead.
const DATE: (&str, &str) = ("date", "Fri, 15 Jan 2027 08:02:00 GMT");
const BACKEND_NOW: u64 = NOW + 120;

/// A source whose backend answers with this status, these headers and this body.
fn answering(status: u16, headers: &[(&'static str, &'static str)], body: String) -> RemoteTokenSource<Recorder> {
    let headers = headers.to_vec();
    let backend = backend(move || {
        let mut response = response(status, body.clone());
        for (name, value) in &headers {
            response.headers_mut().append(*name, value.parse().unwrap());
        }
        response
    });
    RemoteTokenSource::new(URL, backend).unwrap()
}

fn request_now() -> TokenRequest {
    TokenRequest::new(params("a"), ManualClock::default().now())
}

#[tokio::test]
async fn d1_remote_age_is_date_minus_iat_plus_time_in_caches() {
    for (headers, iat, age) in [
        (&[DATE][..], Some(BACKEND_NOW), Some(0)),
        (&[DATE], Some(BACKEND_NOW - 5), Some(5)),
        (&[DATE], Some(BACKEND_NOW - 500), Some(500)),
        // Its clock was set back, or `iat` is in the future.
        (&[DATE], Some(BACKEND_NOW + 7), Some(0)),
        (&[DATE, ("age", "0")], Some(BACKEND_NOW - 5), Some(5)),
        (&[DATE, ("age", "1")], Some(BACKEND_NOW - 5), Some(6)),
        (&[DATE, ("age", "30")], Some(BACKEND_NOW - 5), Some(35)),
        (&[DATE, ("age", "30")], Some(BACKEND_NOW + 7), Some(30)),
        (&[DATE, ("age", "99999999999999999999999")], Some(BACKEND_NOW), Some(1 << 31)),
        (&[DATE], None, None),
        (&[], Some(NOW - 5), None),
        (&[("date", "yesterday")], Some(NOW - 5), None),
        (&[DATE, DATE], Some(NOW - 5), None),
        (&[DATE, ("age", "soon")], Some(BACKEND_NOW - 500), None),
        (&[DATE, ("age", "1"), ("age", "1")], Some(BACKEND_NOW - 5), None),
    ] {
        let source = answering(200, headers, token(&serde_json::json!({"iat": iat, "exp": BACKEND_NOW + 60})));
        let token = source.token(request_now()).await.unwrap();
        assert_eq!(token.age(), age.map(secs), "{headers:?} {iat:?}");
    }
}

#[tokio::test]
async fn e2_remote_marks_tokens_that_were_in_a_cache() {
    for (headers, iat, cached) in [
        (&[DATE][..], Some(BACKEND_NOW), false),
        (&[DATE, ("age", "1")], Some(BACKEND_NOW - 10), false),
        (&[DATE], Some(BACKEND_NOW - 11), true),
        (&[DATE, ("age", "2")], Some(BACKEND_NOW), true),
        (&[DATE, ("age", "2")], Some(BACKEND_NOW + 7), true),
        (&[DATE, ("age", "soon")], Some(BACKEND_NOW), false),
        (&[], Some(NOW - 500), false),
        (&[DATE], None, false),
        // There is no age by the backend's clock, but the token was in a cache.
        (&[DATE, ("age", "2")], None, true),
        (&[("age", "2")], Some(NOW), true),
    ] {
        let source = answering(200, headers, token(&serde_json::json!({"iat": iat, "exp": BACKEND_NOW + 60})));
        let token = source.token(request_now()).await.unwrap();
        assert_eq!(token.is_out_of_cache(), cached, "{headers:?} {iat:?}");
    }
    // Such a token is not taken for younger than it is.
    for (iat, age) in [(NOW - 500, 500), (NOW - 1, 30), (NOW + 500, 30)] {
        let source = answering(200, &[("age", "30")], token(&serde_json::json!({"iat": iat, "exp": NOW + 60})));
        assert_eq!(source.token(request_now()).await.unwrap().age(), Some(secs(age)), "{iat}");
    }
}

#[tokio::test]
async fn g2_remote_measures_retry_after_from_the_date_of_the_response() {
    const RETRY: (&str, &str) = ("retry-after", "Fri, 15 Jan 2027 08:02:30 GMT");
    for (headers, delay) in [
        (&[DATE, RETRY][..], 30),
        (&[DATE, RETRY, ("age", "10")], 20),
        // Only the time of the request is known.
        (&[RETRY], 150),
        (&[DATE, DATE, RETRY], 150),
        (&[DATE, ("retry-after", "Fri, 15 Jan 2027 08:01:00 GMT")], 0),
        (&[DATE, ("retry-after", "7")], 7),
    ] {
        for status in [408, 429, 503] {
            let error = answering(status, headers, String::new()).token(request_now()).await.unwrap_err();
            assert_eq!(error.retry_after(), Some(secs(delay)), "{status} {headers:?}");
        }
    }
}

#[tokio::test]
async fn g2_remote_429_without_a_partition_pauses_only_the_key() {
    for (status, partition, is_other_paused) in
        [(429, None, false), (503, None, true), (429, Some("alice"), true), (503, Some("alice"), true)]
    {
        let layer = jwt(answering(status, &[("retry-after", "60")], String::new())).build().unwrap();
        let tokens = layer.token_cache().unwrap();
        let of = |image: &str| partition.into_iter().fold(params(image), AuthParams::with_partition);
        tokens.get(&of("image-1")).await.unwrap_err();
        assert_eq!(tokens.stats().fetches, 1);
        tokens.get(&of("image-1")).await.unwrap_err();
        assert_eq!(tokens.stats().fetches, 1, "{status}");
        tokens.get(&of("image-2")).await.unwrap_err();
        assert_eq!(tokens.stats().fetches, if is_other_paused { 1 } else { 2 }, "{status} {partition:?}");
    }
}

#[tokio::test]
async fn remote_broken_connection_is_transient() {
    let half = format!("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{{\"token\":\"{}", good_token());
    let gone = "HTTP/1.1 200 O".to_owned();
    for cut in [half, gone, String::new()] {
        let origin = loopback::answer_once(cut.into_bytes()).await;
        let issuer = RemoteTokenSource::new(format!("{origin}/{SECRET}"), loopback::client()).unwrap();
        let error = try_with(issuer).await.unwrap_err();
        assert_eq!((error.kind(), error.is_transient()), (AuthErrorKind::TokenSource, true));
        assert!(!chain(&error).contains(&good_token()[..40]) && !chain(&error).contains(SECRET), "{}", chain(&error));
    }
    // The service fails before it is called.
    let overloaded = tower::load_shed::LoadShed::new(tower::limit::ConcurrencyLimit::new(Recorder::new(), 0));
    let error = try_with(RemoteTokenSource::new(URL, overloaded).unwrap()).await.unwrap_err();
    assert!(error.is_transient() && chain(&error).contains("overloaded"), "{}", chain(&error));
}

#[tokio::test(start_paused = true)]
async fn remote_hanging_backend_ends_at_the_fetch_timeout() {
    let hangs = Recorder::with_response(|_| std::future::pending());
    let error = try_with(RemoteTokenSource::new(URL, hangs).unwrap()).await.unwrap_err();
    assert_eq!((error.kind(), error.is_transient()), (AuthErrorKind::FetchTimeout, true));
}

#[test]
fn remote_invalid_settings_fail_in_the_constructor() {
    let new = |url: &str| RemoteTokenSource::new(url, Recorder::new());
    for (url, hint) in [
        ("", "not a URL"),
        ("/aiuta_jwt", "not an absolute URL"),
        ("shop.example", "not an absolute URL"),
        ("https://shop example/", "not a URL"),
        ("ftp://shop.example/", "neither https nor http"),
        ("https://me:hush-hush@shop.example/", "user info"),
        ("https://shop.example:70000/", "port"),
        ("https://shop.example/#hush-hush", "fragment"),
        ("http://shop.example/hush-hush", "https"),
        ("http://127.0.0.1.shop.example/", "https"),
    ] {
        let error = new(url).unwrap_err();
        assert_eq!(error.setting(), "url");
        assert!(error.to_string().contains(hint) && !error.to_string().contains(SECRET), "{url}: {error}");
    }
    for url in ["https://shop.example", "http://localhost:5000/aiuta_jwt", "http://127.0.0.1/x", "http://[::1]:80/?y"] {
        assert!(new(url).is_ok(), "{url}");
    }
    assert!(RemoteTokenSource::danger_allow_plaintext("http://shop.example/", Recorder::new()).is_ok());
    assert!(RemoteTokenSource::danger_allow_plaintext("ftp://shop.example/", Recorder::new()).is_err());

    for (name, value) in [
        ("", "x"),
        ("a b", "x"),
        ("x-key", ""),
        ("x-key", "hush-hush\n"),
        ("Content-Length", "0"),
        ("host", "x"),
        ("X-Once", "x"),
    ] {
        let error = new(URL).unwrap().header("x-once", "x").unwrap().header(name, value).unwrap_err();
        assert!(error.setting() == "header" && !error.to_string().contains(SECRET), "{name}: {error}");
    }
    for name in ["", "a b", "content-type", "X-Once"] {
        let error = new(URL).unwrap().header("x-once", "x").unwrap().partition_header(name).unwrap_err();
        assert_eq!(error.setting(), "partition_header", "{name}");
    }
}

#[tokio::test]
async fn remote_partition_that_is_not_a_plain_header_value_is_not_sent() {
    for partition in ["", " alice", "alice ", "ali\nce", "ali\tce", "älice", "alice\u{7f}"] {
        let backend = backend(|| response(200, good_token()));
        let issuer = RemoteTokenSource::new(URL, backend.clone()).unwrap().partition_header("x-user").unwrap();
        let params = params("a").with_partition(partition);
        let error = issuer.token(TokenRequest::new(params, ManualClock::default().now())).await.unwrap_err();
        assert!(!error.is_transient() && chain(&error).contains("partition"), "{partition:?}: {}", chain(&error));
        assert_eq!(backend.count(), 0, "{partition:?}");
    }
}

#[test]
fn remote_debug_shows_no_secret() {
    let issuer =
        RemoteTokenSource::new(format!("{URL}?key={SECRET}"), ()).unwrap().header("x-api-token", SECRET).unwrap();
    let text = format!("{issuer:?} {issuer:#?}");
    assert!(text.contains(URL) && text.contains("x-api-token") && !text.contains(SECRET), "{text}");
}

/// Sends a try-on with the recorded responses of Flask and PyJWT (`tests/fixtures/make.py`).
#[tokio::test]
async fn remote_works_with_the_documented_component() {
    for (method, recorded) in [
        (Method::GET, &include_bytes!("../fixtures/backend_get.http")[..]),
        (Method::POST, &include_bytes!("../fixtures/backend_post.http")[..]),
    ] {
        let origin = loopback::answer_once(recorded.to_vec()).await;
        let issuer =
            RemoteTokenSource::new(format!("{origin}/aiuta_jwt"), loopback::client()).unwrap().method(method.clone());
        assert_eq!(start_status(issuer).await, 400, "{method}: the image is unknown, so the token was accepted");
    }
}

#[tokio::test]
async fn remote_works_with_jwt_issuer() {
    let clock = ManualClock::default();
    let signer = JwtSigner::hs256(FakeAiuta::ISSUER, FakeAiuta::SECRET).unwrap();
    let issuer = JwtIssuer::new(signer, |head, params| async move {
        assert_eq!(head.headers["x-api-token"], SECRET);
        Ok(params)
    });
    let origin = loopback::serve(issuer.clock(clock)).await;
    for method in [Method::GET, Method::POST] {
        let source = RemoteTokenSource::new(format!("{origin}/aiuta_jwt"), loopback::client()).unwrap();
        let source = source.method(method.clone()).header("x-api-token", SECRET).unwrap();
        assert_eq!(start_status(source).await, 400, "{method}: the image is unknown, so the token was accepted");
    }
}

/// Starts a try-on at `FakeAiuta` for an unknown image. The status is 400 if the token is accepted, otherwise 401.
async fn start_status(source: impl TokenSource) -> StatusCode {
    let clock = ManualClock::default();
    let aiuta = FakeAiuta::new().with_clock(clock.clone());
    let layer = AiutaAuthLayer::builder().jwt(aiuta.subscription_id(), source).clock(clock).build().unwrap();
    let request = post(SKU_IMAGES, r#"{"uploaded_image_id":"user_image-06f5948c","sku_ids":["dress-1","belt-7"]}"#);
    tower::ServiceExt::oneshot(tower::Layer::layer(&layer, aiuta), request).await.unwrap().status()
}
