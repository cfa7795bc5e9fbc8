//! Clocks of other machines: a backend that makes the tokens, and origins that disagree (rules D1, H1).

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};

use hyper::body::Incoming;
use tower_aiuta_auth::{JwtIssuer, RemoteTokenSource};

use super::*;

/// What two clocks are apart in these tests, in seconds.
const APART: [i64; 6] = [60, -60, 10 * MINUTES, -10 * MINUTES, DAY, -DAY];

/// A backend that makes tokens by this clock and states its time in `Date`.
fn backend(clock: &ManualClock) -> Recorder {
    let issuer = JwtIssuer::danger_allow_all(signer()).clock(clock.clone());
    let clock = clock.clone();
    Recorder::with_response(move |seen| {
        let (issuer, date) = (issuer.clone(), date(&clock));
        async move {
            let mut request = Request::new(Full::new(seen.body));
            (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (seen.method, seen.uri, seen.headers);
            let mut response = issuer.oneshot(request).await?;
            response.headers_mut().insert("date", date.parse()?);
            Ok(response)
        }
    })
}

/// A source that asks this backend, and counts that.
fn remote(backend: &Recorder) -> Source {
    let remote = RemoteTokenSource::new("https://shop.example/aiuta_jwt", backend.clone()).unwrap();
    Source::from_fn(move |_, request| {
        let remote = remote.clone();
        async move { remote.token(request).await }
    })
}

/// Aiuta, a machine and a backend that makes its tokens, each with a clock that is this many seconds off.
fn remote_setup([aiuta, machine, backend]: [i64; 3]) -> (Setup, ManualClock) {
    let right = ManualClock::default();
    let [aiuta, machine, backend_clock] = [aiuta, machine, backend].map(|seconds| off_by(seconds, &right));
    let source = remote(&self::backend(&backend_clock));
    let setup = Setup::with_source(aiuta, machine, source, |builder| builder);
    setup.aiuta.add_image("image-1");
    (setup, backend_clock)
}

#[tokio::test]
async fn d1_twenty_requests_cause_one_fetch_whatever_the_clock_says() {
    for seconds in APART {
        let (setup, backend_clock) = remote_setup([0, seconds, 0]);
        for _ in 0..20 {
            assert_eq!(setup.start("image-1").await, [200], "{seconds} s");
            setup.advance(2);
            backend_clock.advance(secs(2));
        }
        assert_eq!((setup.source.calls(), setup.offset()), (1, 0), "{seconds} s");

        let (setup, _) = remote_setup([0, seconds, 0]);
        let callers: Vec<_> = (0..20).map(|_| tokio::spawn(setup.service().oneshot(try_on("image-1")))).collect();
        for caller in callers {
            assert_eq!(caller.await.unwrap().unwrap().status(), 200);
        }
        assert_eq!((setup.source.calls(), setup.aiuta.requests().len()), (1, 20), "{seconds} s");
    }
}

#[tokio::test]
async fn d1_backend_clock_decides_over_a_real_connection() {
    for seconds in [10 * MINUTES, -10 * MINUTES] {
        let right = ManualClock::default();
        let backend = backend(&right);
        let served =
            ServiceExt::<Request<Incoming>>::map_err(backend.clone(), |error| -> Infallible { panic!("{error}") });
        let backend_origin = loopback::serve(served).await;
        let source = RemoteTokenSource::new(format!("{backend_origin}/aiuta_jwt"), loopback::client()).unwrap();
        let aiuta = FakeAiuta::new().with_clock(right.clone());
        aiuta.add_image("image-1");
        let server = aiuta.serve().await.unwrap();
        let builder = AiutaAuthLayer::builder().jwt(aiuta.subscription_id(), source).origins([server.origin()]);
        let layer = builder.clock(off_by(seconds, &right)).build().unwrap();
        let service = layer.layer(loopback::client());
        for _ in 0..20 {
            let uri = format!("{}/v1/sku_try_on_operations", server.origin());
            let start = post(&uri, r#"{"uploaded_image_id":"image-1","sku_id":"dress-1"}"#);
            assert_eq!(service.clone().oneshot(start).await.unwrap().status(), 200);
        }
        assert_eq!((backend.count(), aiuta.requests().len(), offset(&layer)), (1, 20, 0), "{seconds} s");
    }
}

#[tokio::test(start_paused = true)]
async fn d1_three_clocks_a_day_off_cause_at_most_one_more_fetch() {
    const OFF: [i64; 5] = [0, -60, 10 * MINUTES, DAY, -DAY];
    for (aiuta, machine, backend) in
        OFF.into_iter().flat_map(|a| OFF.into_iter().flat_map(move |m| OFF.map(move |b| (a, m, b))))
    {
        let case = format!("Aiuta {aiuta} s, machine {machine} s, backend {backend} s");
        let (setup, _) = remote_setup([aiuta, machine, backend]);
        for _ in 0..20 {
            let statuses = setup.start("image-1").await;
            // No token of this backend is valid for this Aiuta unless their clocks agree.
            if aiuta == backend {
                assert_eq!(statuses, [200], "{case}");
            }
        }
        assert_eq!(setup.offset(), 0, "{case}");
        let most = if aiuta == backend { 1 } else { 2 };
        assert!(setup.source.calls() <= most, "{case}: {} fetches", setup.source.calls());
    }
}

#[tokio::test]
async fn h1_wrong_date_of_one_401_causes_at_most_two_more_fetches() {
    // The clock is right. One 401 is dated a minute ahead, as from a gateway with a wrong clock.
    for seconds_each in [0, 1] {
        for (from_backend, dated) in [(false, true), (true, true), (false, false), (true, false)] {
            let clock = ManualClock::default();
            let source = if from_backend { remote(&backend(&clock)) } else { Source::new() };
            let layer = jwt_with_clock(&clock, source.clone());
            let first = AtomicBool::new(true);
            let inner = Recorder::with_response({
                let clock = clock.clone();
                move |_| {
                    let mut response = Response::builder();
                    if first.swap(false, Ordering::SeqCst) {
                        response = response.status(401).header("date", date(&off_by(60, &clock)));
                    } else if dated {
                        response = response.header("date", date(&clock));
                    }
                    let response = response.body(Full::default()).unwrap();
                    async move { Ok(response) }
                }
            });
            assert_eq!(send(&service(&layer, &inner), try_on("image-1")).await.unwrap(), 200);
            assert_eq!((inner.count(), source.calls()), (2, 2));
            // The replay's own date shows that the clock was right. Without a date nothing does.
            let expected = if dated { 0 } else { 60 };
            assert_eq!(offset(&layer), expected);
            for _ in 0..100 {
                clock.advance(secs(seconds_each));
                assert_eq!(send(&service(&layer, &inner), try_on("image-1")).await.unwrap(), 200);
                settle().await;
            }
            // A token of a minute is fetched at most twice in 100 seconds.
            let most = if seconds_each == 0 { 0 } else { 2 };
            assert!(source.calls() - 2 <= most, "{} fetches", source.calls());
            assert_eq!((inner.count(), offset(&layer)), (102, expected));
        }
    }
}

/// Passes a request on to Aiuta.
async fn forward(aiuta: FakeAiuta, seen: SentRequest) -> Result<Response<Full<Bytes>>, BoxError> {
    let mut request = Request::new(Full::new(seen.body));
    (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (seen.method, seen.uri, seen.headers);
    let (head, body) = aiuta.oneshot(request).await?.into_parts();
    Ok(Response::from_parts(head, Full::new(body.collect().await?.to_bytes())))
}

#[tokio::test]
async fn h1_origin_with_a_wrong_clock_causes_no_401_at_another() {
    for seconds in APART {
        let right = ManualClock::default();
        let wrong = off_by(seconds, &right);
        let aiutas = [&right, &wrong].map(|clock| FakeAiuta::new().with_clock(clock.clone()));
        let builder = AiutaAuthLayer::builder().jwt(FakeAiuta::SUBSCRIPTION_ID, signer()).clock(right.clone());
        let layer = builder.origins(["https://right.example", "https://wrong.example"]).build().unwrap();
        let inner = Recorder::with_response({
            let aiutas = aiutas.clone();
            move |seen| {
                let number = usize::from(seen.uri.host() == Some("wrong.example"));
                forward(aiutas[number].clone(), seen)
            }
        });
        let service = service(&layer, &inner);
        let start = |host: &str, image: &str| {
            aiutas.iter().for_each(|aiuta| aiuta.add_image(image));
            let mut request = try_on(image);
            *request.uri_mut() = format!("https://{host}/v1/sku_try_on_operations").parse().unwrap();
            let service = service.clone();
            async move { service.oneshot(request).await.unwrap().status().as_u16() }
        };
        for round in 0..20 {
            // One key for both origins, and keys of their own.
            for (at_wrong, at_right) in [
                ("image-1".to_owned(), "image-1".to_owned()),
                ("image-1".to_owned(), "image-2".to_owned()),
                (format!("wrong-{round}"), format!("right-{round}")),
            ] {
                let case = format!("{seconds} s, round {round}, {at_wrong}, {at_right}");
                assert_eq!(start("wrong.example", &at_wrong).await, 200, "{case}");
                assert_eq!(start("right.example", &at_right).await, 200, "{case}");
                assert_eq!(offset(&layer), 0, "{case}: the last response agrees with the clock");
            }
            let tasks: Vec<_> = (0..10)
                .map(|number| {
                    let host = ["wrong.example", "right.example"][number % 2];
                    tokio::spawn(start(host, &format!("{round}-{number}")))
                })
                .collect();
            for task in tasks {
                assert_eq!(task.await.unwrap(), 200, "{seconds} s, round {round}");
            }
            for clock in [&right, &wrong] {
                clock.advance(secs(1));
            }
        }
    }
}
