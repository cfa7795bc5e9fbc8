//! Rules for requests that wait. A token that expires meanwhile is not sent (rule C2). Timers do not follow the wall
//! clock (rule C6). Foreign code that panics leaves no request waiting (rule G1).

mod panics;
mod renewal;

use futures::future::join_all;
use tokio::time::{Instant, advance, sleep};
use tower_aiuta_auth::testing::ManualClock;
use tower_aiuta_auth::{AiutaAuth, AuthErrorKind, TokenError};

use crate::support::*;

const DAY: u64 = 24 * 60 * 60;

/// Starts requests with the same params.
async fn start(service: &AiutaAuth<Recorder>, count: usize) -> Vec<impl Future<Output = http::StatusCode> + use<>> {
    let start = |_| {
        let service = service.clone();
        let request = tokio::spawn(async move { send(&service, try_on("image-1")).await });
        async { request.await.unwrap().unwrap() }
    };
    let requests = (0..count).map(start).collect();
    settle().await;
    requests
}

#[tokio::test(start_paused = true)]
async fn c6_clock_step_forward_ends_no_fetch() {
    // A token that is a day old when it arrives is replaced within the same fetch (rule D4).
    for (step, calls) in [(12, 1), (DAY, 2)] {
        let source = Source::from_fn(|call, request| async move {
            sleep(secs(3) / 10).await;
            Ok(numbered_token(call, &request, secs(60)))
        });
        let clock = ManualClock::default();
        let (layer, inner) = (jwt_with_clock(&clock, source.clone()), Recorder::new());
        let service = service(&layer, &inner);
        let began = Instant::now();
        let mut callers = start(&service, 25).await;
        clock.advance(secs(step));
        callers.extend(start(&service, 25).await);
        assert_eq!(join_all(callers).await, [200; 50], "a step of {step} s");
        assert!(began.elapsed() < secs(1), "a step of {step} s");
        assert_eq!((source.calls(), inner.count()), (calls, 50), "a step of {step} s");
        assert_eq!(layer.token_cache().unwrap().stats().failures, 0, "a step of {step} s");
    }
}

#[tokio::test(start_paused = true)]
async fn c6_fetch_ends_at_its_timeout_although_the_clock_stands_still() {
    for step_back in [0, 3600] {
        let clock = ManualClock::default();
        let service = service(&jwt_with_clock(&clock, Source::gated(&Gate::closed())), &Recorder::new());
        let began = Instant::now();
        let request = tokio::spawn(async move { send(&service, try_on("image-1")).await });
        settle().await;
        clock.step_back(secs(step_back));
        assert_eq!(error_kind(request.await.unwrap()), AuthErrorKind::FetchTimeout);
        assert_eq!(began.elapsed().as_secs(), 10);
    }
}

/// Whether time passes for tokio, and for the clock: only for one of them.
const ONE_CLOCK: [[bool; 2]; 2] = [[true, false], [false, true]];

async fn pass_time([by_tokio, by_clock]: [bool; 2], clock: &ManualClock, seconds: u64) {
    if by_tokio {
        advance(secs(seconds)).await;
    }
    if by_clock {
        clock.advance(secs(seconds));
    }
}

#[tokio::test(start_paused = true)]
async fn c6_pause_of_the_source_ends_by_tokios_time_or_by_the_clock() {
    for passes in ONE_CLOCK {
        let source = Source::from_fn(|call, request| async move {
            match call {
                1 => Err(TokenError::transient("too many").with_retry_after(secs(30))),
                _ => Ok(numbered_token(call, &request, secs(60))),
            }
        });
        let clock = ManualClock::default();
        let service = service(&jwt_with_clock(&clock, source.clone()), &Recorder::new());
        assert!(send(&service, try_on("image-1")).await.is_err());
        pass_time(passes, &clock, 29).await;
        let error = auth_error(send(&service, try_on("image-1")).await);
        assert_eq!((error.retry_after(), source.calls()), (Some(secs(1)), 1));
        pass_time(passes, &clock, 1).await;
        assert_eq!(send(&service, try_on("image-1")).await.unwrap(), 200);
        assert_eq!(source.calls(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn c6_wait_after_rejections_ends_by_tokios_time_or_by_the_clock() {
    for passes in ONE_CLOCK {
        let (source, clock) = (Source::new(), ManualClock::default());
        let inner = Recorder::with_status(|_| http::StatusCode::UNAUTHORIZED);
        let service = service(&jwt_with_clock(&clock, source.clone()), &inner);
        // From the second rejection on, the next fetch waits for a second (rule E5).
        for expected in [1, 2, 2] {
            assert_eq!(send(&service, try_on("image-1")).await.unwrap(), 401);
            assert_eq!(source.calls(), expected);
        }
        pass_time(passes, &clock, 1).await;
        assert_eq!(send(&service, try_on("image-1")).await.unwrap(), 401);
        assert_eq!(source.calls(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn c6_pause_after_two_expired_tokens_ends_by_tokios_time_or_by_the_clock() {
    for passes in ONE_CLOCK {
        let source = Source::with_lifetime(secs(0));
        let clock = ManualClock::default();
        let service = service(&jwt_with_clock(&clock, source.clone()), &Recorder::new());
        // The source is asked twice, and only once within the next 30 s (rule D4).
        for (seconds, expected) in [(0, 2), (29, 3), (1, 5)] {
            pass_time(passes, &clock, seconds).await;
            assert_eq!(send(&service, try_on("image-1")).await.unwrap(), 200);
            assert_eq!(source.calls(), expected);
        }
    }
}
