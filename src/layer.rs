//! [`AiutaAuthLayer`]: wraps an HTTP client in [`AiutaAuth`], the service that every request passes through. Clones of
//! a layer, and all services made by them, share one [`Config`].

mod authorize;
mod builder;
mod config;
mod env;
mod future;
mod service;
mod stats;

use std::fmt;
use std::sync::Arc;

use tower_layer::Layer;

#[cfg(feature = "reqwest-middleware")]
pub(crate) use self::authorize::TimeLimit;
pub use self::builder::AiutaAuthBuilder;
use self::config::{Config, Scheme};
pub use self::future::ResponseFuture;
pub use self::service::AiutaAuth;
pub use self::stats::AuthStats;
use crate::cache::TokenCache;
use crate::error::ConfigError;
use crate::request::credential::secret_value;

/// A [`Layer`] that authenticates requests to Aiuta's API.
///
/// Use [`api_key`](Self::api_key), [`jwt`](Self::jwt) or [`from_env`](Self::from_env) for a layer with the default
/// settings, and [`builder`](Self::builder) to change them. [`AiutaAuth`] describes how requests are authenticated.
///
/// Clones of a layer, and all services made by them, share the credential and the token cache.
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
/// let models = "https://api.aiuta.com/digital-try-on/v1/predefined_try_on_models";
/// let request = Request::get(models).body(Full::default())?;
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

    /// Replaces the API key, for this layer, its clones and all services made by them.
    ///
    /// Their next requests carry the new key. Requests in flight keep the old key, which is wiped from memory when the
    /// last of them has ended. Requests never wait for the replacement.
    ///
    /// To replace the secret that JWTs are signed with, use [`JwtSigner::rotate`](crate::JwtSigner::rotate).
    ///
    /// ```
    /// use tower_aiuta_auth::AiutaAuthLayer;
    ///
    /// let layer = AiutaAuthLayer::api_key("old-key")?;
    /// layer.set_api_key("new-key")?;
    /// # Ok::<(), tower_aiuta_auth::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`], and keeps the old key, if the new key is invalid (see [`api_key`](Self::api_key)) or
    /// if the layer authenticates with JWTs.
    pub fn set_api_key(&self, key: impl Into<String>) -> Result<(), ConfigError> {
        let new = secret_value("api_key", key.into())?;
        match &self.config.scheme {
            Scheme::ApiKey(key) => key.store(Arc::new(new)),
            Scheme::Jwt(_) => {
                return Err(ConfigError::new(
                    "api_key",
                    "this layer authenticates with JWTs; build another for an API key",
                ));
            }
        }
        Ok(())
    }

    /// Returns the trusted origins, as `https://host` or `https://host:port`. Only requests to them are authenticated.
    ///
    /// Use it to address the API without configuring its origin a second time. Scheme and host are in lower case, and
    /// the port is left out if it is the scheme's default port. The order is that of [`AiutaAuthBuilder::origins`], and
    /// there is at least one.
    ///
    /// ```
    /// use tower_aiuta_auth::AiutaAuthLayer;
    ///
    /// let layer = AiutaAuthLayer::api_key("my-key")?;
    /// let origin = layer.origins().next().expect("there is at least one");
    /// let models = format!("{origin}/digital-try-on/v1/predefined_try_on_models");
    /// assert_eq!(models, "https://api.aiuta.com/digital-try-on/v1/predefined_try_on_models");
    /// # Ok::<(), tower_aiuta_auth::ConfigError>(())
    /// ```
    pub fn origins(&self) -> impl Iterator<Item = &str> {
        self.config.origins.urls()
    }

    /// Returns the statistics of this layer, its clones and all services made by them.
    ///
    /// ```
    /// use tower_aiuta_auth::AiutaAuthLayer;
    ///
    /// let layer = AiutaAuthLayer::api_key("my-key")?;
    /// assert_eq!(layer.stats().withheld, 0);
    /// # Ok::<(), tower_aiuta_auth::ConfigError>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> AuthStats {
        let stats = self.config.counters.stats();
        match self.token_cache().map(TokenCache::stats) {
            Some(tokens) => AuthStats { rejected: tokens.rejected, replayed: tokens.replays, ..stats },
            None => stats,
        }
    }

    /// Returns the token cache, or `None` if the layer authenticates with an API key.
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
