//! Authenticates a try-on with a JWT that this process signs.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_aiuta_auth::testing::FakeAiuta;
use tower_aiuta_auth::{AiutaAuthLayer, AuthParams, BoxError, JwtSigner};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let aiuta = FakeAiuta::new();
    aiuta.add_image("user_image-06f5948c");
    let server = aiuta.serve().await?;
    let origin = server.origin();

    let signer = JwtSigner::hs256(aiuta.issuer(), aiuta.secret())?.lifetime(Duration::from_secs(60));
    let layer = AiutaAuthLayer::builder().jwt(aiuta.subscription_id(), signer).origins([origin]).build()?;
    let http = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let mut client = ServiceBuilder::new().layer(layer.clone()).service(http);

    let body = r#"{"uploaded_image_id":"user_image-06f5948c","sku_ids":["dress-1"]}"#;
    let try_on = Request::post(format!("{origin}/digital-try-on/v1/sku_images_operations"))
        .header("content-type", "application/json")
        .body(Full::from(body))?;
    let response = client.ready().await?.call(try_on).await?;
    println!("try-on: {}", response.status());
    assert_eq!(response.status(), 200);

    // The token is now in the cache. Use `get` also to fetch a token before the first request needs it.
    let params = AuthParams::new().with("uploaded_image_id", "user_image-06f5948c").with("sku_ids", ["dress-1"]);
    let cache = layer.token_cache().ok_or("a layer with an API key has no token cache")?;
    cache.get(&params).await?;
    assert_eq!((cache.stats().fetches, cache.stats().hits), (1, 1));
    Ok(())
}
