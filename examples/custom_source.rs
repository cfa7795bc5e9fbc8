//! A `TokenSource` of one's own: tokens come from a vault, which knows whose image is whose, is busy at times, and keeps a cache.
//!
//! `cargo run --example custom_source` needs nothing, not even a port: `FakeAiuta` answers in process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_aiuta_auth::testing::FakeAiuta;
use tower_aiuta_auth::{
    AiutaAuthLayer, AuthError, AuthParams, BoxError, Jwt, JwtSigner, TokenError, TokenRequest, TokenSource,
};

/// An upload as a browser sends it.
const UPLOAD: &str =
    "--b\r\ncontent-disposition: form-data; name=\"image_data\"; filename=\"p.jpg\"\r\n\r\na photo\r\n--b--\r\n";
const UPLOAD_TYPE: &str = "multipart/form-data; boundary=b";

/// Stands for a service somewhere else that holds the issuer's secret.
struct Vault {
    signer: JwtSigner,
    /// Whose image is whose.
    owners: Mutex<HashMap<String, String>>,
    /// So many calls are turned away first.
    busy: AtomicU32,
    cache: Mutex<HashMap<AuthParams, Jwt>>,
}

impl TokenSource for Vault {
    async fn token(&self, request: TokenRequest) -> Result<Jwt, TokenError> {
        // Whoever signs params has to check that they belong to the one who asks: the partition says who that is.
        let image = request.params().get("uploaded_image_id");
        let theirs = locked(&self.owners).iter().any(|(known, owner)| {
            image.is_some_and(|image| image == known.as_str()) && request.params().partition() == Some(owner)
        });
        if !theirs {
            return Err(TokenError::denied("the image is not theirs"));
        }
        // The layer does not call again before that, whoever asks.
        if self.busy.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            return Err(TokenError::transient("the vault is busy").with_retry_after(Duration::from_millis(50)));
        }
        // After a 401 a token that was made before will not do.
        let cached = locked(&self.cache).get(request.params()).cloned();
        if let Some(token) = cached.filter(|_| !request.force_refresh()) {
            println!("           (the vault had one)");
            return Ok(token);
        }
        println!("           (the vault makes a token{})", if request.force_refresh() { ", a new one" } else { "" });
        let params = request.params().clone();
        let token = self.signer.token(request).await?;
        locked(&self.cache).insert(params, token.clone());
        Ok(token)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let aiuta = FakeAiuta::new();
    let vault = Arc::new(Vault {
        signer: JwtSigner::hs256(aiuta.issuer(), aiuta.secret())?,
        owners: Mutex::default(),
        busy: AtomicU32::new(1),
        cache: Mutex::default(),
    });
    let layer = AiutaAuthLayer::jwt(aiuta.subscription_id(), Arc::clone(&vault))?;
    let client = ServiceBuilder::new().layer(layer.clone()).service(aiuta.clone());

    let image = upload(&client).await?;
    locked(&vault.owners).insert(image.clone(), "ann".to_owned());

    let busy = refused(start(&client, "ann", &image).await)?;
    println!("ann        {busy}: {}", cause(&busy));
    if let (true, Some(delay)) = (busy.is_transient(), busy.retry_after()) {
        tokio::time::sleep(delay).await;
    }
    println!("ann        {}", start(&client, "ann", &image).await?.status());

    let denied = refused(start(&client, "bob", &image).await)?;
    println!("bob        {denied}: {}", cause(&denied));

    let tokens = layer.token_cache().ok_or("the Jwt scheme has tokens")?;
    tokens.clear();
    println!("ann        {}, once the layer has forgotten", start(&client, "ann", &image).await?.status());
    aiuta.revoke_tokens();
    println!("ann        {}, once Aiuta has revoked it", start(&client, "ann", &image).await?.status());
    println!("401s that were mended: {}", tokens.stats().replays);
    Ok(())
}

/// Needs no token, and asks the vault for none.
async fn upload<S>(client: &S) -> Result<String, BoxError>
where
    S: Service<Request<Full<Bytes>>, Response = Response<Full<Bytes>>, Error = BoxError> + Clone,
{
    let request = Request::post("https://api.aiuta.com/digital-try-on/v1/uploaded_images")
        .header(CONTENT_TYPE, UPLOAD_TYPE)
        .body(UPLOAD.into())?;
    let answer = client.clone().oneshot(request).await?.into_body().collect().await?.to_bytes();
    let image: serde_json::Value = serde_json::from_slice(&answer)?;
    Ok(image["id"].as_str().ok_or("the upload failed")?.to_owned())
}

/// Starts a try-on for a user.
async fn start<S>(client: &S, user: &str, image: &str) -> Result<Response<Full<Bytes>>, BoxError>
where
    S: Service<Request<Full<Bytes>>, Response = Response<Full<Bytes>>, Error = BoxError> + Clone,
{
    let params = AuthParams::new().with("uploaded_image_id", image).with("sku_id", "dress-1");
    let request = Request::post("https://api.aiuta.com/digital-try-on/v1/sku_images_operations")
        .header(CONTENT_TYPE, "application/json")
        .extension(params.clone().with_partition(user))
        .body(Full::from(serde_json::to_vec(&params)?))?;
    client.clone().oneshot(request).await
}

/// The layer's error; anything else would be a surprise.
fn refused<T>(outcome: Result<T, BoxError>) -> Result<AuthError, BoxError> {
    match outcome {
        Ok(_) => Err("it should have been refused".into()),
        Err(error) => Ok(error.downcast_ref::<AuthError>().cloned().ok_or(error)?),
    }
}

/// What the vault said.
fn cause(error: &AuthError) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(below) = cause.source() {
        cause = below;
    }
    cause.to_string()
}
