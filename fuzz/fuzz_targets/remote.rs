//! Fuzzes `RemoteTokenSource`: every response yields the token in it or a documented error, and the backend receives
//! exactly the params of the request.
//!
//! Input, one per line: flags (`g` to use GET, `r` after a 401, `e` for a response body that fails), the backend's URL
//! (a default if empty), the partition, the status, `Retry-After`, the params as JSON; then the response body.
#![no_main]

use std::io;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use serde_json::value::RawValue;
use tower_aiuta_auth::{
    AiutaAuthLayer, AuthErrorKind, AuthParams, Clock, Jwt, RemoteTokenSource, TokenRequest, TokenSource,
};
use tower_aiuta_auth_fuzz::{FixedClock, Pairs, line, now, send};
use tower_service::Service;
use url::{Host, Url};

const BACKEND: &str = "https://shop.example/aiuta_jwt";

fuzz_target!(|data: &[u8]| {
    let mut data = data;
    let mut next = || line(&mut data);
    let (Some(flags), Some(url), Some(partition), Some(status), Some(retry_after), Some(params)) =
        (next(), next(), next(), next(), next(), next())
    else {
        return;
    };
    let [get, forced, body_fails] = ['g', 'r', 'e'].map(|flag| flags.contains(flag));
    let Ok(status) = status.parse::<u16>().map_err(drop).and_then(|code| StatusCode::from_u16(code).map_err(drop))
    else {
        return;
    };
    let Ok(retry_after_header) = HeaderValue::from_str(retry_after) else { return };
    let backend = Backend::default();
    let url = if url.is_empty() { BACKEND } else { url };
    let Ok(source) = RemoteTokenSource::new(url, backend.clone()) else { return };
    accepted(url);
    let source = source.header("x-api-token", "hush").and_then(|source| source.partition_header("x-user"));
    let source = source.expect("two headers").method(if get { Method::GET } else { Method::POST });

    let mut params = any_params(params);
    if !partition.is_empty() {
        params = params.with_partition(partition);
    }
    {
        let mut response = backend.response.lock().expect("one thread");
        *response = (status, retry_after_header, data.to_vec(), body_fails);
    }
    let request = TokenRequest::new(params.clone(), FixedClock.now());
    let result = now(source.token(if forced { request.with_force_refresh() } else { request }));
    let requests = std::mem::take(&mut *backend.requests.lock().expect("one thread"));
    match &requests[..] {
        [request] => check_request(request, url, get, forced, &params),
        [] => {
            let plain = !partition.is_empty()
                && partition.trim() == partition
                && partition.bytes().all(|byte| matches!(byte, b' '..=b'~'));
            let registered = ["iss", "sub", "aud", "exp", "nbf", "iat", "jti"];
            let is_registered = params.iter().any(|(name, _)| registered.contains(&name));
            let is_odd = params.partition().is_some() && !plain;
            assert!(is_odd || get || is_registered, "the backend was not called");
            let error = result.expect_err("a call without a response must fail");
            assert!(!error.is_transient() && !error.is_denied() && error.retry_after().is_none());
            return;
        }
        _ => panic!("the backend was called twice"),
    }

    let kind = match &result {
        Ok(jwt) => {
            assert!(status.is_success() && !body_fails);
            assert_eq!(Some(jwt.expose()), token_in(data).as_deref());
            None
        }
        Err(error) => {
            assert!(!(error.is_transient() && error.is_denied()));
            let denied = matches!(status.as_u16(), 401 | 403);
            let busy = matches!(status.as_u16(), 408 | 429 | 500..=599);
            let broken = status.is_success() && body_fails && data.len() <= 16 * 1024;
            assert_eq!((error.is_denied(), error.is_transient()), (denied, busy || broken), "{status}");
            assert!(busy || error.retry_after().is_none());
            if busy && !retry_after.trim().is_empty() && retry_after.trim().bytes().all(|byte| byte.is_ascii_digit()) {
                assert!(error.retry_after().is_some(), "{retry_after}");
            }
            let permanent = status.is_success() && !broken;
            Some(if permanent { AuthErrorKind::InvalidToken } else { AuthErrorKind::TokenSource })
        }
    };
    if status.is_success() && !body_fails && data.len() <= 16 * 1024 {
        // A token that every reader finds, and that can be sent, is accepted.
        let there = token_in(data).filter(|token| Jwt::parse(token.as_str()).is_ok());
        assert_eq!(there.as_deref(), result.as_ref().ok().map(Jwt::expose));
    }

    // The same request through the layer.
    let layer = AiutaAuthLayer::builder().jwt("id", source).clock(FixedClock).max_tokens(4);
    let layer = layer.allow_unbound_tokens(true).build().expect("a layer");
    let mut request =
        Request::post("https://api.aiuta.com/v1/sku_items").body(Full::<Bytes>::default()).expect("a request");
    let in_bounds = params.iter().map(|(key, _)| key.len()).sum::<usize>()
        + 3 * params.to_strings().values().map(|value| value.len() + 3).sum::<usize>()
        + partition.len()
        < 4 * 1024;
    request.extensions_mut().insert(params);
    match send(&layer, request) {
        Ok(seen) => {
            let [("authorization", value)] = seen.credentials()[..] else { panic!("{:?}", seen.credentials()) };
            let token = result.as_ref().expect("the same response").expose();
            assert_eq!(value.as_bytes().strip_prefix(b"Bearer "), Some(token.as_bytes()));
        }
        Err(error) if in_bounds => {
            assert_eq!(Some(error.kind()), kind);
            assert_eq!(error.is_transient(), result.is_err_and(|error| error.is_transient()));
        }
        Err(error) => assert!(Some(error.kind()) == kind || error.kind() == AuthErrorKind::InvalidBody),
    }
});

type PreparedResponse = (StatusCode, HeaderValue, Vec<u8>, bool);

/// Returns a prepared response and records each request.
#[derive(Clone)]
struct Backend {
    response: Arc<Mutex<PreparedResponse>>,
    requests: Arc<Mutex<Vec<Request<Bytes>>>>,
}

impl Default for Backend {
    fn default() -> Self {
        Self {
            response: Arc::new(Mutex::new((StatusCode::OK, HeaderValue::from_static(""), Vec::new(), false))),
            requests: Arc::default(),
        }
    }
}

impl Service<Request<Full<Bytes>>> for Backend {
    type Response = Response<StreamBody<futures::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, io::Error>>>>>;
    type Error = io::Error;
    type Future = std::future::Ready<Result<Self::Response, io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        let (head, body) = request.into_parts();
        let Ok(body) = now(body.collect());
        self.requests.lock().expect("one thread").push(Request::from_parts(head, body.to_bytes()));
        let (status, retry_after, body, body_fails) = self.response.lock().expect("one thread").clone();
        let mut frames: Vec<_> =
            body.chunks(1000).map(|chunk| Ok(Frame::data(Bytes::copy_from_slice(chunk)))).collect();
        if body_fails {
            frames.push(Err(io::Error::other("the body failed")));
        }
        let mut response = Response::new(StreamBody::new(futures::stream::iter(frames)));
        *response.status_mut() = status;
        response.headers_mut().insert(http::header::RETRY_AFTER, retry_after);
        std::future::ready(Ok(response))
    }
}

/// Checks with the `url` crate that an accepted URL does not expose tokens in transit.
fn accepted(url: &str) {
    let Ok(url) = Url::parse(url) else { return };
    assert!(url.username().is_empty() && url.password().is_none() && url.fragment().is_none(), "{url}");
    let loopback = match url.host().expect("a host") {
        Host::Domain(name) => name == "localhost",
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    };
    assert!(url.scheme() == "https" || (url.scheme() == "http" && loopback), "{url}");
}

/// Returns arbitrary params. Names of registered claims are allowed: the backend decides about them.
fn any_params(json: &str) -> AuthParams {
    let Ok(pairs) = serde_json::from_str::<Pairs<Value>>(json) else { return AuthParams::new() };
    let mut names: Vec<&str> = pairs.0.iter().map(|(key, _)| key.as_str()).collect();
    names.dedup();
    pairs.params(&names).unwrap_or_default()
}

/// Checks that the backend was asked for exactly these params, at its own URL.
fn check_request(request: &Request<Bytes>, url: &str, get: bool, forced: bool, params: &AuthParams) {
    let uri: http::Uri = url.parse().expect("it was accepted");
    assert_eq!(
        (request.uri().scheme(), request.uri().authority(), request.uri().path()),
        (uri.scheme(), uri.authority(), uri.path())
    );
    assert_eq!(request.headers().contains_key("cache-control"), forced);
    assert_eq!(request.headers()["x-api-token"], "hush");
    let partition = request.headers().get("x-user").map(|value| value.to_str().expect("text"));
    assert_eq!(partition, params.partition());
    if get {
        assert!(request.body().is_empty());
        let own = uri.query().unwrap_or_default();
        let query = request.uri().query().unwrap_or_default();
        let added = query.strip_prefix(own).expect("its own query first").trim_start_matches('&');
        let added: Vec<_> = url::form_urlencoded::parse(added.as_bytes()).into_owned().collect();
        // A form cannot distinguish an empty pair from none.
        let expected: Vec<_> = params.to_strings().into_iter().collect();
        assert_eq!(added, expected);
    } else {
        assert_eq!(request.uri().query(), uri.query());
        let body: Value = serde_json::from_slice(request.body()).expect("JSON");
        assert_eq!(body, serde_json::to_value(params).expect("JSON"));
    }
}

/// Returns the token in a response, as another reader finds it.
fn token_in(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim();
    if text.starts_with('"') {
        return serde_json::from_str(text).ok();
    }
    if !text.starts_with('{') {
        return Some(text.to_owned());
    }
    // Other members may have values that `Value` rejects.
    let pairs: Pairs<Box<RawValue>> = serde_json::from_str(text).ok()?;
    // Each at most once, a string or null, and not two that differ.
    let field = |name: &str| {
        let mut values = pairs.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.get());
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => serde_json::from_str::<Option<String>>(value).map_err(drop),
            (Some(_), Some(_)) => Err(()),
        }
    };
    match (field("token").ok()?, field("access_token").ok()?) {
        (Some(token), Some(other)) if token != other => None,
        (token, other) => token.or(other),
    }
}
