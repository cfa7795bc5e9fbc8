//! [`AiutaAuthLayer`]: the config, shared by every service made with it.

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
use self::config::{Config, Scheme};
pub use self::future::ResponseFuture;
pub use self::service::AiutaAuth;
use crate::cache::TokenCache;
use crate::error::ConfigError;
use crate::request::credential::secret_value;

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
    config: Arc<Config>,
}

impl AiutaAuthLayer {
    pub(crate) fn new(config: Config) -> Self {
        Self { config: Arc::new(config) }
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
        match &self.config.scheme {
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
        match &self.config.scheme {
            Scheme::ApiKey(_) => None,
            Scheme::Jwt(jwt) => Some(&jwt.token_cache),
        }
    }
}

impl<S> Layer<S> for AiutaAuthLayer {
    type Service = AiutaAuth<S>;

    fn layer(&self, inner: S) -> AiutaAuth<S> {
        AiutaAuth::new(inner, Arc::clone(&self.config))
    }
}

impl fmt::Debug for AiutaAuthLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AiutaAuthLayer").field("config", &self.config).finish()
    }
}
