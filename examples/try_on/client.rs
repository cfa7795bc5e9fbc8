//! The HTTP client: hyper-util's client inside the layer and two timeouts. It records the credential of each request.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::rt::TokioExecutor;
use rustls::crypto::aws_lc_rs;
use tower::timeout::TimeoutLayer;
use tower::util::BoxCloneSyncService;
use tower::{ServiceBuilder, ServiceExt};
use tower_aiuta_auth::testing::Credential;
use tower_aiuta_auth::{AiutaAuthLayer, BoxError};

use crate::failure::Failure;

/// Timeout of a request, including the wait for a token and a replay after a 401.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Timeout of one attempt, including the body of the response.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(25);

/// Sends requests through the whole stack. Clones are cheap and share the connections and the token cache.
#[derive(Clone)]
pub(crate) struct Client {
    stack: BoxCloneSyncService<Request<Full<Bytes>>, Response<Bytes>, BoxError>,
    origin: Arc<str>,
    sent: Arc<Mutex<Vec<Credential>>>,
}

impl Client {
    pub(crate) fn new(auth: &AiutaAuthLayer, origin: &str) -> Result<Self, Failure> {
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(aws_lc_rs::default_provider())
            .map_err(|error| Failure::new("TLS can't be set up").because(error))?
            .https_or_http() // The layer sends credentials over http to loopback only.
            .enable_http1()
            .build();
        let http = HyperClient::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(connector);

        let sent = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&sent);
        let stack = ServiceBuilder::new()
            .layer(TimeoutLayer::new(REQUEST_TIMEOUT))
            .layer(auth.clone())
            .layer(TimeoutLayer::new(ATTEMPT_TIMEOUT))
            // Inside the layer, so that it records the credentials that are really sent.
            .map_request(move |request: Request<Full<Bytes>>| {
                record.lock().unwrap_or_else(PoisonError::into_inner).push(Credential::of(request.headers()));
                request
            })
            // The body is read here and not by the caller, so that the timeouts include it.
            .and_then(read_body)
            .service(http);
        // Boxing gives the stack a type that can be named. It also avoids a limit of rustc: on a service whose error is
        // already boxed, the unboxed stack does not compile in `tokio::spawn`, with the error "implementation of `From`
        // is not general enough".
        let stack = BoxCloneSyncService::new(stack);

        Ok(Self { stack, origin: origin.trim_end_matches('/').into(), sent })
    }

    /// Returns the origin, such as `https://host`, without a trailing slash.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, BoxError> {
        self.stack.clone().oneshot(request).await
    }

    /// Returns the credential of each request that was sent since the last call.
    pub(crate) fn take_sent(&self) -> Vec<Credential> {
        std::mem::take(&mut *self.sent.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn read_body<B>(response: Response<B>) -> Result<Response<Bytes>, BoxError>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let (head, body) = response.into_parts();
    let bytes = body.collect().await.map_err(Into::into)?.to_bytes();
    Ok(Response::from_parts(head, bytes))
}
