//! Concurrent requests, cached tokens and running fetches when an offset is adopted.

use super::*;

#[tokio::test]
async fn h1_adopting_an_offset_replaces_no_cached_token() {
    // The cached token was made by the wrong clock. Only its own 401 replaces it.
    for seconds in [10 * MINUTES, -10 * MINUTES] {
        let setup = Setup::off_by(seconds);
        let (image, other) = (setup.upload().await, setup.upload().await);
        setup.layer.token_cache().unwrap().get(&params(&other)).await.unwrap();
        assert_eq!(setup.start(&image).await, [401, 200]);
        assert_eq!((setup.start(&other).await, setup.source.calls()), (vec![401, 200], 4), "its token is cached");
        assert_eq!((setup.start(&other).await, setup.source.calls()), (vec![200], 4));
        assert_eq!(setup.offset(), -seconds);
    }

    // The cached token was made by a correct clock, before that went wrong. Aiuta accepts it, so it stays in use.
    let setup = Setup::off_by(0);
    let (image, other) = (setup.upload().await, setup.upload().await);
    assert_eq!(setup.start(&other).await, [200]);
    setup.machine.advance(secs(20));
    assert_eq!((setup.start(&image).await, setup.offset()), (vec![401, 200], -20));
    assert_eq!((setup.start(&other).await, setup.source.calls()), (vec![200], 3));
}

#[tokio::test]
async fn h1_twenty_requests_with_one_token_cause_one_fetch() {
    for waits in [false, true] {
        let gate = Gate::closed();
        let setup = Setup::gated(-10 * MINUTES, &gate, if waits { usize::MAX } else { 0 });
        gate.open(1);
        let image = setup.upload().await;
        let hold = setup.aiuta.hold();
        let callers: Vec<_> = (0..20).map(|_| tokio::spawn(setup.service().oneshot(try_on(&image)))).collect();
        setup.aiuta.wait_for(20).await;
        hold.release();
        settle().await;
        gate.open(100);
        for caller in callers {
            assert_eq!(caller.await.unwrap().unwrap().status(), 200);
        }
        assert_eq!((setup.aiuta.requests().len(), setup.source.calls()), (40, 2));
        assert_eq!((setup.aiuta.operations_started(), setup.offset()), (20, 10 * MINUTES));
    }
}

#[tokio::test]
async fn h1_twenty_requests_with_own_tokens_are_all_replayed() {
    let setup = Setup::off_by(10 * MINUTES);
    let mut images = Vec::new();
    for _ in 0..20 {
        images.push(setup.upload().await);
    }
    let hold = setup.aiuta.hold();
    let callers: Vec<_> = images.iter().map(|image| tokio::spawn(setup.service().oneshot(try_on(image)))).collect();
    setup.aiuta.wait_for(20).await;
    hold.release();
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap().status(), 200);
    }
    // The first adopts the offset. The tokens of the others were also made by the wrong clock.
    assert_eq!((setup.aiuta.requests().len(), setup.source.calls()), (40, 40));
    assert_eq!(setup.offset(), -10 * MINUTES);
}

#[tokio::test]
async fn h1_adopting_an_offset_does_not_time_out_a_running_fetch() {
    // The first call of the source hangs while a request for another image adopts an offset.
    let gate = Gate::closed();
    let setup = Setup::gated(-10 * MINUTES, &gate, 1);
    let (slow, quick) = (setup.upload().await, setup.upload().await);
    let first = tokio::spawn(setup.service().oneshot(try_on(&slow)));
    settle().await;
    assert_eq!(setup.start(&quick).await, [401, 200]);
    let second = tokio::spawn(setup.service().oneshot(try_on(&slow)));
    settle().await;
    let stats = setup.layer.token_cache().unwrap().stats();
    assert_eq!(
        (setup.source.calls(), stats.coalesced, stats.failures),
        (3, 1, 0),
        "the offset does not count as elapsed time"
    );
    // Its token was made by the wrong clock. It is rejected, and replaced once for both requests.
    gate.open(1);
    for caller in [first, second] {
        assert_eq!(caller.await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(setup.source.calls(), 4);
    assert_eq!(setup.start(&slow).await, [200]);
}

#[tokio::test(start_paused = true)]
async fn h1_adopting_an_offset_does_not_shorten_a_source_pause() {
    for seconds in [10 * MINUTES, -10 * MINUTES] {
        let clock = ManualClock::default();
        let source = Source::from_fn(|number, request| async move {
            match number {
                1 => Err(TokenError::transient("busy").with_retry_after(secs(60))),
                _ => Ok(numbered_token(number, &request, secs(3600))),
            }
        });
        let layer = jwt_with_clock(&clock, source.clone());
        let inner = rejecting_numbers(&[2], date(&off_by(seconds, &clock)));
        let service = service(&layer, &inner);
        // The pause is for one partition, so that another request can adopt an offset meanwhile.
        let paused = || with_params(params("image-1").with_partition("customer-1"));
        assert_eq!(error_kind(send(&service, paused()).await), AuthErrorKind::TokenSource);
        assert_eq!(send(&service, try_on("image-2")).await.unwrap(), 200);
        assert_eq!((source.calls(), offset(&layer)), (3, seconds));
        let error = auth_error(send(&service, paused()).await);
        assert_eq!((error.retry_after(), source.calls()), (Some(secs(60)), 3));
    }
}

#[tokio::test(start_paused = true)]
async fn h1_no_offset_is_tried_during_a_source_pause() {
    let clock = ManualClock::default();
    let source = Source::from_fn(|number, request| async move {
        match number {
            2 => Err(TokenError::transient("busy").with_retry_after(secs(60))),
            _ => Ok(numbered_token(number, &request, secs(3600))),
        }
    });
    let layer = jwt_with_clock(&clock, source.clone());
    layer.token_cache().unwrap().get(&params("image-1")).await.unwrap();
    let inner = responding(401, &[("date", &date(&off_by(10 * MINUTES, &clock)))]);
    let service = service(&layer, &inner);
    assert_eq!(error_kind(send(&service, try_on("image-2")).await), AuthErrorKind::TokenSource);
    assert_eq!(send(&service, try_on("image-1")).await.unwrap(), 401);
    assert_eq!((inner.count(), source.calls(), offset(&layer)), (1, 2, 0));
    let error = auth_error(send(&service, try_on("image-2")).await);
    assert_eq!(error.retry_after(), Some(secs(60)));
}
