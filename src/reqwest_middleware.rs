//! [`AiutaAuthMiddleware`]: the layer as a middleware for `reqwest-middleware`, [`same_origin_redirects`] for reqwest,
//! and `AiutaRetryableStrategy` for `reqwest-retry`.
//!
//! The middleware wraps the rest of the chain (the following middlewares and the reqwest client) in a Tower service. It
//! then sends the request through [`AiutaAuth`](crate::AiutaAuth), just as the layer does.

mod next_service;
mod redirects;
#[cfg(feature = "reqwest-retry")]
mod retryable;

use std::future::poll_fn;
use std::io;

use http::{Extensions, Uri};
use reqwest::{Body, Request, Response};
use reqwest_middleware::{Error, Middleware, Next, Result};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use self::next_service::NextService;
pub use self::redirects::same_origin_redirects;
#[cfg(feature = "reqwest-retry")]
pub use self::retryable::AiutaRetryableStrategy;
use crate::error::{AuthError, BoxError};
use crate::layer::{AiutaAuthLayer, TimeLimit};
use crate::params::AuthParams;
use crate::request::access::{Access, NoReplay};

/// A middleware that authenticates the requests of a [`reqwest_middleware`] client. Created by
/// [`AiutaAuthLayer::into_middleware`].
///
/// It follows the same rules as [`AiutaAuth`](crate::AiutaAuth), which it uses internally. Clones share one token cache
/// with each other and with the original layer.
///
/// ```
/// use reqwest_middleware::ClientBuilder;
/// use tower_aiuta_auth::{AiutaAuthLayer, AuthParams, JwtSigner, same_origin_redirects};
/// # use tower_aiuta_auth::testing::FakeAiuta;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_aiuta_auth::BoxError> {
/// # let aiuta = FakeAiuta::new();
/// # let server = aiuta.serve().await?;
/// # let (origin, issuer, secret, id) = (server.origin(), aiuta.issuer(), aiuta.secret(), aiuta.subscription_id());
/// let layer = AiutaAuthLayer::builder().jwt(id, JwtSigner::hs256(issuer, secret)?).origins([origin]).build()?;
/// let reqwest = reqwest::Client::builder()
/// #   .no_proxy() // FakeAiuta is on loopback.
///     .redirect(same_origin_redirects())
///     .build()?;
/// let client = ClientBuilder::new(reqwest).with(layer.into_middleware()).build();
///
/// // `AuthParams`, `Access` and `NoReplay` are passed as extensions. Without `AuthParams`, the layer reads the params
/// // from the body.
/// let response = client
///     .post(format!("{origin}/digital-try-on/v1/sku_images_operations"))
///     .with_extension(AuthParams::new().with("uploaded_image_id", "user_image-06f5948c"))
///     .body(r#"{"uploaded_image_id":"user_image-06f5948c","sku_id":"dress-1"}"#)
///     .send()
///     .await?;
/// assert_ne!(response.status(), 401);
/// # Ok(())
/// # }
/// ```
///
/// # Redirects
///
/// reqwest follows redirects internally, after all middlewares, and sends `x-api-key` and `x-user-id` to other hosts.
/// Build its client with [`same_origin_redirects`] to prevent that.
///
/// A response that comes from another URL than the request never causes a replay, because the first request may have
/// been accepted. So a middleware after this one should not change the URL.
///
/// # Errors
///
/// Errors of other middlewares and of reqwest are returned unchanged. An [`AuthError`] is returned inside
/// [`Error::Middleware`]. It proves that this pass through the middleware sent nothing:
///
/// ```
/// use tower_aiuta_auth::AuthError;
///
/// fn auth_error(error: &reqwest_middleware::Error) -> Option<&AuthError> {
///     match error {
///         reqwest_middleware::Error::Middleware(error) => error.downcast_ref(),
///         reqwest_middleware::Error::Reqwest(_) => None,
///     }
/// }
/// # assert!(auth_error(&reqwest_middleware::Error::middleware(std::io::Error::other("another error"))).is_none());
/// ```
///
/// A middleware outside may wrap the error again. For example, `reqwest-retry` puts it into a `RetryError`.
///
/// # Take care of
///
/// - **Retries.** Add a retry middleware before this one (`.with(retry).with(auth)`), so that each attempt is
///   authenticated again. In the other order, all attempts carry the same token. By default, `reqwest-retry` retries
///   every request that is answered with 408, 429 or 5xx, so that a try-on may be started, and charged, twice. It does
///   not retry a request whose token could not be fetched for the moment. Use
#[cfg_attr(feature = "reqwest-retry", doc = "  [`AiutaRetryableStrategy`](crate::AiutaRetryableStrategy)")]
#[cfg_attr(not(feature = "reqwest-retry"), doc = "  `AiutaRetryableStrategy` (feature `reqwest-retry`)")]
///   in the first order to correct both. After a timeout or a lost connection, `reqwest-retry` still retries every
///   request. It also fails every request with a streaming body.
/// - **Default headers.** The reqwest client adds them after all middlewares. Never put a credential there.
/// - **Timeouts.** The timeout of a request (`RequestBuilder::timeout`) includes the wait for a token. If the timeout
///   passes before the request is sent, the error's kind is [`FetchTimeout`](crate::AuthErrorKind::FetchTimeout). The
///   timeout of the reqwest client starts when the request is sent, because a middleware can't see it. Only
///   [`fetch_timeout`](crate::AiutaAuthBuilder::fetch_timeout) limits the wait for a token then.
#[derive(Clone, Debug)]
pub struct AiutaAuthMiddleware {
    layer: AiutaAuthLayer,
}

impl AiutaAuthLayer {
    /// Converts the layer into a middleware for [`reqwest_middleware::ClientBuilder::with`].
    ///
    /// To use the [`token_cache`](Self::token_cache) later, keep a clone of the layer.
    ///
    /// ```
    /// use tower_aiuta_auth::{AiutaAuthLayer, same_origin_redirects};
    ///
    /// # fn main() -> Result<(), tower_aiuta_auth::BoxError> {
    /// let reqwest = reqwest::Client::builder().redirect(same_origin_redirects()).build()?;
    /// let client = reqwest_middleware::ClientBuilder::new(reqwest)
    ///     .with(AiutaAuthLayer::api_key("my-key")?.into_middleware())
    ///     .build();
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn into_middleware(self) -> AiutaAuthMiddleware {
        AiutaAuthMiddleware { layer: self }
    }
}

#[async_trait::async_trait]
impl Middleware for AiutaAuthMiddleware {
    async fn handle(&self, request: Request, extensions: &mut Extensions, next: Next<'_>) -> Result<Response> {
        // `http::Uri` can't represent every URL. Such a URL has no trusted origin, so the request passes unchanged.
        if Uri::try_from(request.url().as_str()).is_err() {
            return next.run(request, extensions).await;
        }
        let url = request.url().clone();
        let has_body = request.body().is_some();
        let began = Instant::now();
        let limit = request.timeout().and_then(|timeout| began.checked_add(*timeout));
        let mut request: http::Request<Body> = request.try_into()?;
        copy_layer_extensions(extensions, request.extensions_mut());
        if let Some(limit) = limit {
            request.extensions_mut().insert(TimeLimit(limit));
        }

        let extensions = Mutex::new(extensions);
        let mut service = self.layer.layer(NextService::new(next, &url, has_body, began, &extensions));
        poll_fn(|cx| service.poll_ready(cx)).await.map_err(into_error)?;
        let response = service.call(request).await.map_err(into_error)?;
        Ok(next_service::into_reqwest_response(response))
    }
}

/// Copies the extensions that the layer uses. A middleware has its own extensions, apart from those of the request.
fn copy_layer_extensions(from: &Extensions, to: &mut Extensions) {
    fn copy<T: Clone + Send + Sync + 'static>(from: &Extensions, to: &mut Extensions) {
        if let Some(value) = from.get::<T>() {
            to.insert(value.clone());
        }
    }
    copy::<AuthParams>(from, to);
    copy::<Access>(from, to);
    copy::<NoReplay>(from, to);
}

/// Unboxes an error. A boxed `Error` is returned unchanged; an [`AuthError`] can be downcast.
fn into_error(error: BoxError) -> Error {
    let error = match error.downcast::<Error>() {
        Ok(error) => return *error,
        Err(error) => error,
    };
    match error.downcast::<AuthError>() {
        Ok(error) => Error::middleware(*error),
        // `AiutaAuth` returns no other errors. If it ever does, the cause is kept.
        Err(error) => Error::middleware(io::Error::other(error)),
    }
}
