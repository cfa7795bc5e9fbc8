//! Rules C1–C6: one fetch for all, and nothing that waits stands in another's way.
mod support;
use support::*;

#[tokio::test]
async fn c1_twenty_callers_share_one_flight_and_its_token() {
    let gate = Gate::closed();
    let source = Source::behind(&gate);
    let layer = jwt(source.clone()).build().unwrap();
    let inner = Recorder::new();
    let service = service(&layer, &inner);
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move { send(&service, try_on("image-1")).await })
        })
        .collect();
    settle().await;
    gate.open(100);
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap(), 200);
    }
    assert_eq!(source.calls(), 1);
    assert_eq!(inner.count(), 20);
    assert!(inner.tokens().iter().all(|token| number(token) == 1));
    let stats = layer.tokens().unwrap().stats();
    assert_eq!((stats.misses, stats.coalesced, stats.fetches, stats.entries), (20, 19, 1, 1));
}
