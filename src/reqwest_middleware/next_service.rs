//! [`NextService`]: the rest of the middleware chain, as the inner service of [`AiutaAuth`](crate::AiutaAuth).

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Extensions;
use reqwest::{Body, Request, Response, Url};
use reqwest_middleware::{Error, Next, Result};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tower_service::Service;

#[cfg(feature = "reqwest-retry")]
use super::retryable::NoRetry;
use crate::request::headers::Redirected;

/// The shortest wait that is taken off a timeout: the resolution of tokio's timers. So a request that did not wait is
/// unchanged.
const MIN_WAIT: Duration = Duration::from_millis(1);

/// The following middlewares and the reqwest client. It serves one request, which may be sent twice (E2).
#[derive(Clone)]
pub(super) struct NextService<'a, 'e> {
    next: Next<'a>,
    /// The original URL. An [`http::Uri`] has no fragment and may be normalized differently.
    url: &'a Url,
    has_body: bool,
    /// When the caller sent the request. Its timeout includes the wait for a token (rule G6).
    began: Instant,
    /// The caller's extensions, so that it sees the changes of the following middlewares. It sees them even if it drops
    /// the request and reuses the extensions, as a retry after a timeout does. Only one attempt uses them at a time.
    extensions: &'a Mutex<&'e mut Extensions>,
}

impl<'a, 'e> NextService<'a, 'e> {
    pub(super) fn new(
        next: Next<'a>,
        url: &'a Url,
        has_body: bool,
        began: Instant,
        extensions: &'a Mutex<&'e mut Extensions>,
    ) -> Self {
        Self { next, url, has_body, began, extensions }
    }
}

impl<'a> Service<http::Request<Body>> for NextService<'a, '_> {
    /// The body is the whole reqwest response. Converting the response itself would lose its URL.
    type Response = http::Response<Response>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response>> + Send + 'a>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let Self { next, url, has_body, began, extensions } = self.clone();
        Box::pin(async move {
            #[cfg(feature = "reqwest-retry")]
            let no_retry = NoRetry::of(&request);
            // This conversion keeps the request's extensions, in which reqwest stores the timeout.
            let mut request = Request::try_from(request)?;
            request.url_mut().clone_from(url);
            if !has_body {
                *request.body_mut() = None;
            }
            let waited = began.elapsed();
            if let Some(timeout) = request.timeout_mut().as_mut().filter(|_| waited >= MIN_WAIT) {
                *timeout = timeout.saturating_sub(waited);
            }
            let mut extensions = extensions.lock().await;
            let response = next.run(request, &mut extensions).await?;
            #[cfg(feature = "reqwest-retry")]
            let response = NoRetry::put(no_retry, response);
            Ok(into_http_response(response, url))
        })
    }
}

/// Wraps the response to a request for `url`, so that the layer sees its head. The headers are moved, and
/// [`into_reqwest_response`] moves them back, to avoid a copy per response.
fn into_http_response(mut response: Response, url: &Url) -> http::Response<Response> {
    let (status, version) = (response.status(), response.version());
    let redirected = redirected(url, response.url());
    let headers = mem::take(response.headers_mut());
    let mut wrapped = http::Response::new(response);
    *wrapped.status_mut() = status;
    *wrapped.version_mut() = version;
    *wrapped.headers_mut() = headers;
    if let Some(redirected) = redirected {
        wrapped.extensions_mut().insert(redirected);
    }
    wrapped
}

/// reqwest's URL of a response that was converted from an [`http::Response`], for example in a middleware that responds
/// from a cache.
const NO_URL: &str = "http://no.url.provided.local/";

/// Compares the URL of a request with the URL of its response. They differ if reqwest has followed a redirect.
fn redirected(requested: &Url, responded: &Url) -> Option<Redirected> {
    if requested == responded || responded.as_str() == NO_URL {
        None
    } else if requested.origin() == responded.origin() {
        Some(Redirected::SameOrigin)
    } else {
        Some(Redirected::CrossOrigin)
    }
}

/// Reverses [`into_http_response`].
pub(super) fn into_reqwest_response(wrapped: http::Response<Response>) -> Response {
    let (head, mut response) = wrapped.into_parts();
    *response.headers_mut() = head.headers;
    response
}
