//! [`Client`]: the reqwest service that a [`RemoteTokenSource`](super::RemoteTokenSource) uses if it is configured by
//! `AIUTA_TOKEN_URL`.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use reqwest::redirect::Policy;
use reqwest::{Body, Error};
use tower_service::Service;

/// A client for one URL. The URL is not part of its errors.
#[derive(Clone, Debug)]
pub(crate) struct Client(reqwest::Client);

impl Client {
    /// Creates a client for `url`.
    pub(crate) fn new(url: &str) -> Result<Self, Error> {
        // `RemoteTokenSource` rejects redirects, because they may lead to a server that must not provide tokens.
        let builder = reqwest::Client::builder().redirect(Policy::none());
        // Plaintext is allowed to this machine only (rule A2), and a proxy may be on another one.
        let encrypted = url.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:"));
        let builder = if encrypted { builder } else { builder.no_proxy() };
        builder.build().map(Self).map_err(Error::without_url)
    }
}

impl Service<Request<Full<Bytes>>> for Client {
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
