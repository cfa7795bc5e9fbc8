//! Rotation of API keys and signing secrets while the layer is in use.

use serde_json::json;
use tower_aiuta_auth::testing::{FakeAiuta, ManualClock};
use tower_aiuta_auth::{AiutaAuthLayer, Jwt, JwtSigner, TokenRequest, TokenSource};

use crate::support::*;

const MODELS: &str = "https://api.aiuta.com/v1/try_on_models";

#[tokio::test]
async fn rotation_of_the_api_key_reaches_every_clone() {
    let layer = AiutaAuthLayer::api_key("old-key").unwrap();
    let inner = Recorder::new();
    let (before, clone) = (service(&layer, &inner), layer.clone());
    send(&before, get(MODELS)).await.unwrap();
    clone.set_api_key("new-key").unwrap();
    for service in [before, service(&layer, &inner), service(&clone, &inner)] {
        send(&service, get(MODELS)).await.unwrap();
    }
    let keys: Vec<_> = inner.requests().iter().map(|seen| seen.header("x-api-key").to_owned()).collect();
    assert_eq!(keys, ["old-key", "new-key", "new-key", "new-key"]);
    assert!(inner.requests().iter().all(|seen| seen.headers["x-api-key"].is_sensitive()));
}

#[tokio::test]
async fn rotation_to_an_invalid_value_changes_nothing() {
    let layer = AiutaAuthLayer::api_key("old-key").unwrap();
    for bad in ["", "new\nkey"] {
        assert_eq!(layer.set_api_key(bad).unwrap_err().setting(), "api_key");
    }
    let inner = Recorder::new();
    send(&service(&layer, &inner), get(MODELS)).await.unwrap();
    assert_eq!(inner.only().header("x-api-key"), "old-key");

    let jwt = jwt(Source::new()).build().unwrap();
    assert_eq!(jwt.set_api_key("new-key").unwrap_err().setting(), "api_key");

    let signer = JwtSigner::hs256("issuer", "secret").unwrap();
    assert_eq!(signer.rotate("", "secret").unwrap_err().setting(), "issuer");
    assert_eq!(signer.rotate("issuer", "").unwrap_err().setting(), "secret");
}

async fn signed(signer: &JwtSigner) -> Jwt {
    let now = tower_aiuta_auth::Clock::now(&ManualClock::default());
    signer.token(TokenRequest::new(params("image-1"), now)).await.unwrap()
}

#[tokio::test]
async fn rotation_of_the_secret_reaches_every_clone() {
    let signer = JwtSigner::hs256("issuer-1", "secret-1").unwrap();
    let clone = signer.clone().lifetime(secs(600));
    clone.rotate("issuer-2", "secret-2").unwrap();
    let expected = JwtSigner::hs256("issuer-2", "secret-2").unwrap();
    assert_eq!(signed(&signer).await.expose(), signed(&expected).await.expose());
    // Other settings of a clone are not shared.
    let claims = (claims(signed(&signer).await.expose()), claims(signed(&clone).await.expose()));
    assert_eq!((&claims.0["iss"], &claims.1["iss"]), (&json!("issuer-2"), &json!("issuer-2")));
    assert_eq!(claims.1["exp"].as_u64().unwrap() - claims.0["exp"].as_u64().unwrap(), 540);
}

#[tokio::test]
async fn rotation_takes_effect_after_clear() {
    let clock = ManualClock::default();
    let signer = JwtSigner::hs256("issuer-1", "secret-1").unwrap();
    let aiuta = |issuer, secret| FakeAiuta::new().with_issuer(issuer, secret).with_clock(clock.clone());
    let layer = AiutaAuthLayer::builder()
        .jwt(FakeAiuta::SUBSCRIPTION_ID, signer.clone())
        .clock(clock.clone())
        .replay_unauthorized(false)
        .build()
        .unwrap();
    let send = async |aiuta: FakeAiuta| {
        let request = post(SKU_IMAGES, r#"{"uploaded_image_id":"image-1","sku_id":"dress-1"}"#);
        tower::ServiceExt::oneshot(tower::Layer::layer(&layer, aiuta), request).await.unwrap().status().as_u16()
    };
    // 400: the image is unknown, so the token was accepted.
    assert_eq!(send(aiuta("issuer-1", "secret-1")).await, 400);
    signer.rotate("issuer-2", "secret-2").unwrap();
    assert_eq!(send(aiuta("issuer-1", "secret-1")).await, 400, "the old token is still in the cache");
    layer.token_cache().unwrap().clear();
    assert_eq!(send(aiuta("issuer-2", "secret-2")).await, 400);
}

#[tokio::test]
async fn rotation_during_requests_sends_either_key() {
    let layer = AiutaAuthLayer::api_key("key-0").unwrap();
    let inner = Recorder::new();
    let service = service(&layer, &inner);
    let rotating = std::thread::spawn(move || {
        for number in 1..=1000 {
            layer.set_api_key(format!("key-{number}")).unwrap();
        }
    });
    while !rotating.is_finished() {
        send(&service, get(MODELS)).await.unwrap();
    }
    send(&service, get(MODELS)).await.unwrap();
    let numbers: Vec<u32> =
        inner.requests().iter().map(|seen| seen.header("x-api-key")["key-".len()..].parse().unwrap()).collect();
    assert!(numbers.is_sorted(), "an older key is not sent after a newer one");
    assert_eq!(numbers.last(), Some(&1000));
}
