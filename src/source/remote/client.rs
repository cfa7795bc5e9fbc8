//! [`RemoteClient`]: a service that sends the requests of a [`RemoteTokenSource`] with reqwest and follows no
//! redirects.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use reqwest::redirect::Policy;
use reqwest::{Body, ClientBuilder, Error};
use tower_service::Service;

use super::RemoteTokenSource;
use crate::error::ConfigError;

impl RemoteTokenSource<RemoteClient> {
    /// Creates a source that sends its requests to `url` with a reqwest client that follows no redirects.
    ///
    /// `builder` has the other settings of the client, for example a timeout or a root certificate. Its redirect policy
    /// is replaced. An `http` URL is requested without a proxy, because it is on this machine. An `https` URL needs
    /// reqwest's feature `rustls` or `native-tls`; without it, each fetch fails with an error that says so. Requests
    /// must be sent on a tokio runtime.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_aiuta_auth::{AiutaAuthLayer, RemoteTokenSource};
    ///
    /// let builder = reqwest::Client::builder().timeout(Duration::from_secs(3));
    /// let source = RemoteTokenSource::reqwest("https://shop.example/aiuta_jwt", builder)?
    ///     .header("x-api-token", "the backend's own API token")?;
    /// let layer = AiutaAuthLayer::jwt("65f0c0ffee65f0c0ffee65f0", source)?;
    /// # Ok::<(), tower_aiuta_auth::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`ConfigError`] for the URLs that [`new`](Self::new) does not accept, and if reqwest can't build the
    /// client.
    pub fn reqwest(url: impl AsRef<str>, builder: ClientBuilder) -> Result<Self, ConfigError> {
        let url = url.as_ref();
        // A redirect may lead to a server that must not provide tokens, and reqwest would take the source's headers
        // there (rule G4).
        let builder = builder.redirect(Policy::none());
        // Plaintext is allowed to this machine only (rule A2), and a proxy may be on another one.
        let encrypted = url.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:"));
        let builder = if encrypted { builder } else { builder.no_proxy() };
        let client = builder.build().map_err(|error| {
            ConfigError::new("builder", format!("the reqwest client can't be built: {}", error.without_url()))
        })?;
        Self::new(url, RemoteClient(client))
    }
}

/// The service of a [`RemoteTokenSource`] that [`RemoteTokenSource::reqwest`] has created.
///
/// The URL is not part of its errors. `Debug` shows no settings of the client, because headers and proxies may contain
/// secrets.
#[derive(Clone)]
pub struct RemoteClient(reqwest::Client);

impl Service<Request<Full<Bytes>>> for RemoteClient {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        let client = self.0.clone();
        Box::pin(async move {
            let request = request.map(Body::wrap).try_into()?;
            client.execute(request).await.map(Into::into).map_err(Error::without_url)
        })
    }
}

impl fmt::Debug for RemoteClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteClient").finish_non_exhaustive()
    }
}
