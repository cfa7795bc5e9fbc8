//! What the fuzzers share: the wire, a source of tokens, and JSON as `serde_json` reads it.

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

/// A request as it left the layer.
#[derive(Debug)]
pub struct Seen {
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Seen {
    /// Names and values of all credentials that it carries.
    pub fn credentials(&self) -> Vec<(&'static str, &HeaderValue)> {
        let values = |name| self.headers.get_all(name).iter().map(move |value| (name, value));
        CREDENTIALS.into_iter().flat_map(values).collect()
    }

    /// The claims of the token that it carries, if that is all it carries.
    pub fn claims(&self) -> Option<serde_json::Value> {
        let [("authorization", value)] = self.credentials()[..] else { return None };
        claims(value.to_str().ok()?.strip_prefix("Bearer ")?)
    }
}

/// The claims of a token in compact form.
pub fn claims(token: &str) -> Option<serde_json::Value> {
    let payload = token.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

/// The inner service: it answers 200, and remembers what came.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Vec<Seen>>>);

impl<B: Body<Data = Bytes, Error = Infallible>> Service<Request<B>> for Wire {
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

/// Sends a request through the layer: what left it, or the layer's own error, with which nothing may leave.
pub fn send<B>(layer: &AiutaAuthLayer, request: Request<B>) -> Result<Seen, AuthError>
where
    B: tower_aiuta_auth::RequestBody<Data = Bytes, Error = Infallible> + Unpin,
{
    let wire = Wire::default();
    let mut service = layer.layer(wire.clone());
    let result: Result<_, BoxError> = now(service.call(request));
    let mut seen = std::mem::take(&mut *wire.0.lock().expect("one thread"));
    match result {
        Ok(_) => {
            assert_eq!(seen.len(), 1, "one request in, one out");
            Ok(seen.remove(0))
        }
        Err(error) => {
            assert!(seen.is_empty(), "sent, in spite of {error}");
            Err(*error.downcast().expect("only the layer fails here"))
        }
    }
}

/// The output of a future that has nothing to wait for.
pub fn now<F: Future>(future: F) -> F::Output {
    future.now_or_never().expect("nothing here has to wait")
}

/// A body in one piece, or in pieces of at most `chunk` bytes.
pub fn body(bytes: &[u8], chunk: usize) -> AnyBody {
    if chunk == 0 {
        return Full::new(Bytes::copy_from_slice(bytes)).boxed_unsync();
    }
    let frames: Vec<_> =
        bytes.chunks(chunk).map(|chunk| Ok(http_body::Frame::data(Bytes::copy_from_slice(chunk)))).collect();
    StreamBody::new(futures::stream::iter(frames)).boxed_unsync()
}

/// A source whose tokens tell the params that they were made for.
pub struct Telling;

impl TokenSource for Telling {
    fn token(&self, request: TokenRequest) -> impl Future<Output = Result<Jwt, TokenError>> + Send {
        ready(Jwt::parse(token(&told(request.params()))).map_err(TokenError::from))
    }
}

/// The payload of a token by [`Telling`].
pub fn told(params: &AuthParams) -> String {
    serde_json::json!({ "exp": 4_000_000_000_u64, "params": params }).to_string()
}

/// A token with this payload, and a signature that nobody checks.
pub fn token(payload: &str) -> String {
    format!("eyJhbGciOiJIUzI1NiJ9.{}.c2ln", URL_SAFE_NO_PAD.encode(payload))
}

/// A clock that stands still.
#[derive(Clone, Copy)]
pub struct Noon;

pub const NOON: u64 = 1_800_000_000;

impl tower_aiuta_auth::Clock for Noon {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(NOON)
    }
}

/// The next line of the input, so that seeds can be read and written by hand. What is no UTF-8 has no next line.
pub fn line<'a>(data: &mut &'a [u8]) -> Option<&'a str> {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let line = std::str::from_utf8(&data[..end]).ok()?;
    *data = data.get(end + 1..).unwrap_or_default();
    Some(line)
}
