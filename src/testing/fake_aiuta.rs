//! The handle that tests hold: how the stand-in is set up, steered and looked at.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::faults::{Fault, Hold, Script};
use super::record::Recorded;
use super::store::Store;
use crate::{Clock, SystemClock};

/// A stand-in for Aiuta's API, strict where the API is. Clones are handles to the same one.
///
/// It is a Tower service that answers in process, for any host. [`serve`](Self::serve) puts it on a port.
///
/// # Rules
///
/// 1. `x-api-key` is good for every operation, if it is the key.
/// 2. `authorization: Bearer …` is good for every operation, if the token is signed with HS256 by the issuer's secret
///    (its raw bytes), its `iss` is the issuer, `exp` is later than now, and neither `iat` nor `nbf` is. As with
///    PyJWT, those three are judged only if they are there: a token without `exp` is good for ever.
/// 3. On `POST …/sku_images_operations` and `POST …/sku_try_on_operations` the token has to be bound to the body.
///    Each claim apart from `iss`, `sub`, `aud`, `exp`, `nbf`, `iat` and `jti` must be a field of the body with the
///    same value; a list of strings may be one string, joined by `,`. There must be at least one such claim.
/// 4. `x-user-id` is good if it is the subscription id, and the official SDKs send it on that operation: uploading,
///    looking at an upload or an operation, the lists of models, the subscription's details, size and fit,
///    analytics.
/// 5. One credential a request, one value a header.
/// 6. What is refused gets 401 with an empty body; [`Recorded::refusal`] says why.
/// 7. The storage host takes no credential: it answers 400, and [`violations`](Self::violations) names the request.
///
/// Both base paths, `/digital-try-on/v1` and `/v1`, have all operations.
///
/// # Its limits
///
/// It keeps every request, body included, until [`clear_requests`](Self::clear_requests); photos and operations it
/// keeps for good. It reads the whole body before it looks at the request.
#[derive(Clone)]
pub struct FakeAiuta {
    pub(super) config: Arc<Config>,
    pub(super) shared: Arc<Shared>,
}

/// What credentials are right. Each handle has its own, so that a setter changes no other handle.
#[derive(Clone)]
pub(super) struct Config {
    pub(super) api_key: String,
    pub(super) subscription_id: String,
    pub(super) issuer: String,
    pub(super) secret: String,
    pub(super) clock: Arc<dyn Clock>,
}

/// What all handles share.
pub(super) struct Shared {
    state: Mutex<State>,
    /// How many requests have arrived at the API since the records were cleared.
    pub(super) arrived: watch::Sender<usize>,
    /// How many [`Hold`]s there are.
    pub(super) holds: watch::Sender<usize>,
}

pub(super) struct State {
    pub(super) requests: Vec<Recorded>,
    /// Counts how often the records were cleared: an answer that comes later has nowhere to go.
    pub(super) cleared: u64,
    pub(super) violations: Vec<String>,
    pub(super) faults: Script<Fault>,
    pub(super) delays: Script<Duration>,
    pub(super) accepted: HashSet<String>,
    pub(super) revoked: HashSet<String>,
    pub(super) store: Store,
}

impl FakeAiuta {
    /// The API key that is right unless [`with_api_key`](Self::with_api_key) sets another.
    pub const API_KEY: &'static str = "demo-api-key-0123456789abcdef012";
    /// The subscription id that is right unless [`with_subscription`](Self::with_subscription) sets another.
    pub const SUBSCRIPTION_ID: &'static str = "65f0c0de65f0c0de65f0c0de";
    /// The issuer id that is right unless [`with_issuer`](Self::with_issuer) sets another.
    pub const ISSUER: &'static str = "demo-issuer-0123456789abcdef0123";
    /// The issuer's secret that is right unless [`with_issuer`](Self::with_issuer) sets another.
    pub const SECRET: &'static str = "demo-secret-0123456789abcdef0123";
    /// Where images are as long as nothing is [served](Self::serve): in process, requests to this host reach the storage.
    pub const STORAGE_ORIGIN: &'static str = "http://storage.aiuta.test";

    /// A stand-in with the demo credentials and the system's clock.
    #[must_use]
    pub fn new() -> Self {
        let config = Config {
            api_key: Self::API_KEY.to_owned(),
            subscription_id: Self::SUBSCRIPTION_ID.to_owned(),
            issuer: Self::ISSUER.to_owned(),
            secret: Self::SECRET.to_owned(),
            clock: Arc::new(SystemClock),
        };
        let state = State {
            requests: Vec::new(),
            cleared: 0,
            violations: Vec::new(),
            faults: Script::default(),
            delays: Script::default(),
            accepted: HashSet::new(),
            revoked: HashSet::new(),
            store: Store::new(Self::STORAGE_ORIGIN),
        };
        let shared = Shared { state: Mutex::new(state), arrived: watch::Sender::new(0), holds: watch::Sender::new(0) };
        Self { config: Arc::new(config), shared: Arc::new(shared) }
    }

    /// Sets the right API key, for this handle and those cloned from it.
    #[must_use]
    pub fn with_api_key(mut self, key: impl Into<String>) -> Self {
        self.config_mut().api_key = key.into();
        self
    }

    /// Sets the known subscription id, for this handle and those cloned from it.
    #[must_use]
    pub fn with_subscription(mut self, id: impl Into<String>) -> Self {
        self.config_mut().subscription_id = id.into();
        self
    }

    /// Sets who issues tokens, and the secret that they are signed with, for this handle and those cloned from it.
    #[must_use]
    pub fn with_issuer(mut self, issuer: impl Into<String>, secret: impl Into<String>) -> Self {
        let config = self.config_mut();
        config.issuer = issuer.into();
        config.secret = secret.into();
        self
    }

    /// Sets the clock that tokens are judged by and that the `Date` header shows, for this handle and those cloned from it.
    ///
    /// A [`ManualClock`](super::ManualClock) other than the client's makes a client whose clock is wrong.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.config_mut().clock = Arc::new(clock);
        self
    }

    /// The right API key.
    #[must_use]
    pub fn api_key(&self) -> &str {
        &self.config.api_key
    }

    /// The known subscription id.
    #[must_use]
    pub fn subscription_id(&self) -> &str {
        &self.config.subscription_id
    }

    /// The issuer whose tokens are accepted.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.config.issuer
    }

    /// The issuer's secret.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.config.secret
    }

    /// Adds an uploaded image with this id, so that a try-on of it is answered 200 without an upload.
    ///
    /// The image is a PNG of one pixel. It replaces an image that has the same id. All handles see it.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http::{Request, header::CONTENT_TYPE};
    /// use http_body_util::Full;
    /// use tower::{Layer, ServiceExt};
    /// use tower_aiuta_auth::{AiutaAuthLayer, JwtSigner, testing::FakeAiuta};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_aiuta_auth::BoxError> {
    /// let aiuta = FakeAiuta::new();
    /// aiuta.add_image("my-image");
    ///
    /// let signer = JwtSigner::hs256(aiuta.issuer(), aiuta.secret())?;
    /// let client = AiutaAuthLayer::jwt(aiuta.subscription_id(), signer)?.layer(aiuta.clone());
    /// let request = Request::post("https://api.aiuta.com/v1/sku_try_on_operations")
    ///     .header(CONTENT_TYPE, "application/json")
    ///     .body(Full::<Bytes>::from(r#"{"uploaded_image_id":"my-image","sku_id":"dress-1"}"#))?;
    /// let response = client.oneshot(request).await?;
    /// assert_eq!(response.status(), 200);
    /// # Ok(())
    /// # }
    /// ```
    pub fn add_image(&self, id: impl Into<String>) {
        let now = self.config.clock.now();
        self.state().store.add(&id.into(), now);
    }

    /// Every request that has arrived, in order, the storage host's among them.
    #[must_use]
    pub fn requests(&self) -> Vec<Recorded> {
        self.state().requests.clone()
    }

    /// Forgets the requests, and lets [`wait_for`](Self::wait_for) count from zero.
    pub fn clear_requests(&self) {
        let mut state = self.state();
        state.requests.clear();
        state.cleared += 1;
        self.shared.arrived.send_replace(0);
    }

    /// How many operations were started: what Aiuta would charge for.
    #[must_use]
    pub fn operations_started(&self) -> usize {
        self.state().store.started()
    }

    /// The requests with which a credential reached the storage host. No secret is in the text.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    /// Refuses from now on every token that was accepted so far. Tokens are told apart by their exact text.
    pub fn revoke_tokens(&self) {
        let state = &mut *self.state();
        state.revoked.extend(state.accepted.drain());
    }

    /// Applies a fault to the next `n` requests to the API. Calls queue up: the second fault follows the first.
    pub fn fail_next(&self, n: usize, fault: Fault) {
        self.state().faults.push(n, fault);
    }

    /// Lets the next `n` requests to the API wait before they are looked at. Calls queue up. Needs tokio's timer.
    pub fn delay_next(&self, n: usize, delay: Duration) {
        self.state().delays.push(n, delay);
    }

    /// Keeps requests to the API waiting until the guard is dropped. They have arrived, and are recorded.
    pub fn hold(&self) -> Hold {
        Hold::new(&self.shared.holds)
    }

    /// Waits until `n` requests have arrived at the API, counted from the start or from
    /// [`clear_requests`](Self::clear_requests). Whether they have been answered plays no part.
    pub async fn wait_for(&self, n: usize) {
        // The sender is ours: it cannot have gone away.
        let _ = self.shared.arrived.subscribe().wait_for(|arrived| *arrived >= n).await;
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn config_mut(&mut self) -> &mut Config {
        Arc::make_mut(&mut self.config)
    }
}

impl Default for FakeAiuta {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for FakeAiuta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("FakeAiuta")
            .field("requests", &state.requests.len())
            .field("operations_started", &state.store.started())
            .field("violations", &state.violations.len())
            .finish_non_exhaustive()
    }
}
