//! [`Client`]: reqwest as the service beneath a [`RemoteTokenSource`](super::RemoteTokenSource) that only the environment has described.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use reqwest::redirect::Policy;
use reqwest::{Body, Error};
use tower_service::Service;

/// Asks at one URL, which no error of it shows.
#[derive(Clone, Debug)]
pub(crate) struct Client(reqwest::Client);

impl Client {
    /// A client for this URL.
    pub(crate) fn new(url: &str) -> Result<Self, Error> {
        // A redirect is the issuer's to judge: it may lead to where tokens must not come from.
        let builder = reqwest::Client::builder().redirect(Policy::none());
        // Whatever is not encrypted goes to this machine only (rule A2), so not by a proxy on another.
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
