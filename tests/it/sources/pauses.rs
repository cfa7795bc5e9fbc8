//! Rule G2: a source can ask for a pause, for everyone, for a partition or for one key.

use super::*;

/// Returns a source whose first call fails with this `retry_after`. Later calls succeed.
fn pausing(pause: std::time::Duration) -> Source {
    Source::from_fn(move |number, request| async move {
        match number {
            1 => Err(TokenError::transient("too many").with_retry_after(pause)),
            _ => Ok(numbered_token(number, &request, secs(60))),
        }
    })
}

#[tokio::test]
async fn g2_source_is_not_called_during_retry_after() {
    let source = pausing(secs(30));
    let clock = ManualClock::default();
    let layer = jwt_with_clock(&clock, source.clone());
    let service = service(&layer, &Recorder::new());
    let ask = async |image: &str| auth_error(send(&service, try_on(image)).await);

    assert_eq!(ask("image-1").await.retry_after(), Some(secs(30)));
    clock.advance(secs(20));
    // The pause applies to other params as well.
    for image in ["image-1", "image-2"] {
        let error = ask(image).await;
        assert_eq!((error.kind(), error.retry_after()), (AuthErrorKind::TokenSource, Some(secs(10))));
        assert!(error.is_transient());
    }
    clock.advance(secs(9));
    ask("image-1").await;
    assert_eq!(source.calls(), 1);
    clock.advance(secs(1));
    assert_eq!(send(&service, try_on("image-1")).await.unwrap(), 200);
}

#[tokio::test]
async fn g2_retry_after_pauses_only_the_partition() {
    let source = Source::from_fn(|number, request| async move {
        match request.params().partition() {
            Some("alice") => Err(TokenError::denied("too many").with_retry_after(secs(30))),
            _ => Ok(numbered_token(number, &request, secs(60))),
        }
    });
    let layer = jwt_with_clock(&ManualClock::default(), source.clone());
    let service = service(&layer, &Recorder::new());
    let ask =
        async |image: &str, partition: &str| send(&service, with_params(params(image).with_partition(partition))).await;
    assert!(ask("image-1", "alice").await.is_err());
    assert!(ask("image-2", "alice").await.is_err());
    assert_eq!(source.calls(), 1);
    assert!(ask("image-1", "bob").await.is_ok());
    assert!(send(&service, try_on("image-1")).await.is_ok());
}

#[tokio::test]
async fn g2_pause_is_at_most_five_minutes() {
    let clock = ManualClock::default();
    let source = pausing(secs(3600));
    let layer = jwt_with_clock(&clock, source.clone());
    let service = service(&layer, &Recorder::new());
    assert!(send(&service, try_on("image-1")).await.is_err());
    clock.advance(secs(299));
    assert!(send(&service, try_on("image-1")).await.is_err());
    assert_eq!(source.calls(), 1);
    clock.advance(secs(1));
    assert_eq!(send(&service, try_on("image-1")).await.unwrap(), 200);
}

#[tokio::test(start_paused = true)]
async fn g2_retry_after_is_at_most_five_minutes() {
    let five_minutes = Some(secs(300));
    assert_eq!(TokenError::new("").with_retry_after(secs(300)).retry_after(), five_minutes);
    assert_eq!(TokenError::new("").with_retry_after(Duration::MAX).retry_after(), five_minutes);
    let layer = jwt_with_clock(&ManualClock::default(), pausing(Duration::MAX));
    for _ in 0..2 {
        let error = auth_error(send(&service(&layer, &Recorder::new()), try_on("image-1")).await);
        assert_eq!(error.retry_after(), five_minutes);
        // This would overflow without the limit.
        let _ = std::time::Instant::now() + error.retry_after().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn g2_pause_for_this_key_does_not_pause_others() {
    for partition in [None, Some("alice")] {
        let of = |image: &str| partition.into_iter().fold(params(image), AuthParams::with_partition);
        let source = Source::from_fn(|number, request| async move {
            match number {
                1 => Err(TokenError::transient("too many").with_retry_after(secs(30)).for_this_key()),
                _ => Ok(numbered_token(number, &request, secs(60))),
            }
        });
        let clock = ManualClock::default();
        let layer = jwt_with_clock(&clock, source.clone());
        let tokens = layer.token_cache().unwrap();
        assert!(tokens.get(&of("image-1")).await.is_err());
        let error = tokens.get(&of("image-1")).await.unwrap_err();
        assert_eq!((error.retry_after(), source.calls()), (Some(secs(30)), 1));
        tokens.get(&of("image-2")).await.unwrap();
        tokens.get(&of("image-1").with_partition("bob")).await.unwrap();
        clock.advance(secs(30));
        tokens.get(&of("image-1")).await.unwrap();
        assert_eq!(source.calls(), 4);
    }
}

#[tokio::test(start_paused = true)]
async fn g2_longest_of_several_pauses_counts() {
    // The pause of the source, that of a partition, and that of a key. All calls start before the first one fails.
    let gate = Gate::closed();
    let source = Source::from_fn({
        let gate = gate.clone();
        move |number, request| {
            let gate = gate.clone();
            async move {
                if number <= 3 {
                    gate.pass().await;
                }
                let error = TokenError::transient("busy").with_retry_after(secs(10 * number as u64));
                match number {
                    1 | 2 => Err(error),
                    3 => Err(error.for_this_key()),
                    _ => Ok(numbered_token(number, &request, secs(60))),
                }
            }
        }
    });
    let clock = ManualClock::default();
    let layer = jwt_with_clock(&clock, source.clone());
    let tokens = layer.token_cache().unwrap();
    let key = params("image-3").with_partition("alice");
    let of_alice = params("image-2").with_partition("alice");
    let others = params("image-1");
    let first = [others.clone(), of_alice.clone(), key.clone()].map(|params| {
        let tokens = tokens.clone();
        tokio::spawn(async move { tokens.get(&params).await })
    });
    settle().await;
    gate.open(3);
    for call in first {
        assert!(call.await.unwrap().is_err());
    }
    for (params, seconds) in [(&others, 10), (&of_alice, 20), (&key, 30)] {
        assert_eq!(tokens.get(params).await.unwrap_err().retry_after(), Some(secs(seconds)));
    }
    for params in [&others, &of_alice, &key] {
        clock.advance(secs(9));
        assert!(tokens.get(params).await.is_err());
        clock.advance(secs(1));
        tokens.get(params).await.unwrap();
    }
}

#[tokio::test]
async fn g2_paused_keys_and_partitions_are_bounded() {
    for by_key in [true, false] {
        let source = Source::from_fn(move |number, _| async move {
            let error = TokenError::transient("too many").with_retry_after(secs(if number == 1 { 10 } else { 60 }));
            Err(if by_key { error.for_this_key() } else { error })
        });
        let layer = jwt_with_clock(&ManualClock::default(), source.clone());
        let tokens = layer.token_cache().unwrap();
        let key = |number: usize| match by_key {
            true => params(&format!("image-{number}")),
            false => params("image-1").with_partition(number.to_string()),
        };
        for number in 0..1025 {
            tokens.get(&key(number)).await.unwrap_err();
        }
        assert_eq!(source.calls(), 1025);
        // The pause that would have ended first was dropped.
        for number in 1..1025 {
            tokens.get(&key(number)).await.unwrap_err();
        }
        assert_eq!(source.calls(), 1025);
        tokens.get(&key(0)).await.unwrap_err();
        assert_eq!(source.calls(), 1026);
    }
}

#[tokio::test]
async fn g2_longer_pause_is_not_cut_short() {
    let (clock, gate) = (ManualClock::default(), Gate::closed());
    let source = {
        let gate = gate.clone();
        Source::from_fn(move |number, request| {
            let gate = gate.clone();
            async move {
                match number {
                    1 => {
                        gate.pass().await;
                        Err(TokenError::transient("busy").with_retry_after(secs(1)))
                    }
                    2 => Err(TokenError::transient("busy").with_retry_after(secs(60))),
                    _ => Ok(numbered_token(number, &request, secs(60))),
                }
            }
        })
    };
    let layer = jwt_with_clock(&clock, source.clone());
    let service = service(&layer, &Recorder::new());
    // The first call started before the second failed, and fails later.
    let tokens = layer.token_cache().unwrap().clone();
    let (keys, settled) = ((params("image-1"), params("image-2")), settle());
    let (first, second) = futures::future::join(tokens.get(&keys.0), async {
        settled.await;
        let second = tokens.get(&keys.1).await;
        gate.open(1);
        second
    })
    .await;
    assert!(first.is_err() && second.is_err());
    clock.advance(secs(30));
    assert!(send(&service, try_on("image-3")).await.is_err(), "the pause of 60 s goes on");
    clock.advance(secs(30));
    assert_eq!(send(&service, try_on("image-3")).await.unwrap(), 200);
}

#[tokio::test]
async fn g2_cached_tokens_are_served_during_a_pause() {
    let source = Source::from_fn(|number, request| async move {
        match number {
            2 => Err(TokenError::transient("too many").with_retry_after(secs(300))),
            _ => Ok(numbered_token(number, &request, secs(60))),
        }
    });
    let clock = ManualClock::default();
    let layer = jwt_with_clock(&clock, source.clone());
    let service = service(&layer, &Recorder::new());
    assert!(send(&service, try_on("image-1")).await.is_ok());
    assert!(send(&service, try_on("image-2")).await.is_err());
    // The token becomes due for a refresh, which the pause prevents.
    for _ in 0..5 {
        clock.advance(secs(10));
        assert!(send(&service, try_on("image-1")).await.is_ok());
    }
    assert_eq!(source.calls(), 2);
    clock.advance(secs(10));
    assert_eq!(error_kind(send(&service, try_on("image-1")).await), AuthErrorKind::TokenSource);
    assert_eq!(source.calls(), 2);
}
