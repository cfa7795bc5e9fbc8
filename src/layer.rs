//! [`AiutaAuthLayer`]: the settings, shared by every service made with it.

mod authorize;
mod builder;
mod config;
mod env;
mod future;
mod service;

use std::fmt;
use std::sync::Arc;

use tower_layer::Layer;

pub use self::builder::AiutaAuthBuilder;
use self::config::{Scheme, Settings};
pub use self::future::ResponseFuture;
pub use self::service::AiutaAuth;
use crate::cache::TokenCache;
use crate::error::ConfigError;
use crate::request::credential::secret_value;
use crate::source::TokenSource;

/// The layer that authenticates requests to Aiuta's API.
///
/// Clones share the cache of tokens, and so do all services made by one layer.
///
/// ```
/// use tower::{Service, ServiceBuilder, ServiceExt};
/// use tower_aiuta_auth::{AiutaAuthLayer, BoxError};
/// # use bytes::Bytes;
/// # use http::{Request, Response};
/// # use http_body_util::Full;
///
/// # async fn example() -> Result<(), BoxError> {
/// # let http_client = tower::service_fn(|request: Request<Full<Bytes>>| async move {
/// #     assert_eq!(request.headers()["x-api-key"], "my-key");
/// #     Ok::<_, BoxError>(Response::new(()))
/// # });
/// let mut client = ServiceBuilder::new().layer(AiutaAuthLayer::api_key("my-key")?).service(http_client);
///
/// let request = Request::get("https://api.aiuta.com/digital-try-on/v1/predefined_try_on_models").body(Full::default())?;
/// let response = client.ready().await?.call(request).await?;
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(example()).unwrap();
/// ```
#[derive(Clone)]
pub struct AiutaAuthLayer {
    settings: Arc<Settings>,
}

impl AiutaAuthLayer {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings: Arc::new(settings) }
    }

    /// A layer for the ApiKey scheme, with the defaults: `x-api-key` on every request to `https://api.aiuta.com`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if the key is empty or illegal in a header.
    pub fn api_key(key: impl Into<String>) -> Result<Self, ConfigError> {
        Self::builder().api_key(key).build()
    }

    /// A layer for the Jwt scheme, with the defaults: a token from `source` on requests that start a try-on, `x-user-id` on those that
    /// need no more.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if the subscription id is empty or illegal in a header.
    pub fn jwt(subscription_id: impl Into<String>, source: impl TokenSource) -> Result<Self, ConfigError> {
        Self::builder().jwt(subscription_id, source).build()
    }

    /// A layer by the environment:
    ///
    /// | variable | meaning |
    /// |---|---|
    /// | `AIUTA_API_KEY` | the ApiKey scheme with this key |
    /// | `AIUTA_SUBSCRIPTION_ID`, `AIUTA_JWT_ISSUER`, `AIUTA_JWT_SECRET` | the Jwt scheme, tokens made by a `JwtSigner` (feature `signer`) |
    /// | `AIUTA_SUBSCRIPTION_ID`, `AIUTA_TOKEN_URL` | the Jwt scheme, tokens from your backend at this URL: a `RemoteTokenSource` (feature `remote`) over reqwest (feature `reqwest-middleware`) |
    /// | `AIUTA_ORIGIN` | instead of `https://api.aiuta.com` |
    ///
    /// The token URL is `https`, or `http` for a loopback host. It is asked by `POST`, through the system's proxy if it is `https`, and within
    /// the default [`fetch_timeout`](AiutaAuthBuilder::fetch_timeout); redirects are not followed. Requests then have to be sent
    /// on a tokio runtime. **TLS** is what the program's reqwest is built with (its feature `rustls` or `native-tls`): without any, an `https`
    /// URL fails when the first token is fetched, with "scheme is not http".
    ///
    /// There is no variable for a session by which the backend knows this program: who needs one, another method or the partition's header
    /// builds the `RemoteTokenSource` by hand and gives it to [`jwt`](Self::jwt).
    ///
    /// # Errors
    ///
    /// [`ConfigError`], naming the variables, if none is set, both schemes are, half of one, or both ways to a token; for a value that can't
    /// work, an empty one for example; and if the program was built without a feature that a variable needs.
    pub fn from_env() -> Result<Self, ConfigError> {
        crate::layer::env::builder()?.build()
    }

    /// A builder, for everything else.
    pub fn builder() -> AiutaAuthBuilder {
        AiutaAuthBuilder::new()
    }

    /// Changes the API key: every clone of the layer, and every service made by one, sends the new key from its next request on.
    ///
    /// Requests that are under way keep the old one, which is wiped when the last of them is done. No request waits for the change.
    ///
    /// ```
    /// # use tower_aiuta_auth::{AiutaAuthLayer, AuthParams, JwtSigner};
    /// // An API key.
    /// let layer = AiutaAuthLayer::api_key("old-key")?;
    /// layer.set_api_key("new-key")?;
    ///
    /// // The issuer's secret: the signer's clones share it, and tokens made with the old one are forgotten.
    /// let signer = JwtSigner::hs256("issuer-id", "old-secret")?;
    /// let layer = AiutaAuthLayer::jwt("65f0c0ffee65f0c0ffee65f0", signer.clone())?;
    /// signer.rotate("issuer-id", "new-secret")?;
    /// layer.token_cache().expect("the Jwt scheme").clear();
    /// # Ok::<(), tower_aiuta_auth::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if the key is empty or illegal in a header, or the layer has the Jwt scheme. Nothing is changed then.
    pub fn set_api_key(&self, key: impl Into<String>) -> Result<(), ConfigError> {
        let new = secret_value("api_key", key.into())?;
        match &self.settings.scheme {
            Scheme::ApiKey(key) => key.store(Arc::new(new)),
            Scheme::Jwt(_) => {
                return Err(ConfigError::new("api_key", "this layer has the Jwt scheme, which takes none"));
            }
        }
        Ok(())
    }

    /// The tokens of the Jwt scheme; `None` with an API key.
    #[must_use]
    pub fn token_cache(&self) -> Option<&TokenCache> {
        match &self.settings.scheme {
            Scheme::ApiKey(_) => None,
            Scheme::Jwt(jwt) => Some(&jwt.tokens),
        }
    }
}

impl<S> Layer<S> for AiutaAuthLayer {
    type Service = AiutaAuth<S>;

    fn layer(&self, inner: S) -> AiutaAuth<S> {
        AiutaAuth::new(inner, Arc::clone(&self.settings))
    }
}

impl fmt::Debug for AiutaAuthLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AiutaAuthLayer").field("settings", &self.settings).finish()
    }
}
