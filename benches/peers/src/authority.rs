//! The token source and the API that checks the tokens. All peers use the same one, so that they meet the same
//! behaviour.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower_aiuta_auth::{AuthParams, Clock, Jwt, JwtSigner, SystemClock, TokenRequest, TokenSource};

use crate::BoxError;

/// Settings of the token source.
#[derive(Clone, Copy)]
pub struct Behaviour {
    /// Duration of a call.
    pub delay: Duration,
    /// Lifetime of a token.
    pub lifetime: Duration,
    pub failing: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self { delay: Duration::from_millis(50), lifetime: Duration::from_secs(3600), failing: false }
    }
}

/// The token source, and the API that checks the tokens.
pub struct Authority {
    delay: Duration,
    signer: JwtSigner,
    failing: AtomicBool,
    calls: AtomicUsize,
    made: AtomicUsize,
    /// Tokens that the API accepts, with their expiry.
    good: Mutex<HashMap<String, SystemTime>>,
}

/// Returned by a source that is failing.
#[derive(Debug)]
pub struct Unavailable;

impl std::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the source is down")
    }
}

impl std::error::Error for Unavailable {}

impl Authority {
    pub fn new(behaviour: Behaviour) -> Arc<Self> {
        Arc::new(Self {
            delay: behaviour.delay,
            signer: signer().lifetime(behaviour.lifetime),
            failing: AtomicBool::new(behaviour.failing),
            calls: AtomicUsize::new(0),
            made: AtomicUsize::new(0),
            good: Mutex::default(),
        })
    }

    /// Fetches a token, as one call of the source.
    pub async fn token(&self) -> Result<Jwt, Unavailable> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(self.delay).await;
        if self.failing.load(Ordering::SeqCst) {
            return Err(Unavailable);
        }
        let params = params(self.made.fetch_add(1, Ordering::SeqCst));
        let jwt = self.signer.token(TokenRequest::new(params, now())).await.map_err(|_| Unavailable)?;
        self.good.lock().unwrap().insert(jwt.expose().to_owned(), expiry(&jwt));
        Ok(jwt)
    }

    /// Returns the number of calls of the source.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Ends the failure of the source.
    pub fn recover(&self) {
        self.failing.store(false, Ordering::SeqCst);
    }

    /// Revokes all tokens.
    pub fn revoke(&self) {
        self.good.lock().unwrap().clear();
    }

    /// Returns the API's response to this `authorization` header after a short delay. The token is checked after the
    /// delay.
    pub async fn answer(&self, authorization: Option<String>) -> StatusCode {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let good = self.good.lock().unwrap();
        let token = authorization.as_deref().and_then(|value| value.strip_prefix("Bearer "));
        match token.and_then(|token| good.get(token)) {
            Some(until) if now() < *until => StatusCode::OK,
            _ => StatusCode::UNAUTHORIZED,
        }
    }

    /// Serves the source on loopback, for peers that fetch tokens by HTTP. Returns its origin.
    pub async fn serve(self: &Arc<Self>) -> Result<String, BoxError> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let origin = format!("http://{}", listener.local_addr()?);
        let routes = Router::new().route("/oauth2", post(oauth2)).route("/exec", get(exec_credential));
        tokio::spawn(axum::serve(listener, routes.with_state(Arc::clone(self))).into_future());
        Ok(origin)
    }
}

/// Answers with a token as in OAuth 2 (RFC 6749 §5.1).
async fn oauth2(State(authority): State<Arc<Authority>>) -> Result<Json<Value>, StatusCode> {
    let jwt = authority.token().await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let left = expiry(&jwt).duration_since(now()).unwrap_or_default();
    // Rounded down to whole seconds, so that clients do not use an expired token.
    Ok(Json(json!({ "access_token": jwt.expose(), "token_type": "Bearer", "expires_in": left.as_secs() })))
}

/// Answers with a token as a Kubernetes credential plugin prints it.
async fn exec_credential(State(authority): State<Arc<Authority>>) -> Result<Json<Value>, StatusCode> {
    let jwt = authority.token().await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    Ok(Json(credential(jwt.expose(), expiry(&jwt))))
}

pub fn credential(token: &str, expiry: SystemTime) -> Value {
    let expiry = jiff::Timestamp::try_from(expiry).expect("a time of this century").to_string();
    json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": { "token": token, "expirationTimestamp": expiry },
    })
}

pub fn signer() -> JwtSigner {
    JwtSigner::hs256("65f0c0ffee65f0c0ffee65f1", "a secret of thirty-two characters")
        .expect("issuer and secret are valid")
}

/// The params of try-on number `number`.
pub fn params(number: usize) -> AuthParams {
    AuthParams::new().with("uploaded_image_id", image(number)).with("sku_ids", ["summer-dress-0417-blue", "belt-0007"])
}

pub fn image(number: usize) -> String {
    format!("user_image-06f5948c-3f0e-4b52-9c1d-{number:012x}")
}

pub fn expiry(jwt: &Jwt) -> SystemTime {
    jwt.expires_at().expect("the signer sets `exp`")
}

pub fn now() -> SystemTime {
    SystemClock.now()
}
