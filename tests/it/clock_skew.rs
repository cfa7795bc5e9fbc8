//! Rule H1 by requests: try-ons succeed although the clock of the machine is wrong. Unit tests cover the arithmetic.

mod other_clocks;
mod together;
mod trust;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Channel, Full};
use tower::{Layer, ServiceExt};
use tower_aiuta_auth::testing::{FakeAiuta, ManualClock};
use tower_aiuta_auth::{
    AiutaAuth, AiutaAuthBuilder, AiutaAuthLayer, AuthErrorKind, BoxError, Clock, JwtSigner, NoReplay, TokenError,
    TokenRequest, TokenSource,
};

use crate::support::*;

const UPLOADS: &str = "https://api.aiuta.com/v1/uploaded_images";
const MINUTES: i64 = 60;
const HOUR: i64 = 60 * MINUTES;
const DAY: i64 = 24 * HOUR;

/// Returns a clock that is `seconds` ahead of another, or behind it if negative.
fn off_by(seconds: i64, right: &ManualClock) -> ManualClock {
    let clock = ManualClock::new(right.now());
    let by = secs(seconds.unsigned_abs());
    if seconds < 0 {
        clock.step_back(by);
    } else {
        clock.advance(by);
    }
    clock
}

/// Aiuta, whose clock is right, and a layer whose clock is not.
struct Setup {
    aiuta: FakeAiuta,
    right: ManualClock,
    machine: ManualClock,
    source: Source,
    layer: AiutaAuthLayer,
}

impl Setup {
    /// The clock of the layer is `seconds` off.
    fn off_by(seconds: i64) -> Self {
        Self::with(seconds, |builder| builder)
    }

    fn with(seconds: i64, settings: impl FnOnce(AiutaAuthBuilder) -> AiutaAuthBuilder) -> Self {
        Self::signing(seconds, settings, None)
    }

    /// The first `calls` calls of the source wait for the gate.
    fn gated(seconds: i64, gate: &Gate, calls: usize) -> Self {
        Self::signing(seconds, |builder| builder, Some((gate.clone(), calls)))
    }

    fn signing(
        seconds: i64,
        settings: impl FnOnce(AiutaAuthBuilder) -> AiutaAuthBuilder,
        gated: Option<(Gate, usize)>,
    ) -> Self {
        let right = ManualClock::default();
        let signer = signer();
        let source = Source::from_fn(move |number, request| {
            let (signer, gated) = (signer.clone(), gated.clone().filter(|(_, calls)| number <= *calls));
            async move {
                if let Some((gate, _)) = gated {
                    gate.pass().await;
                }
                signer.token(request).await
            }
        });
        Self::with_source(right.clone(), off_by(seconds, &right), source, settings)
    }

    /// `right` is the clock of Aiuta, `machine` that of the layer.
    fn with_source(
        right: ManualClock,
        machine: ManualClock,
        source: Source,
        settings: impl FnOnce(AiutaAuthBuilder) -> AiutaAuthBuilder,
    ) -> Self {
        let aiuta = FakeAiuta::new().with_clock(right.clone());
        let builder = AiutaAuthLayer::builder().jwt(aiuta.subscription_id(), source.clone()).clock(machine.clone());
        Self { aiuta, right, machine, source, layer: settings(builder).build().unwrap() }
    }

    fn service(&self) -> AiutaAuth<FakeAiuta> {
        self.layer.layer(self.aiuta.clone())
    }

    /// Advances both clocks.
    fn advance(&self, seconds: i64) {
        for clock in [&self.right, &self.machine] {
            clock.advance(secs(seconds.unsigned_abs()));
        }
    }

    async fn upload(&self) -> String {
        let form = "--b\r\ncontent-disposition: form-data; name=\"image_data\"\r\n\r\na photo\r\n--b--\r\n";
        let mut upload = post(UPLOADS, form);
        upload.headers_mut().insert("content-type", "multipart/form-data; boundary=b".parse().unwrap());
        let uploaded = self.service().oneshot(upload).await.unwrap().into_body().collect().await.unwrap();
        let image: serde_json::Value = serde_json::from_slice(&uploaded.to_bytes()).unwrap();
        self.aiuta.clear_requests();
        image["id"].as_str().unwrap().to_owned()
    }

    /// Starts a try-on, and returns the status of each time it was sent.
    async fn start(&self, image: &str) -> Vec<u16> {
        self.aiuta.clear_requests();
        let status = send(&self.service(), try_on(image)).await.unwrap();
        let statuses: Vec<_> = self.aiuta.requests().iter().map(|request| request.status.unwrap()).collect();
        assert_eq!(statuses.last(), Some(&status.as_u16()), "the caller gets the last response");
        statuses
    }

    fn offset(&self) -> i64 {
        offset(&self.layer)
    }
}

/// Returns a signer whose tokens `FakeAiuta` accepts.
fn signer() -> JwtSigner {
    JwtSigner::hs256(FakeAiuta::ISSUER, FakeAiuta::SECRET).unwrap()
}

fn offset(layer: &AiutaAuthLayer) -> i64 {
    layer.token_cache().unwrap().stats().clock_offset
}

/// Responds to every request with this status and these headers.
fn responding(status: u16, headers: &[(&str, &str)]) -> Recorder {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    let response = response.body(Full::default()).unwrap();
    Recorder::with_response(move |_| {
        let response = response.clone();
        async move { Ok(response) }
    })
}

/// Responds with 401 and this `Date` to the tokens with these numbers, and with 200 and no `Date` to others.
fn rejecting_numbers(numbers: &'static [u64], date: String) -> Recorder {
    Recorder::with_response(move |request| {
        let mut response = Response::builder();
        if numbers.contains(&token_number(request.token())) {
            response = response.status(401).header("date", &date);
        }
        let response = response.body(Full::default()).unwrap();
        async move { Ok(response) }
    })
}

/// Returns the time of a clock as the value of a `Date` header.
fn date(clock: &ManualClock) -> String {
    httpdate::fmt_http_date(clock.now())
}

#[tokio::test]
async fn h1_clock_ten_minutes_off_costs_only_the_first_request_a_replay() {
    for seconds in [10 * MINUTES, -10 * MINUTES] {
        // With a source that completes at once, and with one that has to wait.
        for waits in [false, true] {
            let gate = Gate::closed();
            gate.open(100);
            let setup = Setup::gated(seconds, &gate, if waits { usize::MAX } else { 0 });
            let (image, other) = (setup.upload().await, setup.upload().await);

            assert_eq!(setup.start(&image).await, [401, 200]);
            let asked = setup.source.requests();
            assert_eq!((asked[0].now(), asked[0].force_refresh()), (setup.machine.now(), false));
            assert_eq!((asked[1].now(), asked[1].force_refresh()), (setup.right.now(), true));

            assert_eq!((setup.start(&image).await, setup.source.calls()), (vec![200], 2), "a hit");
            assert_eq!((setup.start(&other).await, setup.source.calls()), (vec![200], 3));
            setup.advance(MINUTES);
            assert_eq!((setup.start(&image).await, setup.source.calls()), (vec![200], 4));

            assert_eq!(setup.aiuta.operations_started(), 4);
            let stats = setup.layer.token_cache().unwrap().stats();
            assert_eq!((stats.clock_offset, stats.rejected, stats.replays), (-seconds, 1, 1));
        }
    }
}

#[tokio::test]
async fn h1_replay_is_identical_except_for_the_token() {
    let setup = Setup::off_by(-10 * MINUTES);
    let image = setup.upload().await;
    setup.start(&image).await;
    let [first, second] = setup.aiuta.requests().try_into().unwrap();
    assert_ne!(first.headers["authorization"], second.headers["authorization"]);
    let without_token = |mut seen: tower_aiuta_auth::testing::RecordedRequest| {
        seen.headers.remove("authorization");
        (seen.method, seen.uri, seen.version, seen.headers, seen.body)
    };
    assert_eq!(without_token(first), without_token(second));
}

#[tokio::test]
async fn h1_token_of_a_corrected_clock_is_used_as_long_as_any() {
    for seconds in [10 * MINUTES, -10 * MINUTES] {
        let setup = Setup::with(seconds, |builder| builder.refresh_ahead(0.0));
        let image = setup.upload().await;
        setup.start(&image).await;
        // 60 s less the margin, as with a correct clock.
        setup.advance(54);
        assert_eq!((setup.start(&image).await, setup.source.calls()), (vec![200], 2));
        setup.advance(1);
        assert_eq!((setup.start(&image).await, setup.source.calls()), (vec![200], 3));
    }
}

#[tokio::test]
async fn h1_request_that_is_not_replayed_adopts_no_offset() {
    let no_replay = || {
        let mut request = try_on("image-1");
        request.extensions_mut().insert(NoReplay);
        request.map(|body| BoxBody::new(body.map_err(BoxError::from)))
    };
    // The body has an unknown length.
    let streaming = || {
        let (sender, body) = Channel::<Bytes, BoxError>::new(1);
        drop(sender);
        let mut request = Request::post(SKU_IMAGES).body(BoxBody::new(body)).unwrap();
        request.extensions_mut().insert(params("image-1"));
        request
    };
    let plain = || try_on("image-1").map(|body: Full<Bytes>| BoxBody::new(body.map_err(BoxError::from)));
    type Make<'a> = &'a dyn Fn() -> Request<BoxBody<Bytes, BoxError>>;
    let cases: [(Make<'_>, bool); 3] = [(&no_replay, true), (&streaming, true), (&plain, false)];
    for (request, replays) in cases {
        let setup = Setup::with(10 * MINUTES, |builder| builder.replay_unauthorized(replays));
        let response = setup.service().oneshot(request()).await.unwrap();
        assert_eq!((response.status().as_u16(), setup.aiuta.requests().len()), (401, 1));
        assert_eq!((setup.source.calls(), setup.offset()), (1, 0), "the offset could not be tried");
        // A request that can be replayed tries it, and the offset then also serves requests that can't be.
        let image = setup.upload().await;
        let (statuses, offset) = if replays { (vec![401, 200], -10 * MINUTES) } else { (vec![401], 0) };
        assert_eq!((setup.start(&image).await, setup.offset()), (statuses, offset));
        if replays {
            let other = setup.upload().await;
            let mut request = try_on(&other);
            request.extensions_mut().insert(NoReplay);
            assert_eq!(send(&setup.service(), request).await.unwrap(), 200);
        }
    }
}

#[tokio::test]
async fn h1_rejected_cached_token_is_replaced_by_the_corrected_clock() {
    // The token was fetched by a wrong clock.
    let setup = Setup::off_by(-10 * MINUTES);
    let image = setup.upload().await;
    setup.layer.token_cache().unwrap().get(&params(&image)).await.unwrap();
    assert_eq!((setup.start(&image).await, setup.source.calls()), (vec![401, 200], 2));
    assert_eq!(setup.offset(), 10 * MINUTES);

    // The token was fetched by a correct clock. Then the clock went wrong and the token was revoked.
    let setup = Setup::off_by(0);
    let image = setup.upload().await;
    assert_eq!(setup.start(&image).await, [200]);
    setup.machine.advance(secs(20));
    setup.aiuta.revoke_tokens();
    assert_eq!((setup.start(&image).await, setup.source.calls()), (vec![401, 200], 2));
    assert_eq!(setup.offset(), -20);
}

#[tokio::test]
async fn h1_request_is_never_sent_a_third_time() {
    // The first response has no date. The second has one, but the request was already sent twice.
    let clock = ManualClock::default();
    let source = Source::new();
    let layer = jwt_with_clock(&clock, source.clone());
    layer.token_cache().unwrap().get(&params("image-1")).await.unwrap();
    let later = off_by(10 * MINUTES, &clock);
    let dated = date(&later);
    let inner = Recorder::with_response(move |seen| {
        let mut response = Response::builder();
        response = match token_number(seen.token()) {
            1 => response.status(401),
            2 | 3 => response.status(401).header("date", &dated),
            _ => response,
        };
        let response = response.body(Full::default()).unwrap();
        async move { Ok(response) }
    });
    assert_eq!(send(&service(&layer, &inner), try_on("image-1")).await.unwrap(), 401);
    assert_eq!((inner.count(), source.calls(), offset(&layer)), (2, 2, 0));
    // The request for another image tries the offset.
    assert_eq!(send(&service(&layer, &inner), try_on("image-2")).await.unwrap(), 200);
    assert_eq!((inner.count(), source.calls(), offset(&layer)), (4, 4, 10 * MINUTES));
    // After two rejections, the next token of the first image is fetched a second later (rule E5), with the offset.
    clock.advance(secs(1));
    assert_eq!(send(&service(&layer, &inner), try_on("image-1")).await.unwrap(), 200);
    assert_eq!((inner.count(), source.calls()), (5, 5));
    assert_eq!(source.requests()[4].now(), later.now() + secs(1));
}

#[test]
fn h1_offset_is_adopted_without_a_runtime() {
    let setup = Setup::off_by(10 * MINUTES);
    futures::executor::block_on(async {
        let image = setup.upload().await;
        assert_eq!(setup.start(&image).await, [401, 200]);
        assert_eq!(setup.start(&image).await, [200]);
    });
}

#[tokio::test]
async fn h1_offset_is_adopted_over_a_real_connection() {
    let right = ManualClock::default();
    let machine = off_by(10 * MINUTES, &right);
    let aiuta = FakeAiuta::new().with_clock(right);
    let server = aiuta.serve().await.unwrap();
    let builder = AiutaAuthLayer::builder().jwt(aiuta.subscription_id(), signer()).origins([server.origin()]);
    let layer = builder.clock(machine).build().unwrap();
    let mut statuses = Vec::new();
    for _ in 0..2 {
        let uri = format!("{}/v1/sku_try_on_operations", server.origin());
        let start = post(&uri, r#"{"uploaded_image_id":"image-1","sku_id":"dress-1"}"#);
        statuses.push(layer.layer(loopback::client()).oneshot(start).await.unwrap().status().as_u16());
    }
    assert_eq!(statuses, [400, 400], "the image is unknown, so the token was accepted");
    let rejected: Vec<_> = aiuta.requests().iter().map(|request| request.refusal.is_some()).collect();
    assert_eq!((rejected, offset(&layer)), (vec![true, false, false], -10 * MINUTES));
}
