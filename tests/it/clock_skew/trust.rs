//! Which `Date` headers adopt an offset, and for how long it is in force.

use super::*;

#[tokio::test]
async fn h1_offset_is_adopted_from_five_seconds_to_a_day() {
    for (seconds, adopted) in [
        (0, false),
        (4, false),
        (-5, false),
        (5, false),
        (6, true),
        (-6, true),
        (DAY, true),
        (-DAY, true),
        (DAY + 1, false),
        (-DAY - 1, false),
        (365 * DAY, false),
    ] {
        let clock = ManualClock::default();
        let source = Source::new();
        let layer = jwt_with_clock(&clock, source.clone());
        let aiuta = off_by(seconds, &clock);
        let (rejected, status, sent): (&[u64], _, _) = if adopted { (&[1, 3], 200, 2) } else { (&[1, 2], 401, 1) };
        let inner = rejecting_numbers(rejected, date(&aiuta));
        let expected = if adopted { seconds } else { 0 };
        assert_eq!(send(&service(&layer, &inner), try_on("image-1")).await.unwrap(), status);
        assert_eq!((inner.count(), source.calls(), offset(&layer)), (sent, sent, expected), "{seconds} s");
        if adopted {
            assert_eq!(source.requests()[1].now(), aiuta.now(), "{seconds} s");
        }
        // The next token is made by the corrected clock, so its 401 is returned.
        assert_eq!(send(&service(&layer, &inner), try_on("image-2")).await.unwrap(), 401);
        assert_eq!((inner.count(), source.calls(), offset(&layer)), (sent + 1, sent + 1, expected), "{seconds} s");
        assert_eq!(source.requests()[sent].now(), if adopted { aiuta.now() } else { clock.now() });
    }
}

#[tokio::test]
async fn h1_offset_whose_replay_is_rejected_is_not_adopted() {
    for seconds in [6, -6, 10 * MINUTES, -10 * MINUTES, DAY, -DAY] {
        let clock = ManualClock::default();
        let source = Source::new();
        let layer = jwt_with_clock(&clock, source.clone());
        let aiuta = off_by(seconds, &clock);
        let inner = responding(401, &[("date", &date(&aiuta))]);
        assert_eq!(send(&service(&layer, &inner), try_on("image-1")).await.unwrap(), 401);
        assert_eq!((inner.count(), source.calls(), offset(&layer)), (2, 2, 0), "{seconds} s");
        // The token of another request is made by the clock again, and tries the offset by itself.
        assert_eq!(send(&service(&layer, &inner), try_on("image-2")).await.unwrap(), 401);
        assert_eq!((inner.count(), source.calls(), offset(&layer)), (4, 4, 0), "{seconds} s");
        let times: Vec<_> = source.requests().iter().map(TokenRequest::now).collect();
        assert_eq!(times, [clock.now(), aiuta.now(), clock.now(), aiuta.now()], "{seconds} s");
    }
}

#[tokio::test]
async fn h1_offset_is_adopted_only_if_the_replay_succeeds() {
    for (status, adopted) in [
        (200, true),
        (204, true),
        (400, true),
        (403, true),
        (404, true),
        (422, true),
        (401, false),
        (408, false),
        (429, false),
        (500, false),
        (503, false),
        (504, false),
        // No response: the connection fails.
        (0, false),
    ] {
        let clock = ManualClock::default();
        let source = Source::new();
        let layer = jwt_with_clock(&clock, source.clone());
        let later = off_by(10 * MINUTES, &clock);
        let dated = date(&later);
        let inner = Recorder::with_response(move |seen| {
            let response = match (token_number(seen.token()), status) {
                (1, _) => Response::builder().status(401).header("date", &dated),
                (2, 0) => return futures::future::ready(Err("reset".into())),
                (2, _) => Response::builder().status(status),
                _ => Response::builder(),
            };
            futures::future::ready(Ok(response.body(Full::default()).unwrap()))
        });
        let result = send(&service(&layer, &inner), try_on("image-1")).await;
        assert_eq!(result.map_or(0, |status| status.as_u16()), status, "the caller gets the result of the replay");
        assert_eq!((inner.count(), source.calls()), (2, 2), "{status}");
        let (expected, now) = if adopted { (10 * MINUTES, later.now()) } else { (0, clock.now()) };
        assert_eq!(offset(&layer), expected, "{status}");
        assert_eq!(send(&service(&layer, &inner), try_on("image-2")).await.unwrap(), 200);
        assert_eq!((source.requests()[2].now(), offset(&layer)), (now, expected), "{status}");
    }
}

#[tokio::test]
async fn h1_date_that_agrees_with_the_clock_voids_the_offset() {
    for (status, dates, age, voided) in [
        (200, &[0][..], None, true),
        (200, &[5], None, true),
        (200, &[-5], None, true),
        (200, &[0], Some("0"), true),
        (204, &[0], None, true),
        (400, &[0], None, true),
        (401, &[0], None, true),
        (403, &[0], None, true),
        (429, &[0], None, true),
        (503, &[0], None, true),
        (200, &[6], None, false),
        (200, &[-6], None, false),
        (200, &[10 * MINUTES], None, false),
        (503, &[10 * MINUTES], None, false),
        (200, &[], None, false),
        (200, &[0, 0], None, false),
        (200, &[0], Some("1"), false),
    ] {
        let clock = ManualClock::default();
        let source = Source::new();
        let layer = jwt_with_clock(&clock, source.clone());
        let later = off_by(10 * MINUTES, &clock);
        let inner = rejecting_numbers(&[1], date(&later));
        assert_eq!(send(&service(&layer, &inner), try_on("image-1")).await.unwrap(), 200);
        assert_eq!((offset(&layer), source.calls()), (10 * MINUTES, 2));

        let dates: Vec<_> = dates.iter().map(|seconds| date(&off_by(*seconds, &clock))).collect();
        let mut headers: Vec<_> = dates.iter().map(|date| ("date", date.as_str())).collect();
        headers.extend(age.map(|age| ("age", age)));
        let next = responding(status, &headers);
        assert_eq!(send(&service(&layer, &next), try_on("image-1")).await.unwrap(), status);
        let case = format!("{status} {headers:?}");
        let (expected, now) = if voided { (0, clock.now()) } else { (10 * MINUTES, later.now()) };
        assert_eq!(offset(&layer), expected, "{case}");
        // The cached token is still used, unless it was rejected.
        if status != 401 {
            assert_eq!(send(&service(&layer, &inner), try_on("image-1")).await.unwrap(), 200);
            assert_eq!(source.calls(), 2, "{case}");
        }
        assert_eq!(send(&service(&layer, &inner), try_on("image-2")).await.unwrap(), 200);
        assert_eq!(source.requests().pop().unwrap().now(), now, "{case}");
    }
}

#[tokio::test]
async fn h1_unusable_date_adopts_no_offset() {
    let clock = ManualClock::default();
    let later = date(&off_by(10 * MINUTES, &clock));
    let cases: [&[(&str, &str)]; 7] = [
        &[],
        &[("date", "")],
        &[("date", "soon")],
        &[("date", "1800000600")],
        &[("date", &later), ("date", &later)],
        &[("date", &later), ("age", "600")],
        &[("last-modified", &later), ("expires", &later)],
    ];
    for headers in cases {
        let layer = jwt_with_clock(&clock, Source::new());
        let inner = responding(401, headers);
        assert_eq!(send(&service(&layer, &inner), try_on("image-1")).await.unwrap(), 401);
        assert_eq!((inner.count(), offset(&layer)), (1, 0), "{headers:?}");
    }
}

#[tokio::test]
async fn h1_only_a_401_to_our_token_adopts_an_offset() {
    let clock = ManualClock::default();
    let later = date(&off_by(10 * MINUTES, &clock));
    let layer = jwt_with_clock(&clock, Source::new());
    for (status, request) in [
        (401, post("https://example.com/v1/sku_images_operations", "{}")),
        (401, post("http://api.aiuta.com/v1/sku_images_operations", "{}")),
        (401, get("https://api.aiuta.com/v1/try_on_models")),
        (200, try_on("image-1")),
        (403, try_on("image-2")),
        (503, try_on("image-3")),
    ] {
        let inner = responding(status, &[("date", &later)]);
        assert_eq!(send(&service(&layer, &inner), request).await.unwrap(), status);
        assert_eq!((inner.count(), offset(&layer)), (1, 0));
    }
}

#[tokio::test]
async fn h1_slow_response_adopts_no_offset() {
    // The request waits for a permit, or the machine sleeps. The response is dated before or after that.
    for dated_after in [false, true] {
        // A token that has expired by the time of the 401 is replaced by rule E2, without an offset.
        for (lifetime, sent) in [(3600, 1), (60, 2)] {
            let clock = ManualClock::default();
            let source = Source::with_lifetime(secs(lifetime));
            let layer = jwt_with_clock(&clock, source.clone());
            let inner = Recorder::with_response({
                let clock = clock.clone();
                move |_| {
                    let before = date(&clock);
                    clock.advance(secs(60));
                    let date = if dated_after { date(&clock) } else { before };
                    let response = Response::builder().status(401).header("date", date).body(Full::default()).unwrap();
                    async move { Ok(response) }
                }
            });
            let start = clock.now();
            assert_eq!(send(&service(&layer, &inner), try_on("image-1")).await.unwrap(), 401);
            assert_eq!((inner.count(), offset(&layer)), (sent, 0));
            let times: Vec<_> = source.requests().iter().map(TokenRequest::now).collect();
            assert_eq!(times, [start, start + secs(60)][..sent], "the clock is not corrected");
        }
    }
}

#[tokio::test]
async fn h1_corrected_machine_clock_voids_the_offset() {
    for (seconds, at_once) in [(-10 * MINUTES, [401, 200].as_slice()), (10 * MINUTES, &[200])] {
        let setup = Setup::off_by(seconds);
        let (image, other) = (setup.upload().await, setup.upload().await);
        setup.start(&image).await;
        // A step back voids the offset at once. After a step forward, the next response does.
        setup.machine.set(setup.right.now());
        assert_eq!(setup.start(&image).await, at_once);
        assert_eq!(setup.offset(), 0);
        assert_eq!((setup.start(&image).await, setup.start(&other).await), (vec![200], vec![200]));
        // The clock goes wrong again.
        setup.machine.advance(secs(300));
        assert_eq!((setup.start(&image).await, setup.offset()), (vec![401, 200], -300));
    }
}

#[tokio::test]
async fn h1_offset_lapses_after_an_hour() {
    let setup = Setup::off_by(-10 * MINUTES);
    let (image, other) = (setup.upload().await, setup.upload().await);
    setup.start(&image).await;
    setup.advance(HOUR - 1);
    assert_eq!((setup.offset(), setup.start(&image).await), (10 * MINUTES, vec![200]));
    setup.advance(1);
    assert_eq!(setup.offset(), 0);
    let calls = setup.source.calls();
    assert_eq!((setup.start(&image).await, setup.source.calls()), (vec![200], calls), "its token is still used");
    // A new token is made by the clock, and another 401 has the offset adopted again.
    assert_eq!((setup.start(&other).await, setup.source.calls()), (vec![401, 200], calls + 2));
    assert_eq!((setup.offset(), setup.start(&other).await), (10 * MINUTES, vec![200]));
    setup.advance(HOUR - 1);
    assert_eq!((setup.offset(), setup.start(&image).await), (10 * MINUTES, vec![200]));
}

/// Two rejections start the wait of rule E5. A wrong clock explains them, so the corrected token does not wait.
#[tokio::test]
async fn h1_wait_after_rejections_does_not_delay_the_corrected_token() {
    let clock = ManualClock::default();
    let source = Source::new();
    let layer = jwt_with_clock(&clock, source.clone());
    let aiuta = off_by(10 * MINUTES, &clock);
    let inner = rejecting_numbers(&[1, 2], date(&aiuta));
    for _ in 0..2 {
        let mut request = try_on("image-1");
        request.extensions_mut().insert(NoReplay);
        assert_eq!(send(&service(&layer, &inner), request).await.unwrap(), 401);
    }
    clock.advance(secs(1));
    aiuta.advance(secs(1));
    let inner = rejecting_numbers(&[1, 2, 3], date(&aiuta));
    assert_eq!(send(&service(&layer, &inner), try_on("image-1")).await.unwrap(), 200);
    assert_eq!((source.calls(), offset(&layer)), (4, 10 * MINUTES));
}
