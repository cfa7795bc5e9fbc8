//! Rule A4: no secret, token, id or param value appears in any `Debug`, `Display`, error, event, span or panic message
//! of this crate.

use std::error::Error;
use std::fmt::Debug;
use std::panic::AssertUnwindSafe;

use bytes::Bytes;
use futures::FutureExt;
use http::Request;
use http_body_util::Full;
use tower::{Service, ServiceExt};
use tower_aiuta_auth::testing::{FakeAiuta, ManualClock};
use tower_aiuta_auth::{
    AiutaAuthLayer, AuthParams, BoxTokenSource, ConfigError, InvalidJwt, Jwt, JwtSigner, ParamValue, ResponseFuture,
    TokenError, TokenRequest, TokenSource, source_fn,
};

use crate::support::captured_events::CapturedEvents;
use crate::support::*;

/// Part of every secret, id, partition and param value in these tests. Valid base64url.
const MARKER: &str = "S3cr3tS3cr3t";
const NUMBER: i64 = 7_331_733_173_317_331;

fn key() -> AiutaAuthLayer {
    AiutaAuthLayer::api_key(format!("key-{MARKER}")).unwrap()
}

fn layer(source: impl TokenSource) -> AiutaAuthLayer {
    AiutaAuthLayer::jwt(format!("id-{MARKER}"), source).unwrap()
}

fn marked_params() -> AuthParams {
    AuthParams::new()
        .with("uploaded_image_id", MARKER)
        .with("sku_ids", [MARKER, MARKER])
        .with("number", NUMBER)
        .with_partition(MARKER)
}

/// Returns a token with the marker in each of its parts.
fn marked_token() -> String {
    format!("eyJhbGciOiJIUzI1NiIsImtpZCI6IlMzY3IzdFMzY3IzdCJ9.{}.{MARKER}", token_payload())
}

fn token_payload() -> String {
    token(&serde_json::json!({"exp": 4_102_444_800_u64, "uploaded_image_id": MARKER})).split('.').nth(1).unwrap().into()
}

fn signer() -> JwtSigner {
    JwtSigner::hs256(format!("issuer-{MARKER}"), format!("secret-{MARKER}")).unwrap()
}

fn assert_clean(text: &str) {
    // The marker, the number, and the start and the payload of a token.
    for hidden in [MARKER, "7331733173317331", "eyJ", &token_payload()[20..40]] {
        assert!(!text.contains(hidden), "{hidden} appears in: {text}");
    }
}

fn assert_debug(value: &dyn Debug) {
    let (line, block) = (format!("{value:?}"), format!("{value:#?}"));
    assert!(!line.is_empty());
    assert_clean(&line);
    assert_clean(&block);
}

/// Calls the service, and returns the response future.
async fn called(layer: &AiutaAuthLayer, request: Request<Full<Bytes>>) -> ResponseFuture<Recorder, Full<Bytes>> {
    let mut service = service(layer, &Recorder::new());
    ServiceExt::<Request<Full<Bytes>>>::ready(&mut service).await.unwrap().call(request)
}

/// Checks an error and all its causes.
fn assert_error(error: &(dyn Error + 'static)) {
    assert_debug(&error);
    assert_clean(&error.to_string());
    if let Some(cause) = error.source() {
        assert_error(cause);
    }
}

#[tokio::test]
async fn a4_debug_of_layers_services_and_builders_shows_no_secret() {
    let builder = AiutaAuthLayer::builder;
    assert_debug(&builder().api_key(MARKER));
    assert_debug(&builder().jwt(MARKER, signer()));
    assert_debug(&builder().api_key(MARKER).jwt(MARKER, signer()).origins([format!("https://u:{MARKER}@x.example")]));
    assert_debug(&key());
    assert_debug(&key().layer_over_unit());

    let signer_layer = layer(signer());
    let tokens = signer_layer.token_cache().unwrap();
    let jwt = tokens.get(&marked_params()).await.unwrap();
    assert!(jwt.expose().starts_with("eyJ"));
    assert_debug(&signer_layer);
    assert_debug(&signer_layer.layer_over_unit());
    assert_debug(tokens);
    assert_debug(&tokens.stats());
    let response = called(&signer_layer, with_params(marked_params())).await;
    assert_debug(&response);
    response.await.unwrap();
}

/// Wraps a service whose own `Debug` output is empty.
trait OverUnit {
    fn layer_over_unit(&self) -> impl Debug;
}

impl OverUnit for AiutaAuthLayer {
    fn layer_over_unit(&self) -> impl Debug {
        tower::Layer::layer(self, ())
    }
}

#[tokio::test]
async fn a4_debug_of_tokens_params_and_sources_shows_no_value() {
    assert_debug(&Jwt::parse(marked_token()).unwrap());
    assert_debug(&marked_params());
    for value in [MARKER.into(), NUMBER.into(), [MARKER].into(), ParamValue::from(true)] {
        assert_debug(&value);
        let shown = format!("{value:?}");
        assert!(!shown.contains("true"), "{shown}");
    }
    let request = TokenRequest::new(marked_params(), std::time::SystemTime::UNIX_EPOCH);
    assert_debug(&request);
    assert_debug(&request.replacing(Jwt::parse(marked_token()).unwrap()).with_force_refresh());
    assert_debug(&signer());
    assert_debug(&BoxTokenSource::new(signer()));
    let secret = MARKER.to_owned();
    assert_debug(&source_fn(move |_: TokenRequest| std::future::ready(Ok::<_, TokenError>(secret.clone()))));
}

#[tokio::test]
async fn a4_errors_and_their_causes_show_no_value() {
    let payload = token_payload();
    let header = "eyJhbGciOiJIUzI1NiJ9";
    for compact in [
        MARKER.to_owned(),
        format!("{MARKER}.{MARKER}.{MARKER}"),
        format!("{header}.{payload}.{MARKER}\n"),
        format!("{header}.{payload}."),
        format!("{header}.{MARKER}.{MARKER}"),
        format!("{MARKER}.{payload}.{MARKER}"),
        format!("{header}.{payload}.{}", MARKER.repeat(1000)),
        // {"alg":"S3cr3tS3cr3t"}, {"exp":"S3cr3tS3cr3t"}
        format!("eyJhbGciOiJTM2NyM3RTM2NyM3QifQ.{payload}.{MARKER}"),
        format!("{header}.eyJleHAiOiJTM2NyM3RTM2NyM3QifQ.{MARKER}"),
    ] {
        let error: InvalidJwt = Jwt::parse(compact.clone()).unwrap_err();
        assert_error(&error);
        assert_error(&TokenError::from(error));
        let source = source_fn(move |_| std::future::ready(Ok::<_, TokenError>(compact.clone())));
        assert_error(&layer(source).token_cache().unwrap().get(&marked_params()).await.unwrap_err());
    }

    let signer_layer = layer(signer());
    let named_like_a_claim = marked_params().with("iss", MARKER);
    assert_error(&signer_layer.token_cache().unwrap().get(&named_like_a_claim).await.unwrap_err());
    let too_large = marked_params().with("sku_id", MARKER.repeat(1000));
    assert_error(&signer_layer.token_cache().unwrap().get(&too_large).await.unwrap_err());
    for body in [
        MARKER.to_owned(),
        format!("\"{MARKER}\""),
        NUMBER.to_string(),
        format!("{{\"other\":\"{MARKER}\"}}"),
        format!("{{\"sku_id\":\"{MARKER}\",\"sku_id\":\"{MARKER}\"}}"),
        format!("{{\"sku_id\":{{\"{MARKER}\":1}}}}"),
        format!("{{\"sku_id\":\"{MARKER}\",\"{MARKER}\":tru}}"),
        format!("{{\"sku_id\":{NUMBER}.5}}"),
        MARKER.repeat(10_000),
    ] {
        assert_error(&auth_error(send(&service(&signer_layer, &Recorder::new()), post(TRY_ON, body)).await));
    }
}

#[test]
fn a4_config_errors_show_no_value() {
    let with_line_break = format!("{MARKER}\n");
    let builder = || AiutaAuthLayer::builder().api_key("key");
    let errors: Vec<ConfigError> = vec![
        AiutaAuthLayer::api_key(&with_line_break).unwrap_err(),
        AiutaAuthLayer::jwt(&with_line_break, signer()).unwrap_err(),
        JwtSigner::hs256(&with_line_break, MARKER).unwrap_err(),
        JwtSigner::hs256("", MARKER).unwrap_err(),
        AiutaAuthLayer::builder().api_key(MARKER).jwt(MARKER, signer()).build().unwrap_err(),
        builder().origins([format!("https://user:{MARKER}@api.aiuta.com")]).build().unwrap_err(),
        builder().origins([format!("https://api.aiuta.com/?token={MARKER}")]).build().unwrap_err(),
        builder().origins([format!("https://{MARKER} ")]).build().unwrap_err(),
        builder().base_path(MARKER).build().unwrap_err(),
    ];
    for error in errors {
        assert_error(&error);
    }
}

#[tokio::test]
async fn a4_debug_of_fake_aiuta_shows_no_secret() {
    let aiuta = FakeAiuta::new()
        .with_api_key(MARKER)
        .with_subscription(MARKER)
        .with_issuer(format!("issuer-{MARKER}"), format!("secret-{MARKER}"));
    assert_debug(&aiuta);
    let signer_layer = layer(signer());
    let client = tower::Layer::layer(&signer_layer, aiuta.clone());
    client.clone().oneshot(with_params(marked_params())).await.unwrap();
    client.clone().oneshot(get(&format!("https://api.aiuta.com/v1/uploaded_images/1?{MARKER}"))).await.unwrap();
    for name in ["authorization", "x-api-key", "x-user-id"] {
        for value in [MARKER.to_owned(), format!("Bearer {}", marked_token())] {
            for host in ["https://elsewhere.example/v1/sku_try_on_operations", FakeAiuta::STORAGE_ORIGIN] {
                let mut request = post(host, MARKER);
                request.headers_mut().insert(name, value.parse().unwrap());
                aiuta.clone().oneshot(request).await.unwrap();
            }
        }
    }
    assert!(!aiuta.requests().is_empty() && !aiuta.violations().is_empty());
    assert_debug(&aiuta);
    assert_debug(&aiuta.requests());
    assert_debug(&aiuta.violations());
    aiuta.requests().into_iter().filter_map(|recorded| recorded.refusal).for_each(|refusal| assert_clean(&refusal));
}

#[tokio::test]
async fn a4_credential_headers_are_sensitive_also_in_a_replay() {
    let (rejected, source) = (RejectedTokens::default(), Source::new());
    let inner = Recorder::rejecting(&rejected);
    let source_layer = layer(source);
    let sender = service(&source_layer, &inner);
    send(&sender, try_on("image-1")).await.unwrap();
    rejected.add(inner.last().token());
    send(&sender, try_on("image-1")).await.unwrap();
    assert_eq!(inner.count(), 3, "two requests and one replay");

    let others = Recorder::new();
    send(&service(&source_layer, &others), get("https://api.aiuta.com/v1/try_on_models")).await.unwrap();
    send(&service(&key(), &others), try_on("image-1")).await.unwrap();
    for seen in inner.requests().into_iter().chain(others.requests()) {
        let name = seen.credentials()[0];
        assert!(seen.headers[name].is_sensitive(), "{name}");
        assert_debug(&seen.headers);
    }
}

#[tokio::test]
async fn a4_events_and_spans_show_no_value() {
    let events = CapturedEvents::start();
    let (clock, rejected) = (ManualClock::default(), RejectedTokens::default());
    // The second call is a refresh and fails. The third call panics.
    let source = Source::from_fn(|number, request| async move {
        match number {
            2 => Err(TokenError::transient(MARKER)),
            3 => panic!("{MARKER}"),
            _ => Ok(numbered_token(number, &request, secs(60))),
        }
    });
    let inner = Recorder::rejecting(&rejected);
    let source_layer = jwt(source).clock(clock.clone()).build().unwrap();
    let (elsewhere, service) = (service(&source_layer, &Recorder::new()), service(&source_layer, &inner));
    let request = || with_params(marked_params());
    send(&service, request()).await.unwrap(); // a miss
    send(&service, request()).await.unwrap(); // a hit
    clock.advance(secs(53));
    send(&service, request()).await.unwrap(); // a refresh that fails
    clock.advance(secs(60));
    let panicked = send(&service, request()).await.unwrap_err();
    assert_error(&*panicked);
    send(&service, request()).await.unwrap(); // a miss
    rejected.add(inner.last().token());
    send(&service, request()).await.unwrap(); // a replay
    let mut untrusted = post(&format!("https://u:{MARKER}@storage.example/{MARKER}?token={MARKER}"), MARKER);
    untrusted.headers_mut().insert("authorization", format!("Bearer {}", marked_token()).parse().unwrap());
    send(&elsewhere, untrusted).await.unwrap();
    send(&service, post(TRY_ON, MARKER)).await.unwrap_err(); // a body that is not JSON

    let captured = events.take();
    for expected in ["token_fetch", "refresh failed", "replayed", "withheld", "storage.example", "outcome"] {
        assert!(captured.contains(expected), "{expected} is missing in {captured}");
    }
    assert_clean(&captured);
}

#[tokio::test]
async fn a4_panic_messages_show_no_value() {
    let signer_layer = layer(signer());
    for request in [post(TRY_ON, MARKER), with_params(marked_params().with("iss", MARKER))] {
        let mut response = AssertUnwindSafe(called(&signer_layer, request).await);
        (&mut response).await.unwrap_err();
        let panic = response.catch_unwind().await.expect_err("polled after it was ready");
        let message = *panic.downcast::<&str>().unwrap();
        assert!(message.contains("ResponseFuture"), "ours: {message}");
        assert_clean(message);
    }
}
