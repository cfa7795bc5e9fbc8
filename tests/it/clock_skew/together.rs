//! Many requests, and what was under way or in the cache when the clock is found to be wrong.

use super::*;

#[tokio::test]
async fn h1_cached_token_of_the_wrong_clock_is_not_used() {
    for seconds in [10 * MINUTES, -10 * MINUTES] {
        let pair = Pair::off_by(seconds);
        let (image, other) = (pair.upload().await, pair.upload().await);
        pair.layer.token_cache().unwrap().get(&params(&other)).await.unwrap();
        assert_eq!(pair.start(&image).await, [401, 200]);
        assert_eq!(pair.start(&other).await, [200], "its token was in the cache");
        assert_eq!(pair.source.calls(), 4);
    }
}

#[tokio::test]
async fn h1_twenty_requests_with_one_token_cause_one_fetch() {
    for waits in [false, true] {
        let gate = Gate::closed();
        let pair = Pair::held(-10 * MINUTES, &gate, if waits { usize::MAX } else { 0 });
        gate.open(1);
        let image = pair.upload().await;
        let held = pair.aiuta.hold();
        let callers: Vec<_> = (0..20).map(|_| tokio::spawn(pair.service().oneshot(try_on(&image)))).collect();
        pair.aiuta.wait_for(20).await;
        held.release();
        settle().await;
        gate.open(100);
        for caller in callers {
            assert_eq!(caller.await.unwrap().unwrap().status(), 200);
        }
        assert_eq!((pair.aiuta.requests().len(), pair.source.calls()), (40, 2));
        assert_eq!((pair.aiuta.operations_started(), pair.offset()), (20, 10 * MINUTES));
    }
}

#[tokio::test]
async fn h1_twenty_requests_with_own_tokens_are_all_replayed() {
    let pair = Pair::off_by(10 * MINUTES);
    let mut images = Vec::new();
    for _ in 0..20 {
        images.push(pair.upload().await);
    }
    let held = pair.aiuta.hold();
    let callers: Vec<_> = images.iter().map(|image| tokio::spawn(pair.service().oneshot(try_on(image)))).collect();
    pair.aiuta.wait_for(20).await;
    held.release();
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap().status(), 200);
    }
    // The first adopted the difference; the others' tokens were made by the wrong clock all the same.
    assert_eq!((pair.aiuta.requests().len(), pair.source.calls()), (40, 40));
    assert_eq!(pair.offset(), -10 * MINUTES);
}

#[tokio::test]
async fn h1_adopting_an_offset_does_not_time_out_a_running_fetch() {
    // The first call of the source hangs, for one image, while another's request finds out that the clock is behind.
    let gate = Gate::closed();
    let pair = Pair::held(-10 * MINUTES, &gate, 1);
    let (slow, quick) = (pair.upload().await, pair.upload().await);
    let first = tokio::spawn(pair.service().oneshot(try_on(&slow)));
    settle().await;
    assert_eq!(pair.start(&quick).await, [401, 200]);
    let second = tokio::spawn(pair.service().oneshot(try_on(&slow)));
    settle().await;
    let stats = pair.layer.token_cache().unwrap().stats();
    assert_eq!((pair.source.calls(), stats.coalesced, stats.failures), (3, 1, 0), "ten minutes later it is not");
    // What it brings was made by the wrong clock: refused, and replaced once for both.
    gate.open(1);
    for caller in [first, second] {
        assert_eq!(caller.await.unwrap().unwrap().status(), 200);
    }
    assert_eq!(pair.source.calls(), 4);
    assert_eq!(pair.start(&slow).await, [200]);
}

#[tokio::test]
async fn h1_adopting_an_offset_does_not_shorten_a_source_pause() {
    let clock = ManualClock::default();
    let source = Source::from_fn(|number, request| async move {
        match number {
            2 => Err(TokenError::transient("busy").with_retry_after(secs(60))),
            _ => Ok(numbered_token(number, &request, secs(3600))),
        }
    });
    let layer = jwt_with_clock(&clock, source);
    layer.token_cache().unwrap().get(&params("image-1")).await.unwrap();
    let inner = answering(401, &[("date", &date(&off_by(10 * MINUTES, &clock)))]);
    let service = service(&layer, &inner);
    assert_eq!(error_kind(send(&service, try_on("image-2")).await), AuthErrorKind::TokenSource);
    assert_eq!(send(&service, try_on("image-1")).await.unwrap(), 401);
    assert_eq!(offset(&layer), 10 * MINUTES);
    let error = auth_error(send(&service, try_on("image-2")).await);
    assert_eq!(error.retry_after(), Some(secs(60)));
}
