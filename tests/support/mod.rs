//! Helpers shared by the tests: an inner service that records requests, a token source that counts its calls, tokens,
//! and functions that make and send requests.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

pub mod captured_events;
pub mod loopback;
pub mod servers;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Extensions, HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceExt};
use tower_aiuta_auth::testing::ManualClock;
use tower_aiuta_auth::{
    AiutaAuth, AiutaAuthBuilder, AiutaAuthLayer, AuthError, AuthErrorKind, AuthParams, BoxError, Jwt, TokenError,
    TokenRequest, TokenSource,
};

pub const ID: &str = "65f0c0ffee65f0c0ffee65f0";
pub const SKU_IMAGES: &str = "https://api.aiuta.com/digital-try-on/v1/sku_images_operations";
pub const TRY_ON: &str = "https://api.aiuta.com/v1/sku_try_on_operations";

/// A request that the layer passed to the inner service.
#[derive(Clone)]
pub struct SentRequest {
    pub method: Method,
    pub uri: Uri,
    pub version: Version,
    pub headers: HeaderMap,
    pub extensions: Extensions,
    pub body: Bytes,
}

impl SentRequest {
    /// Returns the names of the credential headers it carries, once per value.
    pub fn credentials(&self) -> Vec<&'static str> {
        let names = ["authorization", "x-api-key", "x-user-id"];
        names.into_iter().flat_map(|name| self.headers.get_all(name).iter().map(move |_| name)).collect()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn token(&self) -> &str {
        self.header("authorization").strip_prefix("Bearer ").expect("the request carries no token")
    }
}

type Respond = Arc<dyn Fn(SentRequest) -> BoxFuture<'static, Result<Response<Full<Bytes>>, BoxError>> + Send + Sync>;

/// An inner service that records its requests. It panics if it is called without being polled ready first (rule F1).
#[derive(Clone)]
pub struct Recorder {
    requests: Arc<Mutex<Vec<SentRequest>>>,
    respond: Respond,
    ready: Ready,
}

/// Whether a service was polled ready. A clone of it was not.
#[derive(Default)]
struct Ready(bool);

impl Clone for Ready {
    fn clone(&self) -> Self {
        Self(false)
    }
}

impl Recorder {
    /// Responds to every request with 200.
    pub fn new() -> Self {
        Self::with_status(|_| StatusCode::OK)
    }

    pub fn with_status(status: impl Fn(&SentRequest) -> StatusCode + Send + Sync + 'static) -> Self {
        Self::with_response(move |request| {
            let status = status(&request);
            async move { Ok(Response::builder().status(status).body(Full::default()).unwrap()) }
        })
    }

    /// Responds with 401 to each of these tokens, and with 200 to others.
    pub fn rejecting(rejected: &RejectedTokens) -> Self {
        let rejected = rejected.clone();
        Self::with_status(move |request| match rejected.contains(request.token()) {
            true => StatusCode::UNAUTHORIZED,
            false => StatusCode::OK,
        })
    }

    /// Responds with 401, after passing `gate`, to tokens whose numbers `rejects` selects; with 200 to others at once.
    pub fn rejecting_after(gate: &Gate, rejects: impl Fn(u64) -> bool + Send + Sync + 'static) -> Self {
        let gate = gate.clone();
        Self::with_response(move |request| {
            let gate = rejects(token_number(request.token())).then(|| gate.clone());
            async move {
                let status = if gate.is_some() { StatusCode::UNAUTHORIZED } else { StatusCode::OK };
                if let Some(gate) = gate {
                    gate.pass().await;
                }
                Ok(Response::builder().status(status).body(Full::default()).unwrap())
            }
        })
    }

    pub fn with_response<F, Fut>(respond: F) -> Self
    where
        F: Fn(SentRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Response<Full<Bytes>>, BoxError>> + Send + 'static,
    {
        Self {
            requests: Arc::default(),
            respond: Arc::new(move |request| Box::pin(respond(request))),
            ready: Ready::default(),
        }
    }

    pub fn requests(&self) -> Vec<SentRequest> {
        self.requests.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    /// Returns the only request so far.
    pub fn only(&self) -> SentRequest {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "requests that reached the inner service");
        requests.into_iter().next().unwrap()
    }

    pub fn last(&self) -> SentRequest {
        self.requests().pop().expect("no request reached the inner service")
    }

    pub fn tokens(&self) -> Vec<String> {
        self.requests().iter().map(|request| request.token().to_owned()).collect()
    }
}

impl<B> Service<Request<B>> for Recorder
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<Full<Bytes>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.ready.0 = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready.0), "F1: the service was called without being polled ready");
        let (requests, respond) = (self.requests.clone(), self.respond.clone());
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map_err(Into::into)?.to_bytes();
            let request = SentRequest {
                method: parts.method,
                uri: parts.uri,
                version: parts.version,
                headers: parts.headers,
                extensions: parts.extensions,
                body,
            };
            requests.lock().unwrap().push(request.clone());
            respond(request).await
        })
    }
}

/// Tokens that Aiuta rejects with 401.
#[derive(Clone, Default)]
pub struct RejectedTokens(Arc<Mutex<Vec<String>>>);

impl RejectedTokens {
    pub fn add(&self, token: impl Into<String>) {
        self.0.lock().unwrap().push(token.into());
    }

    pub fn contains(&self, token: &str) -> bool {
        self.0.lock().unwrap().iter().any(|rejected| rejected == token)
    }
}

/// Returns a token with these claims and a made-up signature.
pub fn token(claims: &serde_json::Value) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.{}", part(r#"{"alg":"HS256","typ":"JWT"}"#), part(&claims.to_string()), part("signature"))
}

pub fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// Returns the claims of a token.
pub fn claims(token: &str) -> serde_json::Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

type Make = Arc<dyn Fn(usize, TokenRequest) -> BoxFuture<'static, Result<Jwt, TokenError>> + Send + Sync>;

/// A token source that counts and records its calls. Each token is different: its claims hold the number of the call,
/// from 1, and the params.
#[derive(Clone)]
pub struct Source {
    calls: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<TokenRequest>>>,
    make: Make,
}

impl Source {
    /// Makes tokens that are valid for `lifetime`.
    pub fn with_lifetime(lifetime: Duration) -> Self {
        Self::from_fn(move |number, request| async move { Ok(numbered_token(number, &request, lifetime)) })
    }

    /// Makes tokens that are valid for a minute.
    pub fn new() -> Self {
        Self::with_lifetime(Duration::from_secs(60))
    }

    pub fn from_fn<F, Fut>(make: F) -> Self
    where
        F: Fn(usize, TokenRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Jwt, TokenError>> + Send + 'static,
    {
        Self {
            calls: Arc::default(),
            requests: Arc::default(),
            make: Arc::new(move |number, request| Box::pin(make(number, request))),
        }
    }

    /// Makes tokens that are valid for a minute. Each call waits for `gate`.
    pub fn gated(gate: &Gate) -> Self {
        Self::gated_calls(gate, |_| true)
    }

    /// Makes tokens that are valid for a minute. The calls whose numbers `is_gated` selects wait for `gate`.
    pub fn gated_calls(gate: &Gate, is_gated: impl Fn(usize) -> bool + Send + Sync + 'static) -> Self {
        let gate = gate.clone();
        Self::from_fn(move |number, request| {
            let gate = is_gated(number).then(|| gate.clone());
            async move {
                if let Some(gate) = gate {
                    gate.pass().await;
                }
                Ok(numbered_token(number, &request, Duration::from_secs(60)))
            }
        })
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    pub fn requests(&self) -> Vec<TokenRequest> {
        self.requests.lock().unwrap().clone()
    }
}

impl TokenSource for Source {
    fn token(&self, request: TokenRequest) -> impl Future<Output = Result<Jwt, TokenError>> + Send {
        let number = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        self.requests.lock().unwrap().push(request.clone());
        (self.make)(number, request)
    }
}

/// Returns the token that [`Source`] makes in its call of this number.
pub fn numbered_token(number: usize, request: &TokenRequest, lifetime: Duration) -> Jwt {
    let now = unix_seconds(request.now());
    let claims = serde_json::json!({
        "iat": now,
        "exp": now + lifetime.as_secs(),
        "number": number,
        "params": request.params(),
        "partition": request.params().partition(),
    });
    Jwt::parse(token(&claims)).unwrap()
}

/// Returns the number of the source call that a token came from.
pub fn token_number(token: &str) -> u64 {
    claims(token)["number"].as_u64().unwrap()
}

/// Blocks callers of `pass` until it is opened. Each permit lets one caller pass.
#[derive(Clone)]
pub struct Gate(Arc<tokio::sync::Semaphore>);

impl Gate {
    pub fn closed() -> Self {
        Self(Arc::new(tokio::sync::Semaphore::new(0)))
    }

    pub async fn pass(&self) {
        self.0.acquire().await.unwrap().forget();
    }

    pub fn open(&self, times: usize) {
        self.0.add_permits(times);
    }
}

/// Returns a builder with the JWT scheme.
pub fn jwt(source: impl TokenSource) -> AiutaAuthBuilder {
    AiutaAuthLayer::builder().jwt(ID, source)
}

/// Returns a layer with the JWT scheme and this clock.
pub fn jwt_with_clock(clock: &ManualClock, source: impl TokenSource) -> AiutaAuthLayer {
    jwt(source).clock(clock.clone()).build().unwrap()
}

/// Wraps a recorder in the layer.
pub fn service(layer: &AiutaAuthLayer, inner: &Recorder) -> AiutaAuth<Recorder> {
    layer.layer(inner.clone())
}

pub fn params(image: &str) -> AuthParams {
    AuthParams::new().with("uploaded_image_id", image).with("sku_id", "dress-1")
}

/// Returns a request that starts a try-on, with its params in the extensions.
pub fn try_on(image: &str) -> Request<Full<Bytes>> {
    with_params(params(image))
}

pub fn with_params(params: AuthParams) -> Request<Full<Bytes>> {
    let mut request = post(SKU_IMAGES, serde_json::to_string(&params).unwrap());
    request.extensions_mut().insert(params);
    request
}

pub fn post(uri: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(uri).body(Full::new(body.into())).unwrap()
}

pub fn get(uri: &str) -> Request<Full<Bytes>> {
    Request::get(uri).body(Full::default()).unwrap()
}

/// Sends a request through a clone of the service, and returns the status.
pub async fn send<S, R>(service: &S, request: Request<Full<Bytes>>) -> Result<StatusCode, BoxError>
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>, Error = BoxError> + Clone,
{
    Ok(service.clone().oneshot(request).await?.status())
}

/// Returns the error as the [`AuthError`] that it has to be.
pub fn auth_error<T: std::fmt::Debug>(result: Result<T, BoxError>) -> AuthError {
    result
        .expect_err("the request succeeded")
        .downcast_ref::<AuthError>()
        .expect("the error is not an AuthError")
        .clone()
}

pub fn error_kind<T: std::fmt::Debug>(result: Result<T, BoxError>) -> AuthErrorKind {
    auth_error(result).kind()
}

/// Lets every other task of a current-thread runtime run until all of them wait.
pub async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

pub fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
