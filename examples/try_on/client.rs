//! The client: hyper-util's, below the layer, below a timeout, and a note of each credential on its way out.

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

/// For a request with everything around it: its token, and its second attempt after a 401.
const WHOLE: Duration = Duration::from_secs(60);
/// For one attempt, up to the last byte of the answer.
const ATTEMPT: Duration = Duration::from_secs(25);

/// Sends requests through the whole stack. Clones are cheap, and share the connections and the cache of tokens.
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
            .https_or_http() // The layer sees to it that credentials go over http to loopback only.
            .enable_http1()
            .build();
        let http = HyperClient::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(connector);

        let sent = Arc::new(Mutex::new(Vec::new()));
        let note = Arc::clone(&sent);
        let stack = ServiceBuilder::new()
            .layer(TimeoutLayer::new(WHOLE))
            .layer(auth.clone())
            .layer(TimeoutLayer::new(ATTEMPT))
            // Below the layer, so that this is what really leaves.
            .map_request(move |request: Request<Full<Bytes>>| {
                note.lock().unwrap_or_else(PoisonError::into_inner).push(Credential::of(request.headers()));
                request
            })
            // The body is read here, and not by the caller, so that the timeouts cover it.
            .and_then(read_whole)
            .service(http);
        // Boxed once, which also gives it a name. Unboxed it works with hyper's client; on a service whose error is boxed already it
        // can't be used in `tokio::spawn`: "implementation of `From` is not general enough", a limit of rustc (rule F5 of the design).
        let stack = BoxCloneSyncService::new(stack);

        Ok(Self { stack, origin: origin.trim_end_matches('/').into(), sent })
    }

    /// `https://host`, without a slash at its end.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, BoxError> {
        self.stack.clone().oneshot(request).await
    }

    /// Which credentials have left since this was last asked, one for each request.
    pub(crate) fn take_sent(&self) -> Vec<Credential> {
        std::mem::take(&mut *self.sent.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn read_whole<B>(response: Response<B>) -> Result<Response<Bytes>, BoxError>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let (head, body) = response.into_parts();
    let bytes = body.collect().await.map_err(Into::into)?.to_bytes();
    Ok(Response::from_parts(head, bytes))
}
