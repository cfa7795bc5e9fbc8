//! Rules F2 and F6: reqwest-retry outside and inside the middleware.

mod strategy;

use std::time::SystemTime;

use reqwest_retry::{RetryDecision, RetryPolicy, RetryTransientMiddleware};
use tower_aiuta_auth::testing::{FakeAiuta, Fault};

use super::*;
use crate::support::servers::{api_key_layer, jwt_layer};
use crate::support::*;

/// A policy of three attempts without waiting.
struct ThreeAttempts;

impl RetryPolicy for ThreeAttempts {
    fn should_retry(&self, start: SystemTime, past: u32) -> RetryDecision {
        if past < 2 { RetryDecision::Retry { execute_after: start } } else { RetryDecision::DoNotRetry }
    }
}

fn retry() -> RetryTransientMiddleware<ThreeAttempts> {
    RetryTransientMiddleware::new_with_policy(ThreeAttempts)
}

/// Builds a client with two middlewares, and a spy inside both.
fn client_with(spy: &Spy, outer: impl Middleware, inner: impl Middleware) -> ClientWithMiddleware {
    ClientBuilder::new(reqwest()).with(outer).with(inner).with(spy.clone()).build()
}

/// Responds with 503 twice and then with 200. Clears the token cache each time.
fn unavailable_twice(tokens: tower_aiuta_auth::TokenCache) -> Spy {
    let left = Mutex::new(2);
    Spy::responding(move |_| {
        let mut left = left.lock().unwrap();
        tokens.clear();
        let status = if *left == 0 { 200 } else { 503 };
        *left = u32::saturating_sub(*left, 1);
        http::Response::builder().status(status).body("").unwrap().into()
    })
}

#[tokio::test]
async fn f2_reqwest_retry_outside_authenticates_every_attempt() {
    let layer = jwt(Source::new()).build().unwrap();
    let spy = unavailable_twice(layer.token_cache().unwrap().clone());
    let client = client_with(&spy, retry(), layer.into_middleware());
    let request = client.get("https://api.aiuta.com/v1/x").with_extension(params("image-1"));
    assert_eq!(request.send().await.unwrap().status(), 200);
    let numbers: Vec<_> =
        spy.tokens().iter().map(|token| token_number(token.strip_prefix("Bearer ").unwrap())).collect();
    assert_eq!(numbers, [1, 2, 3]);
}

#[tokio::test]
async fn f2_reqwest_retry_inside_repeats_with_the_same_token() {
    let layer = jwt(Source::new()).build().unwrap();
    let spy = unavailable_twice(layer.token_cache().unwrap().clone());
    let client = client_with(&spy, layer.into_middleware(), retry());
    let request = client.get("https://api.aiuta.com/v1/x").with_extension(params("image-1"));
    assert_eq!(request.send().await.unwrap().status(), 200);
    let numbers: Vec<_> =
        spy.tokens().iter().map(|token| token_number(token.strip_prefix("Bearer ").unwrap())).collect();
    assert_eq!(numbers, [1, 1, 1]);
}

#[tokio::test]
async fn f2_reqwest_retry_on_either_side_survives_faults_and_revocation() {
    for outside in [true, false] {
        let aiuta = FakeAiuta::new();
        let server = aiuta.serve().await.unwrap();
        let layer = jwt_layer(&aiuta, &server);
        let (auth, spy) = (layer.clone().into_middleware(), Spy::default());
        let client = if outside { client_with(&spy, retry(), auth) } else { client_with(&spy, auth, retry()) };
        let delete = || client.delete(format!("{}/v1/uploaded_images/unknown", server.origin()));
        assert_eq!(delete().send().await.unwrap().status(), 400);
        aiuta.revoke_tokens();
        aiuta.fail_next(1, Fault::Disconnect);
        aiuta.fail_next(1, Fault::Unavailable);
        aiuta.clear_requests();
        assert_eq!(delete().send().await.unwrap().status(), 400);
        // Disconnected, unavailable, rejected, and then the expected response.
        let statuses: Vec<_> = aiuta.requests().iter().map(|request| request.status).collect();
        assert_eq!(statuses, [None, Some(503), Some(401), Some(400)], "outside: {outside}");
        assert_eq!(layer.token_cache().unwrap().stats().replays, 1);
    }
}

#[tokio::test]
async fn f2_reqwest_retry_on_either_side_rejects_streams() {
    // A documented limit of reqwest-retry, tested because uploads are streams.
    let aiuta = FakeAiuta::new();
    let server = aiuta.serve().await.unwrap();
    for outside in [true, false] {
        let auth = api_key_layer(&aiuta, &server).into_middleware();
        let client = ClientBuilder::new(reqwest());
        let client = if outside { client.with(retry()).with(auth) } else { client.with(auth).with(retry()) }.build();
        let stream = reqwest::Body::wrap_stream(futures::stream::iter([Ok::<_, std::io::Error>("photo")]));
        let error = client.post(format!("{}{UPLOADS}", server.origin())).body(stream).send().await.unwrap_err();
        assert!(error.to_string().contains("not cloneable"), "{error}");
    }
    assert_eq!(aiuta.requests().len(), 0);
}
