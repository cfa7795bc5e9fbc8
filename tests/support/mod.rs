//! What the tests share: a recording inner service, a source that counts, tokens, and short ways to make and send requests.
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

/// A request as it left the layer.
#[derive(Clone)]
pub struct Seen {
    pub method: Method,
    pub uri: Uri,
    pub version: Version,
    pub headers: HeaderMap,
    pub extensions: Extensions,
    pub body: Bytes,
}

impl Seen {
    /// The names of the credentials it carries, one for each value.
    pub fn credentials(&self) -> Vec<&'static str> {
        let names = ["authorization", "x-api-key", "x-user-id"];
        names.into_iter().flat_map(|name| self.headers.get_all(name).iter().map(move |_| name)).collect()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn token(&self) -> &str {
        self.header("authorization").strip_prefix("Bearer ").expect("no token")
    }
}

type Answer = Arc<dyn Fn(Seen) -> BoxFuture<'static, Result<Response<Full<Bytes>>, BoxError>> + Send + Sync>;

/// An inner service that records what it gets. It insists on being polled ready before each call.
#[derive(Clone)]
pub struct Recorder {
    seen: Arc<Mutex<Vec<Seen>>>,
    answer: Answer,
    ready: Ready,
}

/// Whether a service was polled ready; a clone was not.
#[derive(Default)]
struct Ready(bool);

impl Clone for Ready {
    fn clone(&self) -> Self {
        Self(false)
    }
}

impl Recorder {
    /// Answers 200 to everything.
    pub fn new() -> Self {
        Self::answering(|_| StatusCode::OK)
    }

    pub fn answering(answer: impl Fn(&Seen) -> StatusCode + Send + Sync + 'static) -> Self {
        Self::with(move |seen| {
            let status = answer(&seen);
            async move { Ok(Response::builder().status(status).body(Full::default()).unwrap()) }
        })
    }

    /// 401 to each of these tokens, 200 to others.
    pub fn refusing(refused: &Refused) -> Self {
        let refused = refused.clone();
        Self::answering(move |seen| match refused.has(seen.token()) {
            true => StatusCode::UNAUTHORIZED,
            false => StatusCode::OK,
        })
    }

    /// 401 to the tokens that `refuses` names, by their numbers, once `gate` has let the answer pass; 200 to others at once.
    pub fn slow_to_refuse(gate: &Gate, refuses: impl Fn(u64) -> bool + Send + Sync + 'static) -> Self {
        let gate = gate.clone();
        Self::with(move |seen| {
            let gate = refuses(number(seen.token())).then(|| gate.clone());
            async move {
                let status = if gate.is_some() { StatusCode::UNAUTHORIZED } else { StatusCode::OK };
                if let Some(gate) = gate {
                    gate.pass().await;
                }
                Ok(Response::builder().status(status).body(Full::default()).unwrap())
            }
        })
    }

    pub fn with<F, Fut>(answer: F) -> Self
    where
        F: Fn(Seen) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Response<Full<Bytes>>, BoxError>> + Send + 'static,
    {
        Self { seen: Arc::default(), answer: Arc::new(move |seen| Box::pin(answer(seen))), ready: Ready::default() }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// The only request so far.
    pub fn only(&self) -> Seen {
        let seen = self.seen();
        assert_eq!(seen.len(), 1, "requests that left the layer");
        seen.into_iter().next().unwrap()
    }

    pub fn last(&self) -> Seen {
        self.seen().pop().expect("nothing left the layer")
    }

    pub fn tokens(&self) -> Vec<String> {
        self.seen().iter().map(|seen| seen.token().to_owned()).collect()
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
        assert!(std::mem::take(&mut self.ready.0), "f1: called without being polled ready");
        let (seen, answer) = (self.seen.clone(), self.answer.clone());
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map_err(Into::into)?.to_bytes();
            let request = Seen {
                method: parts.method,
                uri: parts.uri,
                version: parts.version,
                headers: parts.headers,
                extensions: parts.extensions,
                body,
            };
            seen.lock().unwrap().push(request.clone());
            answer(request).await
        })
    }
}

/// Tokens that Aiuta refuses.
#[derive(Clone, Default)]
pub struct Refused(Arc<Mutex<Vec<String>>>);

impl Refused {
    pub fn add(&self, token: impl Into<String>) {
        self.0.lock().unwrap().push(token.into());
    }

    pub fn has(&self, token: &str) -> bool {
        self.0.lock().unwrap().iter().any(|refused| refused == token)
    }
}

/// A token with these claims, and a signature that nobody checks.
pub fn token(claims: &serde_json::Value) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.{}", part(r#"{"alg":"HS256","typ":"JWT"}"#), part(&claims.to_string()), part("signature"))
}

pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// The claims of a token that was sent.
pub fn claims(token: &str) -> serde_json::Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

type Make = Arc<dyn Fn(usize, TokenRequest) -> BoxFuture<'static, Result<Jwt, TokenError>> + Send + Sync>;

/// A source that counts and records its calls. Each token is another; it tells its number (from 1) and its params.
#[derive(Clone)]
pub struct Source {
    calls: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<TokenRequest>>>,
    make: Make,
}

impl Source {
    /// Tokens good for `lifetime`.
    pub fn lasting(lifetime: Duration) -> Self {
        Self::with(move |number, request| async move { Ok(numbered(number, &request, lifetime)) })
    }

    /// Tokens good for a minute.
    pub fn new() -> Self {
        Self::lasting(Duration::from_secs(60))
    }

    pub fn with<F, Fut>(make: F) -> Self
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

    /// Tokens good for a minute, each once `gate` has let it pass.
    pub fn behind(gate: &Gate) -> Self {
        Self::held(gate, |_| true)
    }

    /// Tokens good for a minute; those of the calls that `which` names once `gate` has let them pass.
    pub fn held(gate: &Gate, which: impl Fn(usize) -> bool + Send + Sync + 'static) -> Self {
        let gate = gate.clone();
        Self::with(move |number, request| {
            let gate = which(number).then(|| gate.clone());
            async move {
                if let Some(gate) = gate {
                    gate.pass().await;
                }
                Ok(numbered(number, &request, Duration::from_secs(60)))
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

/// The token that [`Source`] makes.
pub fn numbered(number: usize, request: &TokenRequest, lifetime: Duration) -> Jwt {
    let now = seconds(request.now());
    let claims = serde_json::json!({
        "iat": now,
        "exp": now + lifetime.as_secs(),
        "number": number,
        "params": request.params(),
        "partition": request.params().partition(),
    });
    Jwt::parse(token(&claims)).unwrap()
}

/// Which call of the source a token came from.
pub fn number(token: &str) -> u64 {
    claims(token)["number"].as_u64().unwrap()
}

/// Holds a source back until it is opened, once for each permit.
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

/// A layer with the Jwt scheme.
pub fn jwt(source: impl TokenSource) -> AiutaAuthBuilder {
    AiutaAuthLayer::builder().jwt(ID, source)
}

/// A layer with the Jwt scheme on a clock of its own.
pub fn jwt_at(clock: &ManualClock, source: impl TokenSource) -> AiutaAuthLayer {
    jwt(source).clock(clock.clone()).build().unwrap()
}

/// The service that a layer makes around a recorder.
pub fn service(layer: &AiutaAuthLayer, inner: &Recorder) -> AiutaAuth<Recorder> {
    layer.layer(inner.clone())
}

pub fn params(image: &str) -> AuthParams {
    AuthParams::new().with("uploaded_image_id", image).with("sku_id", "dress-1")
}

/// A request that starts a try-on, its params in its extensions.
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

/// Sends a request through a clone of the service.
pub async fn send<S, R>(service: &S, request: Request<Full<Bytes>>) -> Result<StatusCode, BoxError>
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>, Error = BoxError> + Clone,
{
    Ok(service.clone().oneshot(request).await?.status())
}

/// The layer's own error.
pub fn auth_error<T: std::fmt::Debug>(result: Result<T, BoxError>) -> AuthError {
    result.expect_err("it should fail").downcast_ref::<AuthError>().expect("not an AuthError").clone()
}

pub fn kind<T: std::fmt::Debug>(result: Result<T, BoxError>) -> AuthErrorKind {
    auth_error(result).kind()
}

/// Lets every other task of a current-thread runtime run until it waits.
pub async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

pub fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
