//! Tests the layer without default features, on an executor without a runtime: requests with a JWT and with a
//! subscription id, a source that is pending at first, a dropped call, and a replay. Also tests that the errors of
//! `from_env` name the missing feature. The program panics if a check fails.

use std::future::poll_fn;
use std::pin::pin;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_executor::block_on;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower_aiuta_auth::{AiutaAuth, AiutaAuthLayer, AuthParams, BoxError, Jwt, TokenError, TokenRequest, TokenSource};
use tower_layer::Layer;
use tower_service::Service;

const TRY_ON: &str = "https://api.aiuta.com/v1/sku_try_on_operations";

/// Returns a new token at each call, valid until 2096. Each call is pending for a few polls.
#[derive(Clone, Default)]
struct Source(Arc<AtomicUsize>);

/// A token with the header `{"alg":"HS256"}`, the claims `{"exp":4000000000}`, and `number` as its signature.
fn token(number: usize) -> String {
    format!("eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjQwMDAwMDAwMDB9.{number}")
}

impl TokenSource for Source {
    async fn token(&self, _: TokenRequest) -> Result<Jwt, TokenError> {
        let number = self.0.fetch_add(1, Ordering::SeqCst) + 1;
        yield_now().await;
        yield_now().await;
        Ok(Jwt::parse(token(number))?)
    }
}

async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        cx.waker().wake_by_ref();
        if std::mem::replace(&mut yielded, true) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Records the credentials of each request. Answers 401 from the second request with the first token on.
#[derive(Clone, Default)]
struct Inner(Arc<Mutex<Vec<String>>>);

impl Service<Request<Full<Bytes>>> for Inner {
    type Response = Response<()>;
    type Error = BoxError;
    type Future = std::future::Ready<Result<Response<()>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        let headers = ["authorization", "x-api-key", "x-user-id"].map(|name| request.headers().get(name).cloned());
        let seen: String =
            headers.into_iter().flatten().map(|value| value.to_str().expect("ASCII").to_owned()).collect();
        let mut response = Response::new(());
        if seen.ends_with(&token(1)) && self.0.lock().expect("no panic").contains(&seen) {
            *response.status_mut() = StatusCode::UNAUTHORIZED;
        }
        self.0.lock().expect("no panic").push(seen);
        std::future::ready(Ok(response))
    }
}

fn try_on() -> Request<Full<Bytes>> {
    let mut request = Request::post(TRY_ON).body(Full::default()).expect("a request");
    request.extensions_mut().insert(AuthParams::new().with("sku_id", "dress-1"));
    request
}

fn send(service: &mut AiutaAuth<Inner>, request: Request<Full<Bytes>>) -> StatusCode {
    block_on(async {
        poll_fn(|cx| service.poll_ready(cx)).await.expect("ready");
        service.call(request).await.expect("a response").status()
    })
}

/// Returns the error of `from_env` with these variables. [`main`] of a child process calls it.
fn from_env_error(variables: &[(&str, &str)]) -> String {
    let program = std::env::current_exe().expect("a path");
    let output = Command::new(program).arg("from-env").env_clear().envs(variables.iter().copied()).output();
    String::from_utf8(output.expect("it ran").stdout).expect("UTF-8")
}

fn from_env_names_missing_feature() {
    let id = ("AIUTA_SUBSCRIPTION_ID", "id");
    let missing = if cfg!(feature = "remote") {
        "the feature `reqwest-middleware`"
    } else if cfg!(feature = "reqwest-middleware") {
        "the feature `remote`"
    } else {
        "the features `remote` and `reqwest-middleware`"
    };
    let error = from_env_error(&[id, ("AIUTA_TOKEN_URL", "https://s3cr3t.example/")]);
    assert_eq!(error, format!("AIUTA_TOKEN_URL: this program was built without {missing} of tower-aiuta-auth\n"));
    let error = from_env_error(&[id, ("AIUTA_JWT_ISSUER", "issuer"), ("AIUTA_JWT_SECRET", "s3cr3t")]);
    assert_eq!(error, "AIUTA_JWT_SECRET: this program was built without the feature `signer` of tower-aiuta-auth\n");
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("from-env") {
        return println!("{}", AiutaAuthLayer::from_env().expect_err("a feature is missing"));
    }
    from_env_names_missing_feature();

    let (source, inner) = (Source::default(), Inner::default());
    let layer = AiutaAuthLayer::jwt("id", source.clone()).expect("the settings are valid");
    let mut service = layer.layer(inner.clone());

    // A call is dropped after its first poll. The next call continues its fetch.
    let mut dropped = Box::pin(service.call(try_on()));
    assert!(dropped.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
    drop(dropped);
    assert_eq!(send(&mut service, try_on()), 200);
    assert_eq!(source.0.load(Ordering::SeqCst), 1);

    // The token is rejected the second time it is sent, which causes a replay.
    assert_eq!(send(&mut service, try_on()), 200);
    let get = Request::get("https://api.aiuta.com/v1/try_on_models").body(Full::default()).expect("a request");
    assert_eq!(send(&mut service, get), 200);
    let bearer = |number| format!("Bearer {}", token(number));
    assert_eq!(*inner.0.lock().expect("no panic"), [bearer(1), bearer(1), bearer(2), "id".to_owned()]);

    // A token from the cache directly.
    let tokens = layer.token_cache().expect("the layer uses JWTs");
    let jwt = block_on(pin!(tokens.get(&AuthParams::new()))).expect("a token");
    assert_eq!(jwt.expose(), token(3));
    println!("bare: ok, {:?}", tokens.stats());
}
