//! Repeats requests that fail, with a timeout for the whole call and one for each attempt.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::util::BoxCloneSyncService;
use tower::{ServiceBuilder, ServiceExt, retry::RetryLayer, timeout::TimeoutLayer};
use tower_aiuta_auth::testing::{FakeAiuta, Fault};
use tower_aiuta_auth::{AiutaAuthLayer, AiutaRetryPolicy, BoxError};

/// The stack is boxed once, as the section "Order" of README.md explains.
type AiutaClient = BoxCloneSyncService<Request<Full<Bytes>>, Response<Full<Bytes>>, BoxError>;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // The stand-in is a Tower service too. It takes the place of an HTTP client here.
    let aiuta = FakeAiuta::new();
    let stack = ServiceBuilder::new()
        .layer(TimeoutLayer::new(Duration::from_secs(30)))
        .layer(RetryLayer::new(AiutaRetryPolicy::new().read_retries(3)))
        .layer(AiutaAuthLayer::api_key(aiuta.api_key())?)
        .layer(TimeoutLayer::new(Duration::from_secs(10)))
        .service(aiuta.clone());
    let client: AiutaClient = BoxCloneSyncService::new(stack);

    aiuta.fail_next(1, Fault::Unavailable);
    let models =
        Request::get("https://api.aiuta.com/digital-try-on/v1/predefined_try_on_models").body(Full::default())?;
    let response = tokio::spawn(client.oneshot(models)).await??;
    println!("models: {}, after {} attempts", response.status(), aiuta.requests().len());
    assert_eq!(response.status(), 200);
    Ok(())
}
