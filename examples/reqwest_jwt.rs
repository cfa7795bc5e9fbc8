//! Authenticates a try-on that reqwest sends.

use reqwest_middleware::ClientBuilder;
use serde_json::json;
use tower_aiuta_auth::testing::FakeAiuta;
use tower_aiuta_auth::{AiutaAuthLayer, AuthParams, BoxError, JwtSigner, same_origin_redirects};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let aiuta = FakeAiuta::new();
    aiuta.add_image("user_image-06f5948c");
    let server = aiuta.serve().await?;
    let origin = server.origin();

    let signer = JwtSigner::hs256(aiuta.issuer(), aiuta.secret())?;
    let layer = AiutaAuthLayer::builder().jwt(aiuta.subscription_id(), signer).origins([origin]).build()?;
    let reqwest = reqwest::Client::builder()
        .redirect(same_origin_redirects())
        .no_proxy() // The stand-in is on loopback.
        .build()?;
    let client = ClientBuilder::new(reqwest).with(layer.into_middleware()).build();

    // Optional: the params of the token, and the user they belong to. Without them the params are read from the body.
    let params = AuthParams::new().with("uploaded_image_id", "user_image-06f5948c").with_partition("user-7");
    let response = client
        .post(format!("{origin}/digital-try-on/v1/sku_images_operations"))
        .json(&json!({ "uploaded_image_id": "user_image-06f5948c", "sku_ids": ["dress-1"] }))
        .with_extension(params)
        .send()
        .await?;
    println!("try-on: {}", response.status());
    assert_eq!(response.status(), 200);
    Ok(())
}
