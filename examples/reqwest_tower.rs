//! A plain `reqwest::Client` as a Tower service beneath the layer: a few lines, and no further crate.
//!
//! `cargo run --example reqwest_tower` needs nothing: it starts `FakeAiuta` on loopback.
//!
//! The crate `tower-reqwest` has the same adapter, from Rust 1.92 on.

use http::header::CONTENT_TYPE;
use http::{Request, Response};
use http_body_util::BodyExt;
use reqwest::Body;
use serde_json::{Value, json};
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_aiuta_auth::testing::FakeAiuta;
use tower_aiuta_auth::{AiutaAuthLayer, BoxError, JwtSigner, same_origin_redirects};

/// An upload as a browser sends it.
const UPLOAD: &str =
    "--b\r\ncontent-disposition: form-data; name=\"image_data\"; filename=\"p.jpg\"\r\n\r\na photo\r\n--b--\r\n";
const UPLOAD_TYPE: &str = "multipart/form-data; boundary=b";

/// reqwest in the words of the `http` crate. The feature `reqwest-middleware` makes its body one that the layer can read.
fn service(
    client: reqwest::Client,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = reqwest::Error> + Clone {
    tower::service_fn(move |request: Request<Body>| {
        let client = client.clone();
        async move { Ok(client.execute(request.try_into()?).await?.into()) }
    })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    // With Aiuta: AiutaAuthLayer::jwt("subscription-id", JwtSigner::hs256("issuer", "secret")?)?
    let aiuta = FakeAiuta::new();
    let server = aiuta.serve().await?;
    let layer = AiutaAuthLayer::builder()
        .jwt(aiuta.subscription_id(), JwtSigner::hs256(aiuta.issuer(), aiuta.secret())?)
        .origins([server.origin()])
        .build()?;

    // reqwest follows redirects beneath the layer, with the API key in its hand: this keeps it at home.
    let reqwest = reqwest::Client::builder()
        .redirect(same_origin_redirects())
        .no_proxy() // FakeAiuta is on loopback.
        .build()?;
    let mut client = ServiceBuilder::new().layer(layer).service(service(reqwest));
    let base = format!("{}/digital-try-on/v1", server.origin());

    // Needs the subscription id only, and streams through.
    let upload =
        Request::post(format!("{base}/uploaded_images")).header(CONTENT_TYPE, UPLOAD_TYPE).body(UPLOAD.into())?;
    let response = client.ready().await?.call(upload).await?;
    println!("upload     {}", response.status());
    let image: Value = serde_json::from_slice(&response.into_body().collect().await?.to_bytes())?;

    // Needs a token, for what its body says.
    let order = json!({ "uploaded_image_id": image["id"], "sku_id": "dress-1" }).to_string();
    let try_on = Request::post(format!("{base}/sku_images_operations"))
        .header(CONTENT_TYPE, "application/json")
        .body(Body::from(order))?;
    let response = client.ready().await?.call(try_on).await?;
    println!("try-on     {}", response.status());

    for request in aiuta.requests() {
        println!("on the wire: {} {} with {}", request.method, request.uri.path(), request.credential());
    }
    Ok(())
}
