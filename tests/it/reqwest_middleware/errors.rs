//! Rule F3: errors of inner services pass through, and those of this crate downcast.

use std::time::Duration;

use reqwest_middleware::Error;
use tower_aiuta_auth::testing::FakeAiuta;
use tower_aiuta_auth::{AuthError, AuthErrorKind, TokenError};

use super::*;
use crate::support::servers::jwt_layer;
use crate::support::*;

/// Downcasts an error as the documentation shows.
fn auth_error(error: &Error) -> Option<&AuthError> {
    match error {
        Error::Middleware(error) => error.downcast_ref(),
        Error::Reqwest(_) => None,
    }
}

#[tokio::test]
async fn f3_reqwest_auth_errors_downcast_and_send_nothing() {
    let aiuta = FakeAiuta::new();
    let server = aiuta.serve().await.unwrap();
    let client = client(&jwt_layer(&aiuta, &server));
    for (body, kind) in [
        (Some("{}".to_owned()), AuthErrorKind::MissingParams),
        (Some(String::new()), AuthErrorKind::MissingParams),
        (None, AuthErrorKind::MissingParams),
        (Some("no JSON".to_owned()), AuthErrorKind::InvalidBody),
        (Some(" ".repeat(64 * 1024 + 1)), AuthErrorKind::BodyTooLarge),
    ] {
        let mut request = client.post(format!("{}{START}", server.origin()));
        if let Some(body) = body {
            request = request.body(body);
        }
        let error = request.send().await.unwrap_err();
        assert_eq!(auth_error(&error).expect("the error is not an AuthError").kind(), kind);
        assert_eq!(error.to_string(), auth_error(&error).unwrap().to_string());
    }
    assert_eq!(aiuta.requests().len(), 0);
}

#[tokio::test]
async fn f3_reqwest_source_error_is_the_cause() {
    let busy = || TokenError::transient("busy").with_retry_after(Duration::from_secs(7));
    let source = Source::from_fn(move |_, _| async move { Err(busy()) });
    let client = ClientBuilder::new(reqwest())
        .with(jwt(source).build().unwrap().into_middleware())
        .with(Spy::responding_ok())
        .build();
    let request = client.post(format!("https://api.aiuta.com{START}")).with_extension(params("image-1"));
    let error = request.send().await.unwrap_err();
    let error = auth_error(&error).expect("the error is not an AuthError");
    assert_eq!((error.kind(), error.is_transient()), (AuthErrorKind::TokenSource, true));
    assert!(error.retry_after().is_some());
    assert!(std::error::Error::source(error).unwrap().is::<TokenError>());
}

#[tokio::test]
async fn f3_reqwest_inner_errors_pass_through() {
    let (_socket, origin) = loopback::refusing_origin();
    let layer = jwt(Source::new()).origins([origin.as_str()]).allow_unbound_tokens(true).build().unwrap();
    // A request with a token, one with the subscription id, and one without a credential.
    for url in [format!("{origin}/v1/x"), format!("{origin}{MODELS}"), "http://127.0.0.1:1/".to_owned()] {
        let error = client(&layer).get(&url).send().await.unwrap_err();
        assert!(error.is_connect() && error.url().unwrap().as_str() == url, "{error:?}");
    }

    struct Broken;
    #[async_trait::async_trait]
    impl Middleware for Broken {
        async fn handle(&self, _: Request, _: &mut Extensions, _: Next<'_>) -> reqwest_middleware::Result<Response> {
            Err(Error::middleware(std::fmt::Error))
        }
    }
    let client = ClientBuilder::new(reqwest()).with(layer.into_middleware()).with(Broken).build();
    match client.get(format!("{origin}{MODELS}")).send().await.unwrap_err() {
        Error::Middleware(error) => assert!(error.is::<std::fmt::Error>()),
        error @ Error::Reqwest(_) => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn reqwest_request_timeout_is_kept() {
    let aiuta = FakeAiuta::new();
    let server = aiuta.serve().await.unwrap();
    let _hold = aiuta.hold();
    let client = client(&jwt_layer(&aiuta, &server));
    let request = client.get(format!("{}{MODELS}", server.origin())).timeout(Duration::from_millis(20));
    let outcome = tokio::time::timeout(secs(10), request.send()).await.expect("the timeout of the request was lost");
    assert!(outcome.unwrap_err().is_timeout());
}
