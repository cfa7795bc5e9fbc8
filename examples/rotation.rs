//! Replaces an API key, and an issuer's secret, while clients use them.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tower::{Layer, ServiceExt};
use tower_aiuta_auth::testing::FakeAiuta;
use tower_aiuta_auth::{AiutaAuthLayer, BoxError, JwtSigner};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // The stand-in is a Tower service too. It takes the place of an HTTP client here.
    let aiuta = FakeAiuta::new().with_api_key("new-key").with_issuer("issuer-id", "new-secret");
    aiuta.add_image("user_image-06f5948c");
    let base = "https://api.aiuta.com/digital-try-on/v1";
    let models = || Request::get(format!("{base}/predefined_try_on_models")).body(Full::<Bytes>::default());
    let body = r#"{"uploaded_image_id":"user_image-06f5948c","sku_ids":["dress-1"]}"#;
    let try_on = || Request::post(format!("{base}/sku_images_operations")).body(Full::<Bytes>::from(body));

    let layer = AiutaAuthLayer::api_key("old-key")?;
    let client = layer.layer(aiuta.clone());
    assert_eq!(client.clone().oneshot(models()?).await?.status(), 401);
    layer.set_api_key("new-key")?;
    assert_eq!(client.oneshot(models()?).await?.status(), 200);

    let signer = JwtSigner::hs256("issuer-id", "old-secret")?;
    let layer = AiutaAuthLayer::jwt(aiuta.subscription_id(), signer.clone())?;
    let client = layer.layer(aiuta.clone());
    assert_eq!(client.clone().oneshot(try_on()?).await?.status(), 401);
    signer.rotate("issuer-id", "new-secret")?;
    // Tokens that the old secret has signed are not used any more.
    layer.token_cache().ok_or("a layer with an API key has no token cache")?.clear();
    let response = client.oneshot(try_on()?).await?;
    println!("try-on: {}", response.status());
    assert_eq!(response.status(), 200);
    Ok(())
}
