//! reqwest with `AiutaAuthMiddleware`: uploads a photo and starts try-ons, with the Jwt scheme.
//!
//! Run it with `cargo run --example reqwest_middleware`. It needs no account: it starts `FakeAiuta` on loopback.

use reqwest::multipart::{Form, Part};
use reqwest_middleware::ClientBuilder;
use serde::Deserialize;
use serde_json::json;
use tower_aiuta_auth::testing::FakeAiuta;
use tower_aiuta_auth::{AiutaAuthLayer, AuthError, BoxError, JwtSigner, same_origin_redirects};

#[derive(Deserialize)]
struct Uploaded {
    id: String,
}

#[derive(Deserialize)]
struct Started {
    operation_id: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    // For the real API, use AiutaAuthLayer::jwt("subscription-id", JwtSigner::hs256("issuer", "secret")?)?.
    let aiuta = FakeAiuta::new();
    let server = aiuta.serve().await?;
    let layer = AiutaAuthLayer::builder()
        .jwt(aiuta.subscription_id(), JwtSigner::hs256(aiuta.issuer(), aiuta.secret())?)
        .origins([server.origin()])
        .build()?;

    // reqwest follows redirects after all middlewares, and sends an API key to other hosts. This policy prevents that.
    let reqwest = reqwest::Client::builder()
        .redirect(same_origin_redirects())
        .no_proxy() // FakeAiuta is on loopback.
        .build()?;
    let client = ClientBuilder::new(reqwest).with(layer.clone().into_middleware()).build();
    let url = |path: &str| format!("{}/digital-try-on/v1/{path}", server.origin());

    // The upload is streamed and never buffered. It is authenticated with the subscription id.
    let photo = Part::bytes(&include_bytes!("try_on/photo.png")[..]).file_name("photo.png").mime_str("image/png")?;
    let upload = client.post(url("uploaded_images")).multipart(Form::new().part("image_data", photo));
    let image: Uploaded = upload.send().await?.error_for_status()?.json().await?;
    println!("uploaded   {}", image.id);

    // The layer reads the params of the token from the body.
    let order = json!({ "uploaded_image_id": image.id, "sku_id": "dress-1" });
    let start = || client.post(url("sku_images_operations")).json(&order);
    let started: Started = start().send().await?.error_for_status()?.json().await?;
    println!("started    {}", started.operation_id);

    // Aiuta rejects the cached token. The layer fetches another one and sends the request again.
    aiuta.revoke_tokens();
    let started: Started = start().send().await?.error_for_status()?.json().await?;
    println!("started    {}, after the token was revoked", started.operation_id);

    // A try-on without params is not sent. The error can be downcast to `AuthError`.
    match client.post(url("sku_images_operations")).body("{}").send().await {
        Err(reqwest_middleware::Error::Middleware(error)) if error.is::<AuthError>() => println!("not sent   {error}"),
        other => return Err(format!("a try-on without params should not have been sent: {other:?}").into()),
    }

    for request in aiuta.requests() {
        println!("on the wire: {} {} with {}", request.method, request.uri.path(), request.credential());
    }
    Ok(())
}
