//! A custom `TokenSource`: a vault that checks who owns an image, is sometimes busy, and shares a cache of tokens
//! between the processes that use it.
//!
//! Run it with `cargo run --example custom_source`. It needs no account and no network: `FakeAiuta` answers in process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_aiuta_auth::testing::FakeAiuta;
use tower_aiuta_auth::{
    AiutaAuthLayer, AuthError, AuthParams, BoxError, Jwt, JwtSigner, TokenError, TokenRequest, TokenSource,
};

/// The body of an upload: a form with one file.
const UPLOAD: &str =
    "--b\r\ncontent-disposition: form-data; name=\"image_data\"; filename=\"p.jpg\"\r\n\r\na photo\r\n--b--\r\n";
const UPLOAD_TYPE: &str = "multipart/form-data; boundary=b";

/// Represents a remote service that keeps the issuer's secret.
struct Vault {
    signer: JwtSigner,
    /// The owner of each image.
    owners: Mutex<HashMap<String, String>>,
    /// Number of fetches that fail because the vault is busy.
    busy: AtomicU32,
    /// Tokens, and when they were stored. A real cache has a maximum size.
    cache: Mutex<HashMap<AuthParams, (Jwt, Instant)>>,
}

/// A cached token that expires within this time is not returned.
const MARGIN: Duration = Duration::from_secs(5);

impl Vault {
    /// Returns the cached token, unless it is about to expire or is the one that the layer wants to replace.
    fn cached(&self, request: &TokenRequest) -> Option<Jwt> {
        let (token, stored) = locked(&self.cache).get(request.params()).cloned()?;
        // Another process may have replaced the layer's token already.
        let is_unwanted = match request.replaces() {
            Some(replaced) => replaced.expose() == token.expose(),
            None => request.force_refresh(),
        };
        let age = token.age()? + stored.elapsed();
        let lifetime = token.expires_at()?.duration_since(token.issued_at()?).ok()?;
        // The mark makes the layer replay a request if this token has been revoked since it was stored.
        (!is_unwanted && age + MARGIN < lifetime).then(|| token.out_of_cache(age))
    }
}

impl TokenSource for Vault {
    async fn token(&self, request: TokenRequest) -> Result<Jwt, TokenError> {
        // A source must check that the user owns the image before it signs the params. The partition is the user.
        let image = request.params().get("uploaded_image_id");
        let is_owner = locked(&self.owners).iter().any(|(known, owner)| {
            image.is_some_and(|image| image == known.as_str()) && request.params().partition() == Some(owner)
        });
        if !is_owner {
            return Err(TokenError::denied("the user does not own the image"));
        }
        if let Some(token) = self.cached(&request) {
            println!("           (the vault had a cached token)");
            return Ok(token);
        }
        // Until that time, the layer does not fetch again for this partition.
        if self.busy.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            return Err(TokenError::transient("the vault is busy").with_retry_after(Duration::from_millis(50)));
        }
        println!("           (the vault signs a token: {:?})", request.reason());
        let params = request.params().clone();
        // The layer does not use a token that arrives later.
        let deadline = request.deadline().unwrap_or_else(|| Instant::now() + Duration::from_secs(10));
        let signed = tokio::time::timeout_at(deadline.into(), self.signer.token(request)).await;
        let token = signed.map_err(TokenError::transient)??;
        locked(&self.cache).insert(params, (token.clone(), Instant::now()));
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
    // Two processes that use the same vault. Each has a layer, and so a token cache.
    let layer = || AiutaAuthLayer::jwt(aiuta.subscription_id(), Arc::clone(&vault));
    let client = ServiceBuilder::new().layer(layer()?).service(aiuta.clone());
    let other = ServiceBuilder::new().layer(layer()?).service(aiuta.clone());

    let image = upload(&client).await?;
    locked(&vault.owners).insert(image.clone(), "ann".to_owned());

    let busy = auth_error(start(&client, "ann", &image).await)?;
    println!("ann        {busy}: {}", cause(&busy));
    if let (true, Some(delay)) = (busy.is_transient(), busy.retry_after()) {
        tokio::time::sleep(delay).await;
    }
    println!("ann        {}", start(&client, "ann", &image).await?.status());

    let denied = auth_error(start(&client, "bob", &image).await)?;
    println!("bob        {denied}: {}", cause(&denied));

    println!("ann        {}, in another process", start(&other, "ann", &image).await?.status());
    // Both layers replay the request with a new token. The second one takes the token that the first one has caused.
    aiuta.revoke_tokens();
    println!("ann        {}, after Aiuta revoked the token", start(&client, "ann", &image).await?.status());
    println!("ann        {}, in another process", start(&other, "ann", &image).await?.status());
    Ok(())
}

/// Uploads an image. This needs only the subscription id, so the vault is not called.
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

/// Returns the layer's error. Fails if the request succeeded or the error is another one.
fn auth_error<T>(outcome: Result<T, BoxError>) -> Result<AuthError, BoxError> {
    match outcome {
        Ok(_) => Err("the request should have failed".into()),
        Err(error) => Ok(error.downcast_ref::<AuthError>().cloned().ok_or(error)?),
    }
}

/// Returns the innermost cause: the text of the vault's error.
fn cause(error: &AuthError) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
