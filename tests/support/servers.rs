//! Loopback servers for what `FakeAiuta` does not do: redirects, and hosts that are not Aiuta.

use std::future::IntoFuture;
use std::net::Ipv4Addr;

use axum::Router;
use axum::extract::Request;
use bytes::Bytes;
use http::header::LOCATION;
use http::{Response, StatusCode};
use http_body_util::Full;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tower::ServiceExt;
use tower_aiuta_auth::testing::{FakeAiuta, FakeServer};
use tower_aiuta_auth::{AiutaAuthLayer, JwtSigner};

use super::{Recorder, SentRequest};

/// A server for HTTP/1 and for HTTP/2 with prior knowledge. It runs until it is dropped.
pub struct Server {
    origin: String,
    task: JoinHandle<()>,
}

impl Server {
    /// Passes every request to `recorder`.
    pub async fn recording(recorder: &Recorder) -> Self {
        let recorder = recorder.clone();
        Self::with_router(
            Router::new().fallback(async move |request: Request| recorder.oneshot(request).await.unwrap()),
        )
        .await
    }

    /// Binds to `address`. Returns `None` if this machine does not have that address.
    pub async fn bind(address: &str, recorder: &Recorder) -> Option<Self> {
        let recorder = recorder.clone();
        let router = Router::new().fallback(async move |request: Request| recorder.oneshot(request).await.unwrap());
        Some(Self::serve(TcpListener::bind(address).await.ok()?, router))
    }

    pub async fn with_router(router: Router) -> Self {
        Self::serve(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap(), router)
    }

    fn serve(listener: TcpListener, router: Router) -> Self {
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move { axum::serve(listener, router).into_future().await.unwrap() });
        Self { origin, task }
    }

    pub fn origin(&self) -> &str {
        &self.origin
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Responds with 307 to the `location` of a request, or with 200 if that is `None`.
pub fn redirecting(location: impl Fn(&SentRequest) -> Option<String> + Send + Sync + 'static) -> Recorder {
    Recorder::with_response(move |request| {
        let mut response = Response::<Full<Bytes>>::default();
        if let Some(location) = location(&request) {
            *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
            response.headers_mut().insert(LOCATION, location.parse().unwrap());
        }
        async move { Ok(response) }
    })
}

/// Returns a layer with the API key of this `FakeAiuta`.
pub fn api_key_layer(aiuta: &FakeAiuta, server: &FakeServer) -> AiutaAuthLayer {
    AiutaAuthLayer::builder().api_key(aiuta.api_key()).origins([server.origin()]).build().unwrap()
}

/// Returns a layer that signs JWTs for this `FakeAiuta`.
pub fn jwt_layer(aiuta: &FakeAiuta, server: &FakeServer) -> AiutaAuthLayer {
    let signer = JwtSigner::hs256(aiuta.issuer(), aiuta.secret()).unwrap();
    AiutaAuthLayer::builder().jwt(aiuta.subscription_id(), signer).origins([server.origin()]).build().unwrap()
}
