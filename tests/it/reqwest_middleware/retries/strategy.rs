//! Rule F6: `AiutaRetryableStrategy`, with connections over loopback.

use reqwest_middleware::{Error, RequestBuilder};
use reqwest_retry::RetryError;
use tower_aiuta_auth::testing::FakeServer;
use tower_aiuta_auth::{
    AiutaRetryableStrategy, AuthError, AuthErrorKind, JwtSigner, NoReplay, TokenError, TokenSource,
};

use super::*;

const IMAGE: &str = "image-1";
const ITEM: &str = "/v1/uploaded_images/image-1";

fn strategy() -> RetryTransientMiddleware<ThreeAttempts, AiutaRetryableStrategy> {
    RetryTransientMiddleware::new_with_policy_and_strategy(ThreeAttempts, AiutaRetryableStrategy)
}

/// `FakeAiuta`, and a token source whose first calls fail.
struct Setup {
    aiuta: FakeAiuta,
    server: FakeServer,
    source: Source,
    layer: AiutaAuthLayer,
}

impl Setup {
    async fn new(failures: usize, error: fn(&'static str) -> TokenError) -> Self {
        let aiuta = FakeAiuta::new();
        aiuta.add_image(IMAGE);
        let server = aiuta.serve().await.unwrap();
        let signer = JwtSigner::hs256(aiuta.issuer(), aiuta.secret()).unwrap();
        let source = Source::from_fn(move |number, request| {
            let signer = signer.clone();
            async move { if number <= failures { Err(error("busy")) } else { signer.token(request).await } }
        });
        let layer = jwt(source.clone()).origins([server.origin()]).build().unwrap();
        Self { aiuta, server, source, layer }
    }

    /// Sends a request through the strategy and the middleware.
    async fn send(&self, request: impl FnOnce(&ClientWithMiddleware, &str) -> RequestBuilder) -> Outcome {
        self.send_through(|client, auth| client.with(strategy()).with(auth), request).await
    }

    async fn send_through(
        &self,
        build: impl FnOnce(ClientBuilder, tower_aiuta_auth::AiutaAuthMiddleware) -> ClientBuilder,
        request: impl FnOnce(&ClientWithMiddleware, &str) -> RequestBuilder,
    ) -> Outcome {
        let client = build(ClientBuilder::new(reqwest()), self.layer.clone().into_middleware()).build();
        let result = request(&client, self.server.origin()).send().await;
        Outcome {
            result: result.map(|response| response.status().as_u16()),
            asked: self.source.calls(),
            sent: self.aiuta.requests().len(),
        }
    }
}

struct Outcome {
    result: Result<u16, Error>,
    asked: usize,
    sent: usize,
}

impl Outcome {
    /// Returns the status, and how often the source was asked and the request was sent.
    fn ok(self) -> (u16, usize, usize) {
        (self.result.unwrap(), self.asked, self.sent)
    }
}

fn start(client: &ClientWithMiddleware, origin: &str) -> RequestBuilder {
    let body = serde_json::json!({ "uploaded_image_id": IMAGE, "sku_ids": ["dress-1"] });
    client.post(format!("{origin}{START}")).json(&body)
}

/// A request that is idempotent and needs a token.
fn delete(client: &ClientWithMiddleware, origin: &str) -> RequestBuilder {
    client.delete(format!("{origin}{ITEM}")).with_extension(params(IMAGE))
}

fn read(client: &ClientWithMiddleware, origin: &str) -> RequestBuilder {
    client.get(format!("{origin}{MODELS}"))
}

/// An upload that `FakeAiuta` refuses with a 4xx, since it has no image.
fn upload(client: &ClientWithMiddleware, origin: &str) -> RequestBuilder {
    client.post(format!("{origin}{UPLOADS}"))
}

#[tokio::test]
async fn f6_reqwest_request_whose_token_failed_is_repeated_and_sent_once() {
    for request in [start, delete] {
        let setup = Setup::new(1, TokenError::transient).await;
        let (status, asked, sent) = setup.send(request).await.ok();
        assert!((200..300).contains(&status), "{status}");
        assert_eq!((asked, sent), (2, 1));
        assert_eq!(setup.aiuta.violations().len(), 0);
        // `NoReplay` changes nothing, because the first attempt was not sent.
        let setup = Setup::new(1, TokenError::transient).await;
        let outcome = setup.send(|client, origin| request(client, origin).with_extension(NoReplay)).await;
        assert_eq!(outcome.ok(), (status, 2, 1));
    }
    // Without this strategy, it is not repeated.
    let setup = Setup::new(1, TokenError::transient).await;
    let outcome = setup.send_through(|client, auth| client.with(retry()).with(auth), delete).await;
    assert_eq!((outcome.result.is_err(), outcome.asked, outcome.sent), (true, 1, 0));
}

#[tokio::test]
async fn f6_reqwest_permanent_auth_error_is_not_repeated() {
    for error in [TokenError::new as fn(&'static str) -> TokenError, TokenError::denied] {
        let outcome = Setup::new(9, error).await.send(start).await;
        assert_eq!((outcome.asked, outcome.sent), (1, 0));
        let Err(Error::Middleware(error)) = outcome.result else { panic!("no error of a middleware") };
        let Some(RetryError::Error(Error::Middleware(error))) = error.downcast_ref() else { panic!("{error:?}") };
        assert_eq!(error.downcast_ref::<AuthError>().unwrap().kind(), AuthErrorKind::TokenSource);
    }
}

/// Wraps every error of the following middlewares.
struct Wrap;

#[derive(Debug)]
struct Wrapped(Error);

impl std::fmt::Display for Wrapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a middleware failed")
    }
}

impl std::error::Error for Wrapped {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

#[async_trait::async_trait]
impl Middleware for Wrap {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        next.run(request, extensions).await.map_err(|error| Error::middleware(Wrapped(error)))
    }
}

/// A policy that never repeats.
struct OneAttempt;

impl RetryPolicy for OneAttempt {
    fn should_retry(&self, _: SystemTime, _: u32) -> RetryDecision {
        RetryDecision::DoNotRetry
    }
}

#[tokio::test]
async fn f6_reqwest_auth_error_is_found_inside_errors_of_other_middlewares() {
    // Wrapped by a middleware, by reqwest-retry, and by both.
    let by_retry = || RetryTransientMiddleware::new_with_policy(OneAttempt);
    for wrapping in 0..3 {
        for (error, expected) in [
            (TokenError::transient as fn(&'static str) -> TokenError, (true, 2, 1)),
            (TokenError::denied, (false, 1, 0)),
        ] {
            let setup = Setup::new(1, error).await;
            let build = |client: ClientBuilder, auth| match wrapping {
                0 => client.with(strategy()).with(Wrap).with(auth),
                1 => client.with(strategy()).with(by_retry()).with(auth),
                _ => client.with(strategy()).with(by_retry()).with(Wrap).with(by_retry()).with(auth),
            };
            let outcome = setup.send_through(build, start).await;
            assert_eq!((outcome.result.is_ok(), outcome.asked, outcome.sent), expected, "wrapping {wrapping}");
        }
    }
    // After retries: the last error is that of the third attempt.
    let setup = Setup::new(3, TokenError::transient).await;
    let outcome = setup.send_through(|client, auth| client.with(strategy()).with(strategy()).with(auth), start).await;
    assert_eq!(outcome.ok(), (200, 4, 1));
}

#[tokio::test]
async fn f6_reqwest_response_to_a_start_or_with_no_replay_is_not_repeated() {
    for fault in [Fault::Unavailable, Fault::TooManyRequests { retry_after: secs(0) }] {
        for (request, sent) in [
            (start as fn(&ClientWithMiddleware, &str) -> RequestBuilder, 1),
            (|client, origin| client.patch(format!("{origin}{ITEM}")).with_extension(params(IMAGE)), 1),
            (|client, origin| delete(client, origin).with_extension(NoReplay), 1),
            (|client, origin| read(client, origin).with_extension(NoReplay), 1),
            (|client, origin| upload(client, origin).with_extension(NoReplay), 1),
            (delete, 3),
            (read, 3),
            (upload, 3),
        ] {
            let setup = Setup::new(0, TokenError::new).await;
            setup.aiuta.fail_next(3, fault);
            let outcome = setup.send(request).await;
            assert!(matches!(outcome.result, Ok(429 | 503)), "{:?}", outcome.result);
            assert_eq!(outcome.sent, sent, "{:?}", setup.aiuta.requests());
        }
    }
    // Inside the middleware no response is marked yet.
    let setup = Setup::new(0, TokenError::new).await;
    setup.aiuta.fail_next(3, Fault::Unavailable);
    let outcome = setup.send_through(|client, auth| client.with(auth).with(strategy()), start).await;
    assert_eq!(outcome.ok(), (503, 1, 3));
}

#[tokio::test]
async fn f6_reqwest_start_is_repeated_after_a_lost_connection() {
    // A documented limit of reqwest-retry: a strategy does not see the request.
    let setup = Setup::new(0, TokenError::new).await;
    setup.aiuta.fail_next(1, Fault::Disconnect);
    assert_eq!(setup.send(start).await.ok(), (200, 1, 2));
}
