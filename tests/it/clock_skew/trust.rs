//! Which `Date` headers adopt an offset, and for how long it is in force.

use super::*;

#[tokio::test]
async fn h1_offset_is_adopted_from_five_seconds_to_a_day() {
    for (seconds, sent, adopted) in [
        (0, 1, 0),
        (4, 1, 0),
        (-5, 1, 0),
        (5, 1, 0),
        (6, 2, 6),
        (-6, 2, -6),
        (DAY, 2, DAY),
        (-DAY, 2, -DAY),
        (DAY + 1, 1, 0),
        (-DAY - 1, 1, 0),
        (365 * DAY, 1, 0),
    ] {
        let clock = ManualClock::default();
        let source = Source::new();
        let layer = jwt_with_clock(&clock, source.clone());
        let inner = responding(401, &[("date", &date(&off_by(seconds, &clock)))]);
        assert_eq!(send(&service(&layer, &inner), try_on("image-1")).await.unwrap(), 401);
        assert_eq!((inner.count(), source.calls(), offset(&layer)), (sent, sent, adopted), "{seconds} s");
        // The next token is made by the corrected clock, so its 401 is returned.
        send(&service(&layer, &inner), try_on("image-1")).await.unwrap();
        assert_eq!((inner.count(), offset(&layer)), (sent + 1, adopted), "{seconds} s");
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
        let clock = ManualClock::default();
        let layer = jwt_with_clock(&clock, Source::new());
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
        assert_eq!(send(&service(&layer, &inner), try_on("image-1")).await.unwrap(), 401);
        assert_eq!((inner.count(), offset(&layer)), (1, 0));
    }
}

#[tokio::test]
async fn h1_corrected_machine_clock_voids_the_offset() {
    for (seconds, at_once) in [(-10 * MINUTES, [401, 200].as_slice()), (10 * MINUTES, &[200])] {
        let setup = Setup::off_by(seconds);
        let (image, other) = (setup.upload().await, setup.upload().await);
        setup.start(&image).await;
        // A step back voids the offset at once. After a step forward, the next 401 does.
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
async fn h1_offset_expires_after_an_hour() {
    let setup = Setup::off_by(-10 * MINUTES);
    let image = setup.upload().await;
    setup.start(&image).await;
    setup.advance(HOUR - 1);
    assert_eq!((setup.offset(), setup.start(&image).await), (10 * MINUTES, vec![200]));
    setup.advance(1);
    assert_eq!((setup.offset(), setup.start(&image).await), (0, vec![401, 200]));
    assert_eq!((setup.offset(), setup.start(&image).await), (10 * MINUTES, vec![200]));
}
