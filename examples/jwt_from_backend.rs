//! Authenticates a try-on with a JWT that a backend signs.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tower::timeout::TimeoutLayer;
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_aiuta_auth::testing::FakeAiuta;
use tower_aiuta_auth::{AiutaAuthLayer, BoxError, JwtIssuer, JwtSigner, RemoteTokenSource};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let aiuta = FakeAiuta::new();
    aiuta.add_image("user_image-06f5948c");
    let server = aiuta.serve().await?;
    let origin = server.origin();

    // A stand-in for the backend, which has the issuer's secret.
    let issuer = JwtIssuer::danger_allow_all(JwtSigner::hs256(aiuta.issuer(), aiuta.secret())?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/aiuta_jwt", listener.local_addr()?);
    let backend = axum::Router::new().route_service("/aiuta_jwt", issuer);
    tokio::spawn(axum::serve(listener, backend).into_future());

    // This process has no secret: it asks the backend for each token.
    let http = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let to_backend = ServiceBuilder::new().layer(TimeoutLayer::new(Duration::from_secs(3))).service(http.clone());
    let source = RemoteTokenSource::new(url, to_backend)?
        .header("x-session", "how the backend knows this process")?
        .partition_header("x-user")?;
    let layer = AiutaAuthLayer::builder().jwt(aiuta.subscription_id(), source).origins([origin]).build()?;
    let mut client = ServiceBuilder::new().layer(layer).service(http);

    let body = r#"{"uploaded_image_id":"user_image-06f5948c","sku_ids":["dress-1"]}"#;
    let try_on = Request::post(format!("{origin}/digital-try-on/v1/sku_images_operations"))
        .header("content-type", "application/json")
        .body(Full::from(body))?;
    let response = client.ready().await?.call(try_on).await?;
    println!("try-on: {}", response.status());
    assert_eq!(response.status(), 200);
    Ok(())
}
