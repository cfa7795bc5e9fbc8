//! [`FakeAiuta`]: the handle with which a test configures, controls and inspects the fake API.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::faults::{Fault, Hold, Script};
use super::record::RecordedRequest;
use super::store::Store;
use crate::{Clock, SystemClock};

/// A fake of Aiuta's API, with strict checks of credentials. Clones are handles to the same fake.
///
/// It is a Tower service that answers requests to any host without a network. Use [`serve`](Self::serve) to serve it on
/// a loopback port.
///
/// The setters `with_…` affect only the handle that they return and its later clones. Everything else, such as the
/// recorded requests and the images, is shared by all handles.
///
/// # Rules
///
/// 1. `x-api-key` is accepted for every operation if it is the right API key.
/// 2. `authorization: Bearer …` is accepted for every operation if the token is signed with HS256 and the raw bytes of
///    the issuer's secret, `iss` is the issuer, `exp` is in the future, and neither `iat` nor `nbf` is in the future.
///    Like PyJWT, the fake checks `exp`, `iat` and `nbf` only if the token has them: a token without `exp` never
///    expires.
/// 3. On `POST …/sku_images_operations` and `POST …/sku_try_on_operations`, the token must also match the body. Each
///    claim except `iss`, `sub`, `aud`, `exp`, `nbf`, `iat` and `jti` must be a field of the body with the same value.
///    A list of strings may also be one string, joined by `,`. At least one such claim is required.
/// 4. `x-user-id` is accepted if it is the right subscription id and the official SDKs send it for the operation. These
///    operations are: upload an image, get an uploaded image or an operation, list the models, get the subscription's
///    details, size and fit, and analytics.
/// 5. A request carries exactly one credential, in a header with one value.
/// 6. A request with invalid credentials is answered with 401 and an empty body. [`RecordedRequest::refusal`] contains
///    the reason.
/// 7. A request to the storage host must carry no credential. If it does, it is answered with 400 and is listed by
///    [`violations`](Self::violations).
///
/// All operations exist below both base paths, `/digital-try-on/v1` and `/v1`.
///
/// # Limits
///
/// The fake keeps every request and its body until [`clear_requests`](Self::clear_requests) is called. It keeps images
/// until they are deleted, and operations for as long as it exists. It reads the whole body of a request before it
/// checks the request.
#[derive(Clone)]
pub struct FakeAiuta {
    pub(super) config: Arc<Config>,
    pub(super) shared: Arc<Shared>,
}

/// The valid credentials and the clock. Each handle has its own, so that a setter does not affect other handles.
#[derive(Clone)]
pub(super) struct Config {
    pub(super) api_key: String,
    pub(super) subscription_id: String,
    pub(super) issuer: String,
    pub(super) secret: String,
    pub(super) clock: Arc<dyn Clock>,
}

/// The state that all handles share.
pub(super) struct Shared {
    state: Mutex<State>,
    /// The number of requests that arrived at the API since the records were last cleared.
    pub(super) arrived: watch::Sender<usize>,
    /// The number of existing [`Hold`]s.
    pub(super) holds: watch::Sender<usize>,
}

pub(super) struct State {
    pub(super) requests: Vec<RecordedRequest>,
    /// Number of times the records were cleared. A response to an earlier request must not change a new record.
    pub(super) cleared: u64,
    pub(super) violations: Vec<String>,
    pub(super) faults: Script<Fault>,
    pub(super) delays: Script<Duration>,
    pub(super) accepted: HashSet<String>,
    pub(super) revoked: HashSet<String>,
    pub(super) store: Store,
}

impl FakeAiuta {
    /// The default API key; see [`with_api_key`](Self::with_api_key).
    pub const API_KEY: &'static str = "demo-api-key-0123456789abcdef012";
    /// The default subscription id; see [`with_subscription`](Self::with_subscription).
    pub const SUBSCRIPTION_ID: &'static str = "65f0c0de65f0c0de65f0c0de";
    /// The default issuer id; see [`with_issuer`](Self::with_issuer).
    pub const ISSUER: &'static str = "demo-issuer-0123456789abcdef0123";
    /// The default secret of the issuer; see [`with_issuer`](Self::with_issuer).
    pub const SECRET: &'static str = "demo-secret-0123456789abcdef0123";
    /// The origin in the URLs of images until [`serve`](Self::serve) is called. When the fake is called as a Tower
    /// service, a request to this host reaches the storage host.
    pub const STORAGE_ORIGIN: &'static str = "http://storage.aiuta.test";

    /// Creates a fake with the default credentials and the system's clock.
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

    /// Sets the API key that is accepted. Defaults to [`API_KEY`](Self::API_KEY).
    #[must_use]
    pub fn with_api_key(mut self, key: impl Into<String>) -> Self {
        self.config_mut().api_key = key.into();
        self
    }

    /// Sets the subscription id that is accepted. Defaults to [`SUBSCRIPTION_ID`](Self::SUBSCRIPTION_ID).
    #[must_use]
    pub fn with_subscription(mut self, id: impl Into<String>) -> Self {
        self.config_mut().subscription_id = id.into();
        self
    }

    /// Sets the issuer whose tokens are accepted, and its secret. Defaults to [`ISSUER`](Self::ISSUER) and
    /// [`SECRET`](Self::SECRET).
    #[must_use]
    pub fn with_issuer(mut self, issuer: impl Into<String>, secret: impl Into<String>) -> Self {
        let config = self.config_mut();
        config.issuer = issuer.into();
        config.secret = secret.into();
        self
    }

    /// Sets the clock that is used to verify tokens and to write the `Date` header. Defaults to the system's clock.
    ///
    /// To test a client with a wrong clock, give the client and the fake two [`ManualClock`](super::ManualClock)s with
    /// different times.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.config_mut().clock = Arc::new(clock);
        self
    }

    /// Returns the API key that is accepted.
    #[must_use]
    pub fn api_key(&self) -> &str {
        &self.config.api_key
    }

    /// Returns the subscription id that is accepted.
    #[must_use]
    pub fn subscription_id(&self) -> &str {
        &self.config.subscription_id
    }

    /// Returns the id of the issuer whose tokens are accepted.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.config.issuer
    }

    /// Returns the issuer's secret.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.config.secret
    }

    /// Adds an uploaded image with this id, so that a test can start a try-on without an upload.
    ///
    /// The image is a PNG of one pixel. It replaces any image with the same id.
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

    /// Returns all requests that arrived at the API and at the storage host, in order.
    #[must_use]
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.state().requests.clone()
    }

    /// Removes all recorded requests and resets the count of [`wait_for`](Self::wait_for) to zero.
    pub fn clear_requests(&self) {
        let mut state = self.state();
        state.requests.clear();
        state.cleared += 1;
        self.shared.arrived.send_replace(0);
    }

    /// Returns the number of operations that were started. Aiuta would charge for each of them.
    #[must_use]
    pub fn operations_started(&self) -> usize {
        self.state().store.started()
    }

    /// Returns a description of each request that carried a credential to the storage host, without any secret.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    /// Revokes every token that was accepted so far: later requests with one of these tokens are rejected.
    pub fn revoke_tokens(&self) {
        let state = &mut *self.state();
        state.revoked.extend(state.accepted.drain());
    }

    /// Fails the next `n` requests to the API with a fault. Several calls are queued: the second fault follows the
    /// first.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http::Request;
    /// use http_body_util::Full;
    /// use tower::ServiceExt;
    /// use tower_aiuta_auth::testing::{FakeAiuta, Fault};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_aiuta_auth::BoxError> {
    /// let aiuta = FakeAiuta::new();
    /// aiuta.fail_next(1, Fault::Unavailable);
    ///
    /// for status in [503, 200] {
    ///     let request = Request::get("https://api.aiuta.com/v1/try_on_models")
    ///         .header("x-api-key", aiuta.api_key())
    ///         .body(Full::<Bytes>::default())?;
    ///     assert_eq!(aiuta.clone().oneshot(request).await?.status(), status);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn fail_next(&self, n: usize, fault: Fault) {
        self.state().faults.push(n, fault);
    }

    /// Delays the next `n` requests to the API. Several calls are queued. Requires a tokio runtime with timers enabled.
    pub fn delay_next(&self, n: usize, delay: Duration) {
        self.state().delays.push(n, delay);
    }

    /// Keeps all requests to the API waiting until the guard is dropped. They are recorded when they arrive.
    pub fn hold(&self) -> Hold {
        Hold::new(&self.shared.holds)
    }

    /// Waits until `n` requests have arrived at the API since the start or since the last call of
    /// [`clear_requests`](Self::clear_requests). They need not be answered yet.
    pub async fn wait_for(&self, n: usize) {
        // Only fails if the sender is dropped, and `self` owns it.
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
