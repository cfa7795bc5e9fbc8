//! The layer on hyper-util's client with TLS: lists the models, uploads an image and starts a try-on, with both
//! schemes.
//!
//! Run it with `cargo run --example hyper_client`. It needs no account: it starts `FakeAiuta` on loopback.

use bytes::Bytes;
use http::Request;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, Full};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::crypto::aws_lc_rs;
use serde_json::{Value, json};
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_aiuta_auth::testing::FakeAiuta;
use tower_aiuta_auth::{AiutaAuthLayer, AuthError, AuthErrorKind, BoxError, JwtSigner};

/// The body of an upload: a form with one file.
const UPLOAD: &str =
    "--b\r\ncontent-disposition: form-data; name=\"image_data\"; filename=\"p.jpg\"\r\n\r\na photo\r\n--b--\r\n";
const UPLOAD_TYPE: &str = "multipart/form-data; boundary=b";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    // For the real API, use AiutaAuthLayer::from_env()? and https://api.aiuta.com.
    let aiuta = FakeAiuta::new();
    let server = aiuta.serve().await?;
    let base = format!("{}/digital-try-on/v1", server.origin());
    let layer = AiutaAuthLayer::builder().api_key(aiuta.api_key()).origins([server.origin()]).build()?;

    let connector = HttpsConnectorBuilder::new()
        .with_provider_and_webpki_roots(aws_lc_rs::default_provider())?
        .https_or_http() // The layer sends credentials over http to loopback only.
        .enable_http1()
        .build();
    let http = Client::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(connector);
    let mut client = ServiceBuilder::new().layer(layer).service(http.clone());

    let models = Request::get(format!("{base}/predefined_try_on_models")).body(Full::default())?;
    let response = client.ready().await?.call(models).await?;
    let status = response.status();
    let list = response.into_body().collect().await?.to_bytes();
    println!("models     {status}, {} bytes", list.len());

    let post = |path: &str, content_type: &str, body: Full<Bytes>| {
        Request::post(format!("{base}/{path}")).header(CONTENT_TYPE, content_type).body(body)
    };
    let response = client.ready().await?.call(post("uploaded_images", UPLOAD_TYPE, UPLOAD.into())?).await?;
    println!("upload     {}", response.status());
    let image: Value = serde_json::from_slice(&response.into_body().collect().await?.to_bytes())?;

    // The Jwt scheme uses the same client with another layer. The layer reads the params of the token from the body.
    let signer = JwtSigner::hs256(aiuta.issuer(), aiuta.secret())?;
    let layer = AiutaAuthLayer::builder().jwt(aiuta.subscription_id(), signer).origins([server.origin()]).build()?;
    let mut client = ServiceBuilder::new().layer(layer).service(http);
    let order = json!({ "uploaded_image_id": image["id"], "sku_ids": ["dress-1"] }).to_string();
    let try_on = post("sku_images_operations", "application/json", order.into())?;
    println!("try-on     {}", client.ready().await?.call(try_on).await?.status());

    // Errors of the client pass through unchanged. An `AuthError` means that nothing was sent.
    let without_params = post("sku_images_operations", "application/json", "{}".into())?;
    let error = client.ready().await?.call(without_params).await.err();
    match error.as_deref().and_then(|error| error.downcast_ref::<AuthError>()) {
        Some(error) if error.kind() == AuthErrorKind::MissingParams => println!("not sent   {error}"),
        _ => return Err("a try-on without params should not have been sent".into()),
    }

    for request in aiuta.requests() {
        println!("on the wire: {} {} with {}", request.method, request.uri.path(), request.credential());
    }
    Ok(())
}
