//! `RemoteTokenSource`: whatever a backend answers, the token that is in the answer or one of the documented errors; and whatever is asked for,
//! the backend is asked for that.
//!
//! Input, a line each: flags (`g` to ask by GET, `r` after a 401, `e` for a body that breaks off), the backend's URL (none: a usual one), the
//! partition, the status, `Retry-After`, the params as JSON; then the body of the answer.
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
use tower_aiuta_auth_fuzz::{Noon, Pairs, line, now, send};
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
    let [get, renewed, breaks] = ['g', 'r', 'e'].map(|flag| flags.contains(flag));
    let Ok(status) = status.parse::<u16>().map_err(drop).and_then(|code| StatusCode::from_u16(code).map_err(drop))
    else {
        return;
    };
    let Ok(retry_after_header) = HeaderValue::from_str(retry_after) else { return };
    let backend = Backend::default();
    let url = if url.is_empty() { BACKEND } else { url };
    let Ok(issuer) = RemoteTokenSource::new(url, backend.clone()) else { return };
    accepted(url);
    let issuer = issuer.header("x-api-token", "hush").and_then(|issuer| issuer.partition_header("x-user"));
    let issuer = issuer.expect("two headers").method(if get { Method::GET } else { Method::POST });

    let mut params = given(params);
    if !partition.is_empty() {
        params = params.with_partition(partition);
    }
    {
        let mut answer = backend.answer.lock().expect("one thread");
        *answer = (status, retry_after_header, data.to_vec(), breaks);
    }
    let request = TokenRequest::new(params.clone(), Noon.now());
    let result = now(issuer.token(if renewed { request.with_force_refresh() } else { request }));
    let asked = std::mem::take(&mut *backend.asked.lock().expect("one thread"));
    match &asked[..] {
        [request] => asked_for(request, url, get, renewed, &params),
        [] => {
            let plain = !partition.is_empty()
                && partition.trim() == partition
                && partition.bytes().all(|byte| matches!(byte, b' '..=b'~'));
            assert!((params.partition().is_some() && !plain) || get, "not asked");
            let error = result.expect_err("no answer, no token");
            assert!(!error.is_transient() && !error.is_denied() && error.retry_after().is_none());
            return;
        }
        _ => panic!("asked twice"),
    }

    let kind = match &result {
        Ok(jwt) => {
            assert!(status.is_success() && !breaks);
            assert_eq!(Some(jwt.expose()), token_in(data).as_deref());
            None
        }
        Err(error) => {
            assert!(!(error.is_transient() && error.is_denied()));
            let denied = matches!(status.as_u16(), 401 | 403);
            let busy = matches!(status.as_u16(), 408 | 429 | 500..=599);
            let broken = status.is_success() && breaks && data.len() <= 16 * 1024;
            assert_eq!((error.is_denied(), error.is_transient()), (denied, busy || broken), "{status}");
            assert!(busy || error.retry_after().is_none());
            if busy && !retry_after.trim().is_empty() && retry_after.trim().bytes().all(|byte| byte.is_ascii_digit()) {
                assert!(error.retry_after().is_some(), "{retry_after}");
            }
            let permanent = status.is_success() && !broken;
            Some(if permanent { AuthErrorKind::InvalidToken } else { AuthErrorKind::TokenSource })
        }
    };
    if status.is_success() && !breaks && data.len() <= 16 * 1024 {
        // A token that is there for every reader, and can be sent, is taken.
        let there = token_in(data).filter(|token| Jwt::parse(token.as_str()).is_ok());
        assert_eq!(there.as_deref(), result.as_ref().ok().map(Jwt::expose));
    }

    // The same through the layer.
    let layer = AiutaAuthLayer::builder().jwt("id", issuer).clock(Noon).max_tokens(4).build().expect("a layer");
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
            let token = result.as_ref().expect("the same answer").expose();
            assert_eq!(value.as_bytes().strip_prefix(b"Bearer "), Some(token.as_bytes()));
        }
        Err(error) if in_bounds => {
            assert_eq!(Some(error.kind()), kind);
            assert_eq!(error.is_transient(), result.is_err_and(|error| error.is_transient()));
        }
        Err(error) => assert!(Some(error.kind()) == kind || error.kind() == AuthErrorKind::InvalidBody),
    }
});

type Answer = (StatusCode, HeaderValue, Vec<u8>, bool);

/// Answers what it was told to, and remembers what it was asked.
#[derive(Clone)]
struct Backend {
    answer: Arc<Mutex<Answer>>,
    asked: Arc<Mutex<Vec<Request<Bytes>>>>,
}

impl Default for Backend {
    fn default() -> Self {
        Self {
            answer: Arc::new(Mutex::new((StatusCode::OK, HeaderValue::from_static(""), Vec::new(), false))),
            asked: Arc::default(),
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
        self.asked.lock().expect("one thread").push(Request::from_parts(head, body.to_bytes()));
        let (status, retry_after, body, breaks) = self.answer.lock().expect("one thread").clone();
        let mut frames: Vec<_> =
            body.chunks(1000).map(|chunk| Ok(Frame::data(Bytes::copy_from_slice(chunk)))).collect();
        if breaks {
            frames.push(Err(io::Error::other("broken off")));
        }
        let mut response = Response::new(StreamBody::new(futures::stream::iter(frames)));
        *response.status_mut() = status;
        response.headers_mut().insert(http::header::RETRY_AFTER, retry_after);
        std::future::ready(Ok(response))
    }
}

/// A URL that was accepted leads nowhere where a token could be read on the way, by the `url` crate's reading too.
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

/// Any params, those named like claims included: that is the backend's business.
fn given(json: &str) -> AuthParams {
    let Ok(pairs) = serde_json::from_str::<Pairs<Value>>(json) else { return AuthParams::new() };
    let mut names: Vec<&str> = pairs.0.iter().map(|(key, _)| key.as_str()).collect();
    names.dedup();
    pairs.params(&names).unwrap_or_default()
}

/// The backend was asked for these params and no others, at its own place.
fn asked_for(request: &Request<Bytes>, url: &str, get: bool, renewed: bool, params: &AuthParams) {
    let uri: http::Uri = url.parse().expect("it was accepted");
    assert_eq!(
        (request.uri().scheme(), request.uri().authority(), request.uri().path()),
        (uri.scheme(), uri.authority(), uri.path())
    );
    assert_eq!(request.headers().contains_key("cache-control"), renewed);
    assert_eq!(request.headers()["x-api-token"], "hush");
    let partition = request.headers().get("x-user").map(|value| value.to_str().expect("text"));
    assert_eq!(partition, params.partition());
    if get {
        assert!(request.body().is_empty());
        let own = uri.query().unwrap_or_default();
        let query = request.uri().query().unwrap_or_default();
        let added = query.strip_prefix(own).expect("its own query first").trim_start_matches('&');
        let added: Vec<_> = url::form_urlencoded::parse(added.as_bytes()).into_owned().collect();
        // A form can't tell a pair of nothing from none.
        let expected: Vec<_> = params.to_strings().into_iter().collect();
        assert_eq!(added, expected);
    } else {
        assert_eq!(request.uri().query(), uri.query());
        let body: Value = serde_json::from_slice(request.body()).expect("JSON");
        assert_eq!(body, serde_json::to_value(params).expect("JSON"));
    }
}

/// The token in an answer, as another reader finds it.
fn token_in(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?.trim();
    if !text.starts_with('{') {
        return Some(text.to_owned());
    }
    // Other members may be what `Value` refuses.
    let pairs: Pairs<Box<RawValue>> = serde_json::from_str(text).ok()?;
    let mut tokens = pairs.0.into_iter().filter(|(key, _)| key == "token");
    match (tokens.next(), tokens.next()) {
        (Some((_, token)), None) => serde_json::from_str(token.get()).ok(),
        _ => None,
    }
}
