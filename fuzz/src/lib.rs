//! Shared by the fuzz targets: an inner service that records requests, a token source, and JSON as `serde_json` reads
//! it.

mod json;

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use http_body::Body;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use tower_aiuta_auth::{AiutaAuthLayer, AuthError, AuthParams, BoxError, Jwt, TokenError, TokenRequest, TokenSource};
use tower_layer::Layer;
use tower_service::Service;

pub use self::json::{Pairs, size};

pub const CREDENTIALS: [&str; 3] = ["authorization", "x-api-key", "x-user-id"];

pub type AnyBody = UnsyncBoxBody<Bytes, Infallible>;

/// A request that the inner service received.
#[derive(Debug)]
pub struct Seen {
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Seen {
    /// Returns the names and values of all credentials in the request.
    pub fn credentials(&self) -> Vec<(&'static str, &HeaderValue)> {
        let values = |name| self.headers.get_all(name).iter().map(move |value| (name, value));
        CREDENTIALS.into_iter().flat_map(values).collect()
    }

    /// Returns the claims of the request's token, if the token is its only credential.
    pub fn claims(&self) -> Option<serde_json::Value> {
        let [("authorization", value)] = self.credentials()[..] else { return None };
        claims(value.to_str().ok()?.strip_prefix("Bearer ")?)
    }
}

/// Returns the claims of a token in compact form.
pub fn claims(token: &str) -> Option<serde_json::Value> {
    let payload = token.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

/// The inner service: answers 200 and records each request.
#[derive(Clone, Default)]
struct RecordingService(Arc<Mutex<Vec<Seen>>>);

impl<B: Body<Data = Bytes, Error = Infallible>> Service<Request<B>> for RecordingService {
    type Response = Response<()>;
    type Error = Infallible;
    type Future = Ready<Result<Response<()>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (head, body) = request.into_parts();
        let body = now(body.collect()).expect("infallible").to_bytes();
        self.0.lock().expect("one thread").push(Seen { uri: head.uri, headers: head.headers, body });
        ready(Ok(Response::new(())))
    }
}

/// Sends a request through the layer. Returns the request that the inner service received, or the layer's error, in
/// which case nothing may have been sent.
pub fn send<B>(layer: &AiutaAuthLayer, request: Request<B>) -> Result<Seen, AuthError>
where
    B: tower_aiuta_auth::RequestBody<Data = Bytes, Error = Infallible> + Unpin,
{
    let recorder = RecordingService::default();
    let mut service = layer.layer(recorder.clone());
    let result: Result<_, BoxError> = now(service.call(request));
    let mut seen = std::mem::take(&mut *recorder.0.lock().expect("one thread"));
    match result {
        Ok(_) => {
            assert_eq!(seen.len(), 1, "one request in, one out");
            Ok(seen.remove(0))
        }
        Err(error) => {
            assert!(seen.is_empty(), "a request was sent although the layer failed: {error}");
            Err(*error.downcast().expect("only the layer can fail"))
        }
    }
}

/// Returns the output of a future that never waits.
pub fn now<F: Future>(future: F) -> F::Output {
    future.now_or_never().expect("the future never waits")
}

/// Returns a body of known bytes, or a stream of chunks of at most `chunk` bytes.
pub fn body(bytes: &[u8], chunk: usize) -> AnyBody {
    if chunk == 0 {
        return Full::new(Bytes::copy_from_slice(bytes)).boxed_unsync();
    }
    let frames: Vec<_> =
        bytes.chunks(chunk).map(|chunk| Ok(http_body::Frame::data(Bytes::copy_from_slice(chunk)))).collect();
    StreamBody::new(futures::stream::iter(frames)).boxed_unsync()
}

/// A token source whose tokens contain the params that they were made for.
pub struct ParamsInToken;

impl TokenSource for ParamsInToken {
    fn token(&self, request: TokenRequest) -> impl Future<Output = Result<Jwt, TokenError>> + Send {
        ready(Jwt::parse(token(&payload_for(request.params()))).map_err(TokenError::from))
    }
}

/// Returns the payload of a token from [`ParamsInToken`].
pub fn payload_for(params: &AuthParams) -> String {
    serde_json::json!({ "exp": 4_000_000_000_u64, "params": params }).to_string()
}

/// Returns a token with this payload and an arbitrary signature.
pub fn token(payload: &str) -> String {
    format!("eyJhbGciOiJIUzI1NiJ9.{}.c2ln", URL_SAFE_NO_PAD.encode(payload))
}

/// A clock that stands still.
#[derive(Clone, Copy)]
pub struct FixedClock;

pub const FIXED_TIME: u64 = 1_800_000_000;

impl tower_aiuta_auth::Clock for FixedClock {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(FIXED_TIME)
    }
}

/// Takes the next line of the input. Returns `None` if it is not UTF-8.
pub fn line<'a>(data: &mut &'a [u8]) -> Option<&'a str> {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let line = std::str::from_utf8(&data[..end]).ok()?;
    *data = data.get(end + 1..).unwrap_or_default();
    Some(line)
}
