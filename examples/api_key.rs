//! Authenticates a request with an API key.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_aiuta_auth::testing::FakeAiuta;
use tower_aiuta_auth::{AiutaAuthLayer, BoxError};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // A stand-in for Aiuta's API on a loopback port. The default origin is the API itself, https://api.aiuta.com.
    let aiuta = FakeAiuta::new();
    let server = aiuta.serve().await?;
    let origin = server.origin();

    let layer = AiutaAuthLayer::builder().api_key(aiuta.api_key()).origins([origin]).build()?;
    let http = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let mut client = ServiceBuilder::new().layer(layer).service(http);

    let models = format!("{origin}/digital-try-on/v1/predefined_try_on_models");
    let response = client.ready().await?.call(Request::get(models).body(Full::default())?).await?;
    println!("models: {}", response.status());
    assert_eq!(response.status(), 200);
    Ok(())
}
