//! A custom `TokenSource` with a cache of its own, which several processes share: a vault that knows who owns an image.
//!
//! Run it with `cargo run --example custom_source`. It needs no account and no network: `FakeAiuta` answers in process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use tower::{ServiceBuilder, ServiceExt};
use tower_aiuta_auth::testing::FakeAiuta;
use tower_aiuta_auth::{
    AiutaAuth, AiutaAuthLayer, AuthError, AuthParams, BoxError, FetchReason, Jwt, JwtSigner, TokenError, TokenRequest,
    TokenSource,
};

/// The token of one key, and when it was stored. The lock is held while a token is signed, so that others wait for it.
type Slot = Arc<tokio::sync::Mutex<Option<(Jwt, Instant)>>>;

/// Stands for a remote service that keeps the issuer's secret.
struct Vault {
    signer: JwtSigner,
    /// The owner of each image.
    owners: HashMap<&'static str, &'static str>,
    /// The key includes the partition, so users never share a token. A real cache has a maximum size.
    cache: Mutex<HashMap<AuthParams, Slot>>,
    signed: AtomicUsize,
}

impl TokenSource for Vault {
    async fn token(&self, request: TokenRequest) -> Result<Jwt, TokenError> {
        // The layer does not check this. The partition is the user.
        let image = request.params().get("uploaded_image_id");
        let is_owner = |(known, owner): (&&str, &&str)| {
            image.is_some_and(|image| image == *known) && request.params().partition() == Some(owner)
        };
        if !self.owners.iter().any(is_owner) {
            return Err(TokenError::denied("the user does not own the image"));
        }
        // The layer does not use a token that arrives later.
        let deadline = request.deadline().unwrap_or_else(|| Instant::now() + Duration::from_secs(10));
        let token = tokio::time::timeout_at(deadline.into(), self.cached_or_signed(request));
        token.await.map_err(TokenError::transient)?
    }
}

impl Vault {
    async fn cached_or_signed(&self, request: TokenRequest) -> Result<Jwt, TokenError> {
        let slot = Arc::clone(
            self.cache.lock().unwrap_or_else(PoisonError::into_inner).entry(request.params().clone()).or_default(),
        );
        let mut slot = match (request.reason(), slot.try_lock()) {
            (_, Ok(slot)) => slot,
            // No request waits for this token: the old one is still valid. The layer asks again later.
            (FetchReason::RefreshAhead, Err(_)) => return Err(TokenError::transient("another process is at it")),
            (_, Err(_)) => slot.lock().await,
        };
        // Looked at under the lock: another process may just have stored a token.
        if let Some(token) = slot.as_ref().and_then(|(token, stored)| usable(token, *stored, &request)) {
            return Ok(token);
        }
        // The same params in the same second would yield the same token, unless the signer is forced.
        let request = if request.replaces().is_some() { request.with_force_refresh() } else { request };
        let token = self.signer.token(request).await?;
        tokio::time::sleep(Duration::from_millis(5)).await; // the way to the vault and back
        self.signed.fetch_add(1, Ordering::SeqCst);
        *slot = Some((token.clone(), Instant::now()));
        Ok(token)
    }
}

/// Returns a stored token, unless it is about to expire or is the one that the layer wants to replace.
fn usable(token: &Jwt, stored: Instant, request: &TokenRequest) -> Option<Jwt> {
    // A token other than the one to be replaced has been made by another process since, even if the fetch is forced.
    let is_unwanted = match request.replaces() {
        Some(replaced) => replaced.expose() == token.expose(),
        None => request.force_refresh(),
    };
    let age = token.age()? + stored.elapsed();
    let lifetime = token.expires_at()?.duration_since(token.issued_at()?).ok()?;
    // The mark makes the layer replay a request if this token has been revoked since it was stored.
    (!is_unwanted && age < lifetime * 3 / 4).then(|| token.clone().out_of_cache(age))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let aiuta = FakeAiuta::new();
    aiuta.add_image("ann-photo");
    let vault = Arc::new(Vault {
        signer: JwtSigner::hs256(aiuta.issuer(), aiuta.secret())?,
        owners: HashMap::from([("ann-photo", "ann")]),
        cache: Mutex::default(),
        signed: AtomicUsize::new(0),
    });
    // Each process that uses the vault has a layer, and so a token cache.
    let process = || -> Result<_, BoxError> {
        let layer = AiutaAuthLayer::jwt(aiuta.subscription_id(), Arc::clone(&vault))?;
        Ok(ServiceBuilder::new().layer(layer).service(aiuta.clone()))
    };
    let (first, second) = (process()?, process()?);
    let signed = || vault.signed.load(Ordering::SeqCst);

    let both = futures::future::try_join_all((0..10).flat_map(|_| [start(&first, "ann"), start(&second, "ann")]));
    assert_eq!((both.await?, signed()), (vec![StatusCode::OK; 20], 1));
    println!("20 requests of 2 processes: {} token signed", signed());

    let denied = start(&first, "bob").await.expect_err("the image is not bob's");
    assert!(denied.downcast_ref::<AuthError>().is_some_and(AuthError::is_denied));
    println!("a request of another user: {denied}");

    // Both layers replay their request, at the same time. The vault signs one token for both.
    aiuta.revoke_tokens();
    let both = tokio::try_join!(start(&first, "ann"), start(&second, "ann"))?;
    assert_eq!((both, signed()), ((StatusCode::OK, StatusCode::OK), 2));
    println!("2 requests after Aiuta revoked the token: {} tokens signed", signed());

    // A new process gets the stored token. It has been revoked, and the layer replays the request since it is marked.
    aiuta.revoke_tokens();
    assert_eq!((start(&process()?, "ann").await?, signed()), (StatusCode::OK, 3));
    println!("a request of a new process, after another revocation: {} tokens signed", signed());
    Ok(())
}

/// Starts a try-on with Ann's photo for a user.
async fn start(client: &AiutaAuth<FakeAiuta>, user: &str) -> Result<StatusCode, BoxError> {
    let params = AuthParams::new().with("uploaded_image_id", "ann-photo").with("sku_id", "dress-1");
    let request = Request::post("https://api.aiuta.com/digital-try-on/v1/sku_images_operations")
        .header("content-type", "application/json")
        .extension(params.clone().with_partition(user))
        .body(Full::<Bytes>::from(serde_json::to_vec(&params)?))?;
    Ok(client.clone().oneshot(request).await?.status())
}
