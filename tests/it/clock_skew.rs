//! Rule H1 on the wire: a machine whose clock is wrong gets its try-ons through. The arithmetic is tested in tables beside the code.

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
    TokenSource,
};

use crate::support::*;

const UPLOADS: &str = "https://api.aiuta.com/v1/uploaded_images";
const MINUTES: i64 = 60;
const HOUR: i64 = 60 * MINUTES;
const DAY: i64 = 24 * HOUR;

/// A clock that is so many seconds ahead of another, or behind.
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

/// Aiuta, whose clock is right, and a machine whose clock is not.
struct Pair {
    aiuta: FakeAiuta,
    right: ManualClock,
    ours: ManualClock,
    source: Source,
    layer: AiutaAuthLayer,
}

impl Pair {
    /// With tokens of `JwtSigner`.
    fn off_by(seconds: i64) -> Self {
        Self::with(seconds, |builder| builder)
    }

    fn with(seconds: i64, settings: impl FnOnce(AiutaAuthBuilder) -> AiutaAuthBuilder) -> Self {
        Self::signing(seconds, settings, None)
    }

    /// The first so many calls of the source wait for the gate.
    fn held(seconds: i64, gate: &Gate, calls: usize) -> Self {
        Self::signing(seconds, |builder| builder, Some((gate.clone(), calls)))
    }

    fn signing(
        seconds: i64,
        settings: impl FnOnce(AiutaAuthBuilder) -> AiutaAuthBuilder,
        held: Option<(Gate, usize)>,
    ) -> Self {
        let right = ManualClock::default();
        let ours = off_by(seconds, &right);
        let aiuta = FakeAiuta::new().with_clock(right.clone());
        let signer = JwtSigner::hs256(aiuta.issuer(), aiuta.secret()).unwrap();
        let source = Source::from_fn(move |number, request| {
            let (signer, held) = (signer.clone(), held.clone().filter(|(_, calls)| number <= *calls));
            async move {
                if let Some((gate, _)) = held {
                    gate.pass().await;
                }
                signer.token(request).await
            }
        });
        let builder = AiutaAuthLayer::builder().jwt(aiuta.subscription_id(), source.clone()).clock(ours.clone());
        Self { aiuta, right, ours, source, layer: settings(builder).build().unwrap() }
    }

    fn service(&self) -> AiutaAuth<FakeAiuta> {
        self.layer.layer(self.aiuta.clone())
    }

    /// Both clocks go on.
    fn pass(&self, seconds: i64) {
        for clock in [&self.right, &self.ours] {
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

    /// Starts a try-on; answers the status of each sending.
    async fn start(&self, image: &str) -> Vec<u16> {
        self.aiuta.clear_requests();
        let status = send(&self.service(), try_on(image)).await.unwrap();
        let statuses: Vec<_> = self.aiuta.requests().iter().map(|request| request.status.unwrap()).collect();
        assert_eq!(statuses.last(), Some(&status.as_u16()), "the last answer is the caller's");
        statuses
    }

    fn offset(&self) -> i64 {
        offset(&self.layer)
    }
}

fn offset(layer: &AiutaAuthLayer) -> i64 {
    layer.token_cache().unwrap().stats().clock_offset
}

/// Answers everything so, with these headers.
fn answering(status: u16, headers: &[(&str, &str)]) -> Recorder {
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

/// The clock's time as a `Date` has it.
fn date(clock: &ManualClock) -> String {
    httpdate::fmt_http_date(clock.now())
}

#[tokio::test]
async fn h1_clock_ten_minutes_off_costs_only_the_first_request_a_replay() {
    for seconds in [10 * MINUTES, -10 * MINUTES] {
        // A source that is done at once, and one that has to be waited for.
        for waits in [false, true] {
            let gate = Gate::closed();
            gate.open(100);
            let pair = Pair::held(seconds, &gate, if waits { usize::MAX } else { 0 });
            let (image, other) = (pair.upload().await, pair.upload().await);

            assert_eq!(pair.start(&image).await, [401, 200]);
            let asked = pair.source.requests();
            assert_eq!((asked[0].now(), asked[0].force_refresh()), (pair.ours.now(), false));
            assert_eq!((asked[1].now(), asked[1].force_refresh()), (pair.right.now(), true));

            assert_eq!((pair.start(&image).await, pair.source.calls()), (vec![200], 2), "a hit");
            assert_eq!((pair.start(&other).await, pair.source.calls()), (vec![200], 3));
            pair.pass(MINUTES);
            assert_eq!((pair.start(&image).await, pair.source.calls()), (vec![200], 4));

            assert_eq!(pair.aiuta.operations_started(), 4);
            let stats = pair.layer.token_cache().unwrap().stats();
            assert_eq!((stats.clock_offset, stats.rejected, stats.replays), (-seconds, 1, 1));
        }
    }
}

#[tokio::test]
async fn h1_replay_is_identical_except_for_the_token() {
    let pair = Pair::off_by(-10 * MINUTES);
    let image = pair.upload().await;
    pair.start(&image).await;
    let [first, second] = pair.aiuta.requests().try_into().unwrap();
    assert_ne!(first.headers["authorization"], second.headers["authorization"]);
    let but_the_token = |mut seen: tower_aiuta_auth::testing::Recorded| {
        seen.headers.remove("authorization");
        (seen.method, seen.uri, seen.version, seen.headers, seen.body)
    };
    assert_eq!(but_the_token(first), but_the_token(second));
}

#[tokio::test]
async fn h1_freshness_uses_the_corrected_clock() {
    for seconds in [10 * MINUTES, -10 * MINUTES] {
        let pair = Pair::with(seconds, |builder| builder.refresh_ahead(0.0));
        let image = pair.upload().await;
        pair.start(&image).await;
        // 60 s less the margin, as with a clock that is right.
        pair.pass(54);
        assert_eq!((pair.start(&image).await, pair.source.calls()), (vec![200], 2));
        pair.pass(1);
        assert_eq!((pair.start(&image).await, pair.source.calls()), (vec![200], 3));
    }
}

#[tokio::test]
async fn h1_request_that_is_not_replayed_still_adopts_the_offset() {
    let no_replay = |_: &AiutaAuthLayer| {
        let mut request = try_on("image-1");
        request.extensions_mut().insert(NoReplay);
        request.map(|body| BoxBody::new(body.map_err(BoxError::from)))
    };
    // Of unknown length.
    let streaming = |_: &AiutaAuthLayer| {
        let (sender, body) = Channel::<Bytes, BoxError>::new(1);
        drop(sender);
        let mut request = Request::post(SKU_IMAGES).body(BoxBody::new(body)).unwrap();
        request.extensions_mut().insert(params("image-1"));
        request
    };
    let plain =
        |_: &AiutaAuthLayer| try_on("image-1").map(|body: Full<Bytes>| BoxBody::new(body.map_err(BoxError::from)));
    type Make<'a> = &'a dyn Fn(&AiutaAuthLayer) -> Request<BoxBody<Bytes, BoxError>>;
    let cases: [(Make<'_>, bool); 3] = [(&no_replay, true), (&streaming, true), (&plain, false)];
    for (request, replays) in cases {
        let pair = Pair::with(10 * MINUTES, |builder| builder.replay_unauthorized(replays));
        let response = pair.service().oneshot(request(&pair.layer)).await.unwrap();
        assert_eq!((response.status().as_u16(), pair.aiuta.requests().len()), (401, 1));
        assert_eq!(pair.offset(), -10 * MINUTES);
        let image = pair.upload().await;
        assert_eq!(pair.start(&image).await, [200]);
    }
}

#[tokio::test]
async fn h1_rejected_cached_token_is_replaced_by_the_corrected_clock() {
    // It was fetched by the wrong one.
    let pair = Pair::off_by(-10 * MINUTES);
    let image = pair.upload().await;
    pair.layer.token_cache().unwrap().get(&params(&image)).await.unwrap();
    assert_eq!((pair.start(&image).await, pair.source.calls()), (vec![401, 200], 2));
    assert_eq!(pair.offset(), 10 * MINUTES);

    // It was fetched by a right one, which went wrong; then it was revoked.
    let pair = Pair::off_by(0);
    let image = pair.upload().await;
    assert_eq!(pair.start(&image).await, [200]);
    pair.ours.advance(secs(20));
    pair.aiuta.revoke_tokens();
    assert_eq!((pair.start(&image).await, pair.source.calls()), (vec![401, 200], 2));
    assert_eq!(pair.offset(), -20);
}

#[tokio::test]
async fn h1_request_is_never_sent_a_third_time() {
    // The first answer has no date; by the second, to a token that was fetched for the request, it is too late for this one.
    let clock = ManualClock::default();
    let source = Source::new();
    let layer = jwt_with_clock(&clock, source.clone());
    layer.token_cache().unwrap().get(&params("image-1")).await.unwrap();
    let later = date(&off_by(10 * MINUTES, &clock));
    let inner = Recorder::with_response(move |seen| {
        let mut response = Response::builder();
        response = match token_number(seen.token()) {
            1 => response.status(401),
            2 => response.status(401).header("date", &later),
            _ => response,
        };
        let response = response.body(Full::default()).unwrap();
        async move { Ok(response) }
    });
    assert_eq!(send(&service(&layer, &inner), try_on("image-1")).await.unwrap(), 401);
    assert_eq!((inner.count(), source.calls(), offset(&layer)), (2, 2, 10 * MINUTES));
    assert_eq!(send(&service(&layer, &inner), try_on("image-1")).await.unwrap(), 200);
    assert_eq!((inner.count(), source.calls()), (3, 3));
}

#[test]
fn h1_offset_is_adopted_without_a_runtime() {
    let pair = Pair::off_by(10 * MINUTES);
    futures::executor::block_on(async {
        let image = pair.upload().await;
        assert_eq!(pair.start(&image).await, [401, 200]);
        assert_eq!(pair.start(&image).await, [200]);
    });
}

#[tokio::test]
async fn h1_offset_is_adopted_over_a_real_connection() {
    let right = ManualClock::default();
    let ours = off_by(10 * MINUTES, &right);
    let aiuta = FakeAiuta::new().with_clock(right);
    let server = aiuta.serve().await.unwrap();
    let signer = JwtSigner::hs256(aiuta.issuer(), aiuta.secret()).unwrap();
    let builder = AiutaAuthLayer::builder().jwt(aiuta.subscription_id(), signer).origins([server.origin()]);
    let layer = builder.clock(ours).build().unwrap();
    let mut statuses = Vec::new();
    for _ in 0..2 {
        let uri = format!("{}/v1/sku_try_on_operations", server.origin());
        let start = post(&uri, r#"{"uploaded_image_id":"image-1","sku_id":"dress-1"}"#);
        statuses.push(layer.layer(loopback::client()).oneshot(start).await.unwrap().status().as_u16());
    }
    assert_eq!(statuses, [400, 400], "there is no such image: the credential was right");
    let refused: Vec<_> = aiuta.requests().iter().map(|request| request.refusal.is_some()).collect();
    assert_eq!((refused, offset(&layer)), (vec![true, false, false], -10 * MINUTES));
}
