//! [`NextService`]: what comes after the middleware, as the inner service of [`AiutaAuth`](crate::AiutaAuth).

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Extensions, StatusCode};
use reqwest::{Body, Request, Response, Url};
use reqwest_middleware::{Error, Next, Result};
use tokio::sync::Mutex;
use tower_service::Service;

use crate::request::headers::CrossOriginResponse;

/// The other middlewares and the client, for one request, which may be sent twice.
#[derive(Clone)]
pub(super) struct NextService<'a, 'e> {
    next: Next<'a>,
    /// The URL as it came. An [`http::Uri`] has no fragment, and may spell it otherwise.
    url: &'a Url,
    has_body: bool,
    /// Lent to one sending at a time. They are the caller's own, so that what a middleware below puts there can be seen above, also if the
    /// caller gives up halfway and, as a retry does, goes on with them.
    extensions: &'a Mutex<&'e mut Extensions>,
}

impl<'a, 'e> NextService<'a, 'e> {
    pub(super) fn new(next: Next<'a>, url: &'a Url, has_body: bool, extensions: &'a Mutex<&'e mut Extensions>) -> Self {
        Self { next, url, has_body, extensions }
    }
}

impl<'a> Service<http::Request<Body>> for NextService<'a, '_> {
    /// reqwest's response in the place of the body: turned into an [`http::Response`] it would lose its URL.
    type Response = http::Response<Response>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response>> + Send + 'a>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let Self { next, url, has_body, extensions } = self.clone();
        Box::pin(async move {
            // By this conversion and no other the request's own extensions come along: reqwest keeps its timeout there.
            let mut request = Request::try_from(request)?;
            request.url_mut().clone_from(url);
            if !has_body {
                *request.body_mut() = None;
            }
            let mut extensions = extensions.lock().await;
            next.run(request, &mut extensions).await.map(|response| with_its_head(response, url))
        })
    }
}

/// Shows the layer the head of a response to a request for `url`. The headers move there and [back](into_reqwest_response), since a copy would be made for every response.
fn with_its_head(mut response: Response, url: &Url) -> http::Response<Response> {
    let (status, version) = (response.status(), response.version());
    // reqwest may have followed a redirect; the layer looks at the `Date` of a 401.
    let elsewhere = status == StatusCode::UNAUTHORIZED && response.url().origin() != url.origin();
    let headers = mem::take(response.headers_mut());
    let mut wrapped = http::Response::new(response);
    *wrapped.status_mut() = status;
    *wrapped.version_mut() = version;
    *wrapped.headers_mut() = headers;
    if elsewhere {
        wrapped.extensions_mut().insert(CrossOriginResponse);
    }
    wrapped
}

/// The response as it was.
pub(super) fn into_reqwest_response(wrapped: http::Response<Response>) -> Response {
    let (head, mut response) = wrapped.into_parts();
    *response.headers_mut() = head.headers;
    response
}
