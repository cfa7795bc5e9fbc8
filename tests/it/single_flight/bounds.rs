//! Rules C3, C5 and C6: a fetch continues without its callers; fetches are limited in number and time.

use tower::timeout::Timeout;

use super::*;

#[tokio::test(start_paused = true)]
async fn c3_fetch_completes_after_its_callers_time_out() {
    let source = Source::from_fn(|call, request| async move {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        Ok(numbered_token(call, &request, secs(60)))
    });
    let layer = jwt(source.clone()).build().unwrap();
    let inner = Recorder::new();
    let service = Timeout::new(service(&layer, &inner), std::time::Duration::from_millis(30));
    let callers = (0..20).map(|_| {
        let service = service.clone();
        tokio::spawn(async move { send(&service, try_on("image-1")).await })
    });
    for caller in callers.collect::<Vec<_>>() {
        assert!(caller.await.unwrap().unwrap_err().is::<tower::timeout::error::Elapsed>());
    }
    tokio::time::sleep(std::time::Duration::from_millis(21)).await;
    assert_eq!(inner.count(), 0);
    assert_eq!(send(&service, try_on("image-1")).await.unwrap(), 200);
    let stats = layer.token_cache().unwrap().stats();
    assert_eq!((source.calls(), stats.hits, stats.misses), (1, 1, 20), "the last request is a hit");
}

#[tokio::test]
async fn c5_flood_of_keys_evicts_gradually() {
    for max in [1, 7, 33, 100, 1000] {
        let layer = jwt(Source::new()).max_tokens(max).build().unwrap();
        let tokens = layer.token_cache().unwrap();
        for key in 0..5 * max {
            tokens.get(&params(&format!("image-{key}"))).await.unwrap();
            let entries = usize::try_from(tokens.stats().entries).unwrap();
            assert!(entries <= max, "{entries} tokens, over the maximum of {max}");
            assert!(entries >= (key + 1).min(max) / 2, "only {entries} of {max} tokens are left after {key} others");
        }
    }
}

#[tokio::test]
async fn c5_flood_of_keys_drops_no_awaited_fetch() {
    let gate = Gate::closed();
    let source = source_with_gates(std::slice::from_ref(&gate));
    let layer = jwt(source.clone()).max_tokens(8).max_concurrent_fetches(8).build().unwrap();
    let (tokens, inner) = (layer.token_cache().unwrap(), Recorder::new());
    let awaited = callers(&service(&layer, &inner), "image-1", 3).await;
    for key in 0..2000 {
        tokens.get(&params(&format!("other-{key}"))).await.unwrap();
    }
    gate.open(1);
    for caller in awaited {
        caller.await.unwrap().unwrap();
    }
    assert_eq!((numbers(&inner), source.calls()), (vec![1, 1, 1], 2001));
}

#[tokio::test]
async fn c5_over_max_concurrent_fetches_only_misses_fail() {
    let gate = Gate::closed();
    let source = source_with_gates(&[open_gate(), gate.clone(), gate.clone()]);
    let layer = jwt(source.clone()).max_concurrent_fetches(2).build().unwrap();
    let (tokens, inner) = (layer.token_cache().unwrap(), Recorder::new());
    let service = service(&layer, &inner);
    send(&service, try_on("cached")).await.unwrap();
    let mut awaited = callers(&service, "image-1", 2).await;
    awaited.extend(callers(&service, "image-2", 2).await);

    let error = auth_error(send(&service, try_on("image-3")).await);
    assert_eq!((error.kind(), error.is_transient()), (AuthErrorKind::Overloaded, true));
    send(&service, try_on("cached")).await.unwrap();
    awaited.extend(callers(&service, "image-1", 2).await);
    tokens.invalidate(&params("image-1"));
    assert_eq!(
        error_kind(send(&service, try_on("image-3")).await),
        AuthErrorKind::Overloaded,
        "a detached fetch still counts"
    );
    assert_eq!((source.calls(), inner.count()), (3, 2));

    gate.open(2);
    for caller in awaited {
        assert_eq!(caller.await.unwrap().unwrap(), 200, "an awaited fetch is never dropped");
    }
    assert_eq!(send(&service, try_on("image-3")).await.unwrap(), 200, "ended fetches free their places");
}

/// Starts a fetch that hangs for each of these keys. Returns how many were refused.
async fn hang(tokens: &TokenCache, keys: impl IntoIterator<Item = AuthParams>) -> usize {
    let mut refused = 0;
    for key in keys {
        let tokens = tokens.clone();
        let get = tokio::spawn(async move { tokens.get(&key).await });
        settle().await;
        if get.is_finished() {
            assert_eq!(get.await.unwrap().unwrap_err().kind(), AuthErrorKind::Overloaded);
            refused += 1;
        }
    }
    refused
}

/// Returns keys of a partition.
fn keys(partition: Option<&'static str>, from: usize) -> impl Iterator<Item = AuthParams> {
    let key = move |number| partition.into_iter().fold(params(&format!("image-{number}")), AuthParams::with_partition);
    (from..from + 20).map(key)
}

#[tokio::test(start_paused = true)]
async fn c5_partition_gets_a_quarter_once_half_the_places_are_taken() {
    for (places, alone, of_second) in [(16, 8, 4), (17, 9, 4), (4, 2, 1), (3, 2, 1), (2, 1, 1), (1, 1, 0)] {
        let gate = Gate::closed();
        let layer = jwt(Source::gated(&gate)).max_concurrent_fetches(places).build().unwrap();
        let tokens = layer.token_cache().unwrap();
        assert_eq!(hang(tokens, keys(Some("alice"), 0)).await, 20 - alone, "{places} places");
        assert_eq!(hang(tokens, keys(Some("bob"), 0)).await, 20 - of_second, "{places} places");
        // Keys without a partition get the rest.
        assert_eq!(hang(tokens, keys(None, 0)).await, 20 - (places - alone - of_second), "{places} places");
        // Places become free when fetches end.
        gate.open(places);
        settle().await;
        assert_eq!(hang(tokens, keys(None, 20).take(alone)).await, 0, "{places} places");
        assert_eq!(hang(tokens, keys(Some("alice"), 20)).await, 20 - of_second, "{places} places");
    }
}

#[tokio::test(start_paused = true)]
async fn c5_hung_fetches_of_a_partition_free_its_places_at_the_timeout() {
    let gate = Gate::closed();
    let layer = jwt(Source::gated(&gate)).max_concurrent_fetches(8).fetch_timeout(secs(3)).build().unwrap();
    let tokens = layer.token_cache().unwrap();
    assert_eq!(hang(tokens, keys(Some("alice"), 0)).await, 16);
    // Forgotten fetches go on for their callers, so they still count.
    tokens.clear();
    assert_eq!(hang(tokens, keys(Some("alice"), 20)).await, 20);
    tokio::time::sleep(secs(3)).await;
    settle().await;
    assert_eq!(hang(tokens, keys(Some("alice"), 40)).await, 16);
}

#[tokio::test(start_paused = true)]
async fn c5_every_ended_fetch_frees_its_place() {
    let source = Source::from_fn(|call, request| async move {
        match call % 5 {
            1 => tokio::task::yield_now().await,
            2 => return Err(TokenError::new("no")),
            3 => panic!("the source panics"),
            _ => std::future::pending().await,
        }
        Ok(numbered_token(call, &request, secs(60)))
    });
    let layer = jwt(source.clone()).max_concurrent_fetches(1).build().unwrap();
    let (tokens, inner) = (layer.token_cache().unwrap(), Recorder::new());
    let service = service(&layer, &inner);
    for round in 0..3 {
        for end in 0..4 {
            let result = send(&service, try_on(&format!("image-{round}-{end}"))).await;
            let kind = result.map_err(|error| error_kind(Err::<(), _>(error)));
            match end {
                0 => assert_eq!(kind, Ok(http::StatusCode::OK)),
                1 | 2 => assert_eq!(kind, Err(AuthErrorKind::TokenSource)),
                _ => assert_eq!(kind, Err(AuthErrorKind::FetchTimeout)),
            }
        }
        let abandoned = caller(&service, "abandoned").await;
        abandoned.abort();
        settle().await;
        tokens.invalidate(&params("abandoned"));
    }
    assert_eq!(source.calls(), 15);
}

#[tokio::test(start_paused = true)]
async fn c6_fetch_ends_at_fetch_timeout_and_the_next_request_starts_another() {
    let source = source_with_gates(&[Gate::closed()]);
    let layer = jwt(source.clone()).fetch_timeout(secs(7)).build().unwrap();
    let inner = Recorder::new();
    let service = service(&layer, &inner);
    let start = tokio::time::Instant::now();
    let early = caller(&service, "image-1").await;
    tokio::time::sleep(secs(6)).await;
    let late = caller(&service, "image-1").await;
    for caller in [early, late] {
        let error = auth_error(caller.await.unwrap());
        assert_eq!((error.kind(), error.is_transient()), (AuthErrorKind::FetchTimeout, true));
    }
    assert_eq!(start.elapsed().as_secs(), 7, "the timeout is that of the fetch, not of each caller");
    assert_eq!((source.calls(), inner.count(), layer.token_cache().unwrap().stats().failures), (1, 0, 1));

    assert_eq!(send(&service, try_on("image-1")).await.unwrap(), 200);
    assert_eq!((source.calls(), numbers(&inner)), (2, vec![2]));
}

#[tokio::test(start_paused = true)]
async fn c6_fetch_without_waiters_ends_at_fetch_timeout() {
    let layer = jwt(source_with_gates(&[Gate::closed()])).build().unwrap();
    let caller = caller(&service(&layer, &Recorder::new()), "image-1").await;
    caller.abort();
    tokio::time::sleep(secs(11)).await;
    assert_eq!(layer.token_cache().unwrap().stats().failures, 1);
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
}
