//! Requests tokens from a backend with a session, and logs in again when the session has ended.
//!
//! A session is a concern of the connection to the backend, not of the token source. So it is a Tower service between
//! [`RemoteTokenSource`] and the HTTP client.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::post;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tower::Service;
use tower_aiuta_auth::testing::FakeAiuta;
use tower_aiuta_auth::{AiutaAuthLayer, AuthParams, BoxError, JwtIssuer, JwtSigner, RemoteTokenSource};

type Http = Client<HttpConnector, Full<Bytes>>;

/// Adds the session to each request. Logs in if there is no session, or if the backend answers 401 to it.
#[derive(Clone)]
struct WithSession {
    http: Http,
    login_url: String,
    /// All clones share the session. The lock is held during a login, so that only one request logs in.
    session: Arc<Mutex<Option<HeaderValue>>>,
}

impl WithSession {
    /// Returns the session. Logs in if there is none, or if it is still the `ended` one.
    async fn session(&self, ended: Option<&HeaderValue>) -> Result<HeaderValue, BoxError> {
        let mut session = self.session.lock().await;
        if let Some(current) = session.as_ref().filter(|current| Some(*current) != ended) {
            return Ok(current.clone());
        }
        let login = Request::post(&self.login_url).header("x-api-token", "the program's own secret");
        let response = self.http.request(login.body(Full::default())?).await?;
        let new = HeaderValue::from_maybe_shared(response.into_body().collect().await?.to_bytes())?;
        Ok(session.insert(new).clone())
    }

    async fn send(self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, BoxError> {
        let send = async |session: &HeaderValue| {
            let mut request = request.clone();
            request.headers_mut().insert("x-session", session.clone());
            self.http.request(request).await
        };
        let session = self.session(None).await?;
        let response = send(&session).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        Ok(send(&self.session(Some(&session)).await?).await?)
    }
}

impl Service<Request<Full<Bytes>>> for WithSession {
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // hyper's client is always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        Box::pin(self.clone().send(request))
    }
}

/// A stand-in for the backend. Its sessions are numbers, and only the last one is valid.
fn backend(logins: Arc<AtomicUsize>) -> Result<Router, BoxError> {
    let issuer = JwtIssuer::danger_allow_all(JwtSigner::hs256(FakeAiuta::ISSUER, FakeAiuta::SECRET)?);
    let count = Arc::clone(&logins);
    let login = move |headers: HeaderMap| async move {
        match headers.get("x-api-token") {
            Some(token) if token == "the program's own secret" => {
                Ok((count.fetch_add(1, Ordering::SeqCst) + 1).to_string())
            }
            _ => Err(StatusCode::UNAUTHORIZED),
        }
    };
    let check = axum::middleware::from_fn(move |request: axum::extract::Request, next: axum::middleware::Next| {
        let valid = logins.load(Ordering::SeqCst).to_string();
        async move {
            match request.headers().get("x-session") {
                Some(session) if *session == valid => Ok(next.run(request).await),
                _ => Err(StatusCode::UNAUTHORIZED),
            }
        }
    });
    Ok(Router::new().route_service("/aiuta_jwt", issuer).layer(check).route("/login", post(login)))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let logins = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let origin = format!("http://{}", listener.local_addr()?);
    tokio::spawn(axum::serve(listener, backend(Arc::clone(&logins))?).into_future());

    let http = Client::builder(TokioExecutor::new()).build_http();
    let login_url = format!("{origin}/login");
    let to_backend = WithSession { http, login_url, session: Arc::default() };
    let source = RemoteTokenSource::new(format!("{origin}/aiuta_jwt"), to_backend)?;
    let layer = AiutaAuthLayer::jwt(FakeAiuta::SUBSCRIPTION_ID, source)?;
    let tokens = layer.token_cache().ok_or("a layer with JWTs has a token cache")?;

    let of = |image: &str| AuthParams::new().with("uploaded_image_id", image);
    tokens.get(&of("image-1")).await?;
    println!("first token: {} login", logins.load(Ordering::SeqCst));
    // The backend ends the session, for example because it was restarted.
    logins.fetch_add(1, Ordering::SeqCst);
    // Ten fetches find the session ended. One of them logs in.
    let keys: Vec<_> = (2..12).map(|number| of(&format!("image-{number}"))).collect();
    futures::future::try_join_all(keys.iter().map(|key| tokens.get(key))).await?;
    let logins = logins.load(Ordering::SeqCst) - 1;
    println!("eleven tokens: {logins} logins");
    assert_eq!(logins, 2);
    Ok(())
}
