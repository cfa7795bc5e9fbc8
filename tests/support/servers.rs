//! Servers on loopback for what `FakeAiuta` never does: they redirect, or are somebody else's.

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

use super::{Recorder, Seen};

/// A server that speaks HTTP/1 and, to a client that begins with it, HTTP/2, until it is dropped.
pub struct Server {
    origin: String,
    task: JoinHandle<()>,
}

impl Server {
    pub async fn of(recorder: &Recorder) -> Self {
        let recorder = recorder.clone();
        Self::routing(Router::new().fallback(async move |request: Request| recorder.oneshot(request).await.unwrap()))
            .await
    }

    /// At an address of this machine; `None` if it is not one.
    pub async fn at(address: &str, recorder: &Recorder) -> Option<Self> {
        let recorder = recorder.clone();
        let router = Router::new().fallback(async move |request: Request| recorder.oneshot(request).await.unwrap());
        Some(Self::on(TcpListener::bind(address).await.ok()?, router))
    }

    pub async fn routing(router: Router) -> Self {
        Self::on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap(), router)
    }

    fn on(listener: TcpListener, router: Router) -> Self {
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

/// Answers 307 to wherever `location` says, otherwise 200.
pub fn redirecting(location: impl Fn(&Seen) -> Option<String> + Send + Sync + 'static) -> Recorder {
    Recorder::with(move |seen| {
        let mut response = Response::<Full<Bytes>>::default();
        if let Some(location) = location(&seen) {
            *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
            response.headers_mut().insert(LOCATION, location.parse().unwrap());
        }
        async move { Ok(response) }
    })
}

/// The ApiKey scheme for this stand-in.
pub fn with_api_key(aiuta: &FakeAiuta, server: &FakeServer) -> AiutaAuthLayer {
    AiutaAuthLayer::builder().api_key(aiuta.api_key()).origins([server.origin()]).build().unwrap()
}

/// The Jwt scheme for this stand-in.
pub fn with_jwt(aiuta: &FakeAiuta, server: &FakeServer) -> AiutaAuthLayer {
    let signer = JwtSigner::hs256(aiuta.issuer(), aiuta.secret()).unwrap();
    AiutaAuthLayer::builder().jwt(aiuta.subscription_id(), signer).origins([server.origin()]).build().unwrap()
}
