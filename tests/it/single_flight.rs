//! Rules C1, C2, C3, C5 and C6 on a tokio runtime: callers share one fetch, and a waiting caller does not block others.

mod bounds;
mod waiting;
use std::sync::Arc;

use tokio::task::JoinHandle;
use tower_aiuta_auth::testing::ManualClock;
use tower_aiuta_auth::{AiutaAuth, AuthErrorKind, AuthParams, BoxError, TokenCache, TokenCacheStats, TokenError};

use crate::support::*;

type Caller = JoinHandle<Result<http::StatusCode, BoxError>>;

/// Spawns a request, and returns once it waits or has ended.
async fn caller(service: &AiutaAuth<Recorder>, image: &str) -> Caller {
    let (service, request) = (service.clone(), try_on(image));
    let caller = tokio::spawn(async move { send(&service, request).await });
    settle().await;
    caller
}

async fn callers(service: &AiutaAuth<Recorder>, image: &str, number: usize) -> Vec<Caller> {
    let mut callers = Vec::new();
    for _ in 0..number {
        callers.push(caller(service, image).await);
    }
    callers
}

/// Returns a source whose n-th call waits for the n-th gate. Calls after the last gate do not wait.
fn source_with_gates(gates: &[Gate]) -> Source {
    let gates = gates.to_vec();
    Source::from_fn(move |call, request| {
        let gate = gates.get(call - 1).cloned();
        async move {
            if let Some(gate) = gate {
                gate.pass().await;
            }
            Ok(numbered_token(call, &request, secs(60)))
        }
    })
}

fn open_gate() -> Gate {
    let gate = Gate::closed();
    gate.open(1);
    gate
}

/// Returns the number of the token of each request.
fn numbers(inner: &Recorder) -> Vec<u64> {
    inner.tokens().iter().map(|token| token_number(token)).collect()
}

#[tokio::test]
async fn c1_twenty_callers_share_one_fetch_and_its_token() {
    let gate = Gate::closed();
    let source = Source::gated(&gate);
    let layer = jwt(source.clone()).build().unwrap();
    let inner = Recorder::new();
    let callers = callers(&service(&layer, &inner), "image-1", 20).await;
    gate.open(100);
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap(), 200);
    }
    assert_eq!(source.calls(), 1);
    assert_eq!(numbers(&inner), [1; 20]);
    let stats = layer.token_cache().unwrap().stats();
    assert_eq!((stats.misses, stats.coalesced, stats.fetches, stats.entries), (20, 19, 1, 1));
}

#[tokio::test]
async fn c1_twenty_callers_share_one_error() {
    let gate = Gate::closed();
    let source = {
        let gate = gate.clone();
        Source::from_fn(move |call, request| {
            let gate = gate.clone();
            async move {
                gate.pass().await;
                if call == 1 {
                    Err(TokenError::denied("not yours"))
                } else {
                    Ok(numbered_token(call, &request, secs(60)))
                }
            }
        })
    };
    let layer = jwt(source.clone()).build().unwrap();
    let inner = Recorder::new();
    let service = service(&layer, &inner);
    let callers = callers(&service, "image-1", 20).await;
    gate.open(100);
    for caller in callers {
        let error = auth_error(caller.await.unwrap());
        assert_eq!(error.kind(), AuthErrorKind::TokenSource);
        assert!(error.is_denied());
        let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<TokenError>()).unwrap();
        assert!(cause.is_denied());
    }
    assert_eq!((source.calls(), inner.count()), (1, 0));
    assert_eq!(send(&service, try_on("image-1")).await.unwrap(), 200, "an error is not cached");
    assert_eq!(source.calls(), 2);
}

#[tokio::test]
async fn c1_different_params_and_partitions_have_separate_fetches() {
    let gate = Gate::closed();
    let source = Source::gated(&gate);
    let layer = jwt(source.clone()).build().unwrap();
    let tokens = layer.token_cache().unwrap();
    let keys = [params("image-1"), params("image-2"), params("image-1").with_partition("tenant-1")];
    let gets: Vec<_> = keys
        .iter()
        .flat_map(|key| [key.clone(), key.clone()])
        .map(|key| {
            let tokens = tokens.clone();
            tokio::spawn(async move { (tokens.get(&key).await.unwrap(), key) })
        })
        .collect();
    settle().await;
    gate.open(100);
    for get in gets {
        let (jwt, key) = get.await.unwrap();
        assert_eq!(claims(jwt.expose())["params"], serde_json::to_value(&key).unwrap());
        assert_eq!(claims(jwt.expose())["partition"].as_str(), key.partition());
    }
    assert_eq!(source.calls(), 3);
}

#[tokio::test]
async fn c1_caller_after_invalidate_starts_another_fetch() {
    let gates = [Gate::closed(), Gate::closed()];
    let source = source_with_gates(&gates);
    let layer = jwt(source.clone()).build().unwrap();
    let (tokens, inner) = (layer.token_cache().unwrap(), Recorder::new());
    let service = service(&layer, &inner);

    let first = caller(&service, "image-1").await;
    assert!(tokens.invalidate(&params("image-1")));
    assert!(!tokens.invalidate(&params("image-1")), "nothing is cached or fetched any more");
    let later_callers = callers(&service, "image-1", 2).await;
    assert_eq!(source.calls(), 2);

    gates[0].open(1);
    first.await.unwrap().unwrap();
    assert_eq!(tokens.stats().entries, 0, "the result of a detached fetch is not cached");
    let last_caller = caller(&service, "image-1").await;
    gates[1].open(1);
    for caller in later_callers.into_iter().chain([last_caller]) {
        caller.await.unwrap().unwrap();
    }
    send(&service, try_on("image-1")).await.unwrap();
    assert_eq!(numbers(&inner), [1, 2, 2, 2, 2]);
}

#[tokio::test]
async fn c1_result_of_a_cleared_fetch_is_not_cached() {
    let late = |fails: bool| async move {
        let gate = Gate::closed();
        let source = {
            let gate = gate.clone();
            Source::from_fn(move |call, request| {
                let gate = gate.clone();
                async move {
                    if call == 1 {
                        gate.pass().await;
                        if fails {
                            return Err(TokenError::new("too late"));
                        }
                    }
                    Ok(numbered_token(call, &request, secs(60)))
                }
            })
        };
        let layer = jwt(source.clone()).build().unwrap();
        let (tokens, inner) = (layer.token_cache().unwrap(), Recorder::new());
        let service = service(&layer, &inner);
        let first = caller(&service, "image-1").await;
        tokens.clear();
        send(&service, try_on("image-1")).await.unwrap();
        gate.open(1);
        assert_eq!(first.await.unwrap().is_err(), fails, "a waiter gets the result of its detached fetch");
        send(&service, try_on("image-1")).await.unwrap();
        assert_eq!((source.calls(), tokens.stats().entries), (2, 1));
        assert_eq!(numbers(&inner).last(), Some(&2));
    };
    late(false).await;
    late(true).await;
}

#[tokio::test]
async fn c1_rejection_detaches_the_running_refresh() {
    let gates = [open_gate(), Gate::closed()];
    let (clock, rejected) = (ManualClock::default(), RejectedTokens::default());
    let source = source_with_gates(&gates);
    let (layer, inner) = (jwt_with_clock(&clock, source.clone()), Recorder::rejecting(&rejected));
    let service = service(&layer, &inner);
    send(&service, try_on("image-1")).await.unwrap();
    clock.advance(secs(50));
    send(&service, try_on("image-1")).await.unwrap();
    assert_eq!(source.calls(), 2, "a refresh is running");

    rejected.add(inner.last().token());
    assert_eq!(send(&service, try_on("image-1")).await.unwrap(), 200);
    assert_eq!((source.calls(), numbers(&inner)), (3, vec![1, 1, 1, 3]));
    gates[1].open(1);
    settle().await;
    send(&service, try_on("image-1")).await.unwrap();
    assert_eq!(token_number(inner.last().token()), 3, "the result of the detached refresh is not cached");
}

#[tokio::test]
async fn c1_detached_fetch_without_waiters_is_cancelled() {
    let alive = Arc::new(());
    let source = {
        let alive = Arc::clone(&alive);
        Source::from_fn(move |_, _| {
            let alive = Arc::clone(&alive);
            async move {
                let _held = alive;
                std::future::pending().await
            }
        })
    };
    let layer = jwt(source).build().unwrap();
    let service = service(&layer, &Recorder::new());
    let idle = Arc::strong_count(&alive);
    let callers = callers(&service, "image-1", 2).await;
    layer.token_cache().unwrap().invalidate(&params("image-1"));
    for caller in callers {
        assert_eq!(Arc::strong_count(&alive), idle + 1);
        caller.abort();
        settle().await;
    }
    assert_eq!(Arc::strong_count(&alive), idle);
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
}

/// Revokes two tokens while ten requests with each are in flight. Their 401s arrive in turn. The third call of the
/// source returns the token number `third`.
async fn two_revoked_tokens(third: usize) -> (Source, Recorder, TokenCacheStats, Vec<http::StatusCode>) {
    let (fetch, revoked) = (Gate::closed(), [Gate::closed(), Gate::closed()]);
    let source = {
        let fetch = fetch.clone();
        Source::from_fn(move |call, request| {
            let fetch = fetch.clone();
            async move {
                if call < 3 {
                    return Ok(numbered_token(call, &request, secs(60)));
                }
                fetch.pass().await;
                Ok(numbered_token(third, &request, secs(60)))
            }
        })
    };
    let layer = jwt_with_clock(&ManualClock::default(), source.clone());
    let inner = {
        let revoked = revoked.clone();
        Recorder::with_response(move |seen| {
            let gate =
                [1, 2].iter().position(|revoked| *revoked == token_number(seen.token())).map(|at| revoked[at].clone());
            async move {
                let status = if gate.is_some() { 401 } else { 200 };
                if let Some(gate) = gate {
                    gate.pass().await;
                }
                Ok(http::Response::builder().status(status).body(http_body_util::Full::default()).unwrap())
            }
        })
    };
    let (tokens, service) = (layer.token_cache().unwrap(), service(&layer, &inner));
    let mut waiting = Vec::new();
    for _ in 0..2 {
        tokens.get(&params("image-1")).await.unwrap();
        waiting.extend(callers(&service, "image-1", 10).await);
        tokens.invalidate(&params("image-1"));
    }
    for _ in 0..10 {
        for gate in &revoked {
            gate.open(1);
            settle().await;
        }
    }
    fetch.open(2);
    settle().await;
    let stats = tokens.stats();
    revoked.iter().for_each(|gate| gate.open(100));
    let mut statuses = Vec::new();
    for caller in waiting {
        statuses.push(caller.await.unwrap().unwrap());
    }
    (source, inner, stats, statuses)
}

#[tokio::test]
async fn e4_two_revoked_tokens_in_flight_cause_one_fetch() {
    let (source, inner, stats, statuses) = two_revoked_tokens(3).await;
    assert_eq!(statuses, [200; 20]);
    assert_eq!((source.calls(), inner.count(), stats.entries), (3, 40, 1));
}

#[tokio::test]
async fn e1_fetch_that_returns_a_revoked_token_is_not_cached() {
    for revoked in [1, 2] {
        let (source, _, stats, statuses) = two_revoked_tokens(revoked).await;
        assert_eq!(statuses, [401; 20]);
        assert_eq!((source.calls(), stats.entries), (4, 0), "the source is asked a second time");
    }
}
