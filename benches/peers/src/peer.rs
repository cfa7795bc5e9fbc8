//! The peers, one file each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, StatusCode};
use http_body_util::Full;
use tower::Service;

use crate::BoxError;
use crate::authority::{Authority, image, params, signer};

pub mod aws;
pub mod azure;
pub mod google;
pub mod kube;
pub mod ours;
pub mod tower_http;

pub const URI: &str = "https://api.aiuta.com/digital-try-on/v1/sku_images_operations";
/// Headers of every request before authentication.
pub const HEADERS: [(&str, &str); 3] =
    [("content-type", "application/json"), ("accept", "application/json"), ("user-agent", "bench/1.0")];
/// Number of requests in a timed batch. Small, so that a batch is seldom interrupted by other threads.
pub const BATCH: usize = 100;
/// Number of keys for tower-aiuta-auth.
pub const KEYS: usize = 1_000;

pub type Req = Request<Full<Bytes>>;

/// A peer in the table of warm hits.
pub struct Hit {
    pub name: &'static str,
    pub note: &'static str,
    /// Times a batch of requests without authentication, through an inner service of the same type.
    pub floor: Batch,
    pub authenticated: Batch,
}

pub type Batch = Box<dyn FnMut() -> Duration>;

/// A client with a token source. Each call sends one request and returns the status of the response.
pub type Client = Arc<dyn Fn() -> BoxFuture<'static, Result<StatusCode, BoxError>> + Send + Sync>;

pub struct Herd {
    pub name: &'static str,
    pub client: fn(Arc<Authority>) -> BoxFuture<'static, Result<Client, BoxError>>,
}

/// Builds a [`Client`] from `send`.
pub fn client<F, Fut>(send: F) -> Client
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<StatusCode, BoxError>> + Send + 'static,
{
    Arc::new(move || Box::pin(send()))
}

/// Builds a batch of requests, then times `send` on all of them.
pub fn batch<R>(mut make: impl FnMut(usize) -> R + 'static, mut send: impl FnMut(R) -> usize + 'static) -> Batch {
    let mut numbers = (0..KEYS).cycle();
    Box::new(move || {
        let requests: Vec<R> = numbers.by_ref().take(BATCH).map(&mut make).collect();
        let begin = Instant::now();
        for request in requests {
            std::hint::black_box(send(request));
        }
        begin.elapsed()
    })
}

/// The request that starts try-on number `number`, for peers that use [`http::Request`].
pub fn try_on(number: usize) -> Req {
    let request = HEADERS.iter().fold(Request::post(URI), |request, (name, value)| request.header(*name, *value));
    request.body(Full::new(body(number))).expect("a request")
}

pub fn body(number: usize) -> Bytes {
    let image = image(number);
    format!(r#"{{"uploaded_image_id":"{image}","sku_ids":["summer-dress-0417-blue","belt-0007"]}}"#).into()
}

/// A token for the peers that use one token for all requests, of the same length as ours.
pub async fn one_token() -> Result<String, BoxError> {
    use tower_aiuta_auth::{TokenRequest, TokenSource};
    let request = TokenRequest::new(params(0), crate::authority::now());
    let jwt = signer().lifetime(Duration::from_secs(3600)).token(request).await?;
    Ok(jwt.expose().to_owned())
}

/// The inner services. Both look at the headers of the request.
pub mod inner {
    use std::future::{Ready, ready};
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};

    use futures::FutureExt;
    use futures::future::BoxFuture;
    use http::header::{AUTHORIZATION, HeaderMap};
    use http::{Response, StatusCode};

    use super::{Req, Service};
    use crate::BoxError;
    use crate::authority::Authority;

    /// Answers with the number of bytes in the request's headers.
    #[derive(Clone)]
    pub struct Counting;

    impl Service<Req> for Counting {
        type Response = Response<usize>;
        type Error = BoxError;
        type Future = Ready<Result<Response<usize>, BoxError>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Req) -> Self::Future {
            ready(Ok(Response::new(bytes(request.headers()))))
        }
    }

    pub fn bytes(headers: &HeaderMap) -> usize {
        headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
    }

    /// Sends a request through a service that never has to wait.
    pub fn run<S: Service<Req, Response = Response<usize>>>(service: &mut S, request: Req) -> usize {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(service.poll_ready(&mut cx).is_ready());
        match pin!(service.call(request)).poll_unpin(&mut cx) {
            Poll::Ready(Ok(response)) => response.into_body(),
            _ => unreachable!("the service never has to wait"),
        }
    }

    /// The API, which accepts only tokens of the authority.
    #[derive(Clone)]
    pub struct Api(pub Arc<Authority>);

    impl Service<Req> for Api {
        type Response = Response<()>;
        type Error = BoxError;
        type Future = BoxFuture<'static, Result<Response<()>, BoxError>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Req) -> Self::Future {
            let authority = Arc::clone(&self.0);
            Box::pin(async move {
                let status = authority.answer(authorization(request.headers())).await;
                let mut response = Response::new(());
                *response.status_mut() = status;
                Ok(response)
            })
        }
    }

    pub fn authorization(headers: &HeaderMap) -> Option<String> {
        Some(headers.get(AUTHORIZATION)?.to_str().ok()?.to_owned())
    }

    /// Sends a request through a Tower service around [`Api`] and returns the status.
    pub async fn status<S>(service: S) -> Result<StatusCode, BoxError>
    where
        S: Service<Req, Response = Response<()>>,
        S::Error: Into<BoxError>,
    {
        let response = tower::ServiceExt::oneshot(service, super::try_on(0)).await.map_err(Into::into)?;
        Ok(response.status())
    }
}
