//! Rule H1: from which host a `Date` adopts an offset.

use http::header::LOCATION;
use http_body_util::Full;
use tower_aiuta_auth::testing::{FakeAiuta, ManualClock};
use tower_aiuta_auth::{Clock, JwtSigner};

use super::*;
use crate::support::servers::{Server, redirecting};
use crate::support::*;

/// Returns a clock that is ten minutes ahead.
fn fast_clock() -> ManualClock {
    let clock = ManualClock::default();
    clock.advance(secs(600));
    clock
}

#[tokio::test]
async fn h1_reqwest_adopts_the_clock_offset() {
    let aiuta = FakeAiuta::new().with_clock(ManualClock::default());
    let server = aiuta.serve().await.unwrap();
    let signer = JwtSigner::hs256(aiuta.issuer(), aiuta.secret()).unwrap();
    let builder = AiutaAuthLayer::builder().jwt(aiuta.subscription_id(), signer).origins([server.origin()]);
    let layer = builder.clock(fast_clock()).build().unwrap();
    for sent in [2, 3] {
        let start = client(&layer).post(format!("{}{START}", server.origin()));
        let response = start.body(r#"{"uploaded_image_id":"image-1","sku_id":"dress-1"}"#).send().await.unwrap();
        // The image is unknown, so the token was accepted.
        assert_eq!((response.status().as_u16(), aiuta.requests().len()), (400, sent));
    }
    assert_eq!(layer.token_cache().unwrap().stats().clock_offset, -600);
}

#[tokio::test]
async fn h1_reqwest_ignores_the_date_of_a_redirect_target() {
    let date = httpdate::fmt_http_date(ManualClock::default().now());
    // It accepts the second token only. reqwest takes the token off a request that it redirects to another origin.
    let rejecting = Recorder::with_response(move |request| {
        let accepts = request.headers.contains_key("authorization") && token_number(request.token()) == 2;
        let status = if accepts { 200 } else { 401 };
        let response = http::Response::builder().status(status).header("date", &date).body(Full::default()).unwrap();
        async move { Ok(response) }
    });
    let foreign = Server::recording(&rejecting).await;
    let elsewhere = format!("{}/elsewhere", foreign.origin());
    let redirector = redirecting(move |_| Some(elsewhere.clone()));
    let redirector = Server::recording(&redirector).await;
    for (origin, status, count, offset) in [(redirector.origin(), 401, 1, 0), (foreign.origin(), 200, 3, -600)] {
        let layer = jwt(Source::new()).origins([origin]).clock(fast_clock()).build().unwrap();
        let start = client(&layer).post(format!("{origin}{START}")).with_extension(params("image-1"));
        let response = start.send().await.unwrap();
        assert_eq!(response.status(), status);
        assert!(response.headers().get(LOCATION).is_none() && response.headers().contains_key("date"));
        assert_eq!((rejecting.count(), layer.token_cache().unwrap().stats().clock_offset), (count, offset));
    }
}
