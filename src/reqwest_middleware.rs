//! [`AiutaAuthMiddleware`]: the layer for clients made with `reqwest-middleware`, and [`same_origin_redirects`] for the reqwest below.
//!
//! No rule is kept here: what comes after this middleware is dressed up as a service, and [`AiutaAuth`](crate::AiutaAuth) is put on it.

mod next_service;
mod redirects;

use std::future::poll_fn;
use std::io;

use http::{Extensions, Uri};
use reqwest::{Body, Request, Response};
use reqwest_middleware::{Error, Middleware, Next, Result};
use tokio::sync::Mutex;
use tower_layer::Layer;
use tower_service::Service;

use self::next_service::NextService;
pub use self::redirects::same_origin_redirects;
use crate::error::{AuthError, BoxError};
use crate::layer::AiutaAuthLayer;
use crate::params::AuthParams;
use crate::request::access::{Access, NoReplay};

/// Adds Aiuta's credentials to the requests of a client made with [`reqwest_middleware`]; made by
/// [`AiutaAuthLayer::into_middleware`].
///
/// It runs [`AiutaAuth`](crate::AiutaAuth) on what comes after it, so that it keeps the same rules. Clones share the cache of tokens, with each
/// other and with the layer that they were made of.
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
/// #   .no_proxy() // to a stand-in on loopback
///     .redirect(same_origin_redirects())
///     .build()?;
/// let client = ClientBuilder::new(reqwest).with(layer.into_middleware()).build();
///
/// // The body would be read for its params, as with the layer; this is how to name them instead. Also `Access` and `NoReplay` go here.
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
/// reqwest follows redirects by itself, beneath every middleware, and takes `x-api-key` and `x-user-id` along to other hosts. Build its client with
/// [`same_origin_redirects`].
///
/// # Errors
///
/// An error from below comes back as it is. An [`AuthError`] comes as [`Error::Middleware`]; nothing was sent then:
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
/// # assert!(auth_error(&reqwest_middleware::Error::middleware(std::io::Error::other("another's"))).is_none());
/// ```
///
/// A middleware outside may wrap it once more: `reqwest-retry` puts it into its `RetryError`.
///
/// # What the user takes care of
///
/// - **Retries.** Outside of this middleware (`.with(retry).with(auth)`) every attempt is authenticated anew; inside it every attempt carries the
///   same token. Either way `reqwest-retry` repeats whatever was answered with 5xx or 429: a client that starts try-ons with it may pay for one
///   twice, and it fails every request with a streaming body.
/// - **Default headers** of the reqwest client are added beneath every middleware: a credential does not belong there.
/// - **Timeouts** of reqwest, a request's own and the client's, begin when it is sent: the wait for a token has
///   [`fetch_timeout`](crate::AiutaAuthBuilder::fetch_timeout).
#[derive(Clone, Debug)]
pub struct AiutaAuthMiddleware {
    layer: AiutaAuthLayer,
}

impl AiutaAuthLayer {
    /// This layer for [`reqwest_middleware::ClientBuilder::with`].
    ///
    /// Keep a clone of the layer to get at its [`tokens`](Self::tokens) later.
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
        // A URL that HTTP has no words for goes to no trusted origin; what comes next may know what to do with it.
        if Uri::try_from(request.url().as_str()).is_err() {
            return next.run(request, extensions).await;
        }
        let url = request.url().clone();
        let has_body = request.body().is_some();
        let mut request: http::Request<Body> = request.try_into()?;
        copy_layer_extensions(extensions, request.extensions_mut());

        let extensions = Mutex::new(extensions);
        let mut service = self.layer.layer(NextService::new(next, &url, has_body, &extensions));
        poll_fn(|cx| service.poll_ready(cx)).await.map_err(into_error)?;
        let response = service.call(request).await.map_err(into_error)?;
        Ok(next_service::into_reqwest_response(response))
    }
}

/// A middleware's extensions are not the request's: the layer looks into the latter.
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

/// An error from below as it was, one of ours so that it downcasts.
fn into_error(error: BoxError) -> Error {
    let error = match error.downcast::<Error>() {
        Ok(error) => return *error,
        Err(error) => error,
    };
    match error.downcast::<AuthError>() {
        Ok(error) => Error::middleware(*error),
        // There is no third kind; should there ever be one, it is not lost.
        Err(error) => Error::middleware(io::Error::other(error)),
    }
}
