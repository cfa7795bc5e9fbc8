//! The layer on a plain `reqwest::Client`, with a small adapter from reqwest to Tower.
//!
//! Run it with `cargo run --example reqwest_tower`. It needs no account: it starts `FakeAiuta` on loopback.
//!
//! The crate `tower-reqwest` contains the same adapter. It requires Rust 1.92.

use http::header::CONTENT_TYPE;
use http::{Request, Response};
use http_body_util::BodyExt;
use reqwest::Body;
use serde_json::{Value, json};
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_aiuta_auth::testing::FakeAiuta;
use tower_aiuta_auth::{AiutaAuthLayer, BoxError, JwtSigner, same_origin_redirects};

/// The body of an upload: a form with one file.
const UPLOAD: &str =
    "--b\r\ncontent-disposition: form-data; name=\"image_data\"; filename=\"p.jpg\"\r\n\r\na photo\r\n--b--\r\n";
const UPLOAD_TYPE: &str = "multipart/form-data; boundary=b";

/// Converts a reqwest client into a Tower service. The feature `reqwest-middleware` implements `RequestBody` for
/// `reqwest::Body`.
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
    // For the real API, use AiutaAuthLayer::jwt("subscription-id", JwtSigner::hs256("issuer", "secret")?)?.
    let aiuta = FakeAiuta::new();
    let server = aiuta.serve().await?;
    let layer = AiutaAuthLayer::builder()
        .jwt(aiuta.subscription_id(), JwtSigner::hs256(aiuta.issuer(), aiuta.secret())?)
        .origins([server.origin()])
        .build()?;

    // reqwest follows redirects inside the layer, and sends an API key to other hosts. This policy prevents that.
    let reqwest = reqwest::Client::builder()
        .redirect(same_origin_redirects())
        .no_proxy() // FakeAiuta is on loopback.
        .build()?;
    let mut client = ServiceBuilder::new().layer(layer).service(service(reqwest));
    let base = format!("{}/digital-try-on/v1", server.origin());

    // An upload needs only the subscription id. Its body is streamed.
    let upload =
        Request::post(format!("{base}/uploaded_images")).header(CONTENT_TYPE, UPLOAD_TYPE).body(UPLOAD.into())?;
    let response = client.ready().await?.call(upload).await?;
    println!("upload     {}", response.status());
    let image: Value = serde_json::from_slice(&response.into_body().collect().await?.to_bytes())?;

    // A try-on needs a token. The layer reads its params from the body.
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
