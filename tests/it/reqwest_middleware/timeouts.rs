//! Rule G6: the timeout of a request includes the wait for a token.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tower_aiuta_auth::{AuthError, AuthErrorKind, TokenError};

use super::*;
use crate::support::*;

const TIMEOUT: Duration = Duration::from_millis(500);

/// Returns a source whose calls take this many milliseconds, and fail after an hour.
fn slow(takes: impl Fn(usize) -> u64 + Send + Sync + 'static) -> Source {
    Source::from_fn(move |number, request| {
        let takes = Duration::from_millis(takes(number));
        async move {
            sleep(takes).await;
            Ok::<_, TokenError>(numbered_token(number, &request, secs(60)))
        }
    })
}

fn client_of(source: &Source, spy: &Spy) -> (AiutaAuthLayer, ClientWithMiddleware) {
    let layer = jwt(source.clone()).build().unwrap();
    let client = ClientBuilder::new(reqwest()).with(layer.clone().into_middleware()).with(spy.clone()).build();
    (layer, client)
}

/// Starts a try-on. Returns the status or the error, and how long it took.
async fn start(
    client: &ClientWithMiddleware,
    timeout: Option<Duration>,
) -> (Result<u16, reqwest_middleware::Error>, Duration) {
    let began = Instant::now();
    let mut request = client.post(format!("https://api.aiuta.com{START}")).with_extension(params("image-1"));
    if let Some(timeout) = timeout {
        request = request.timeout(timeout);
    }
    let result = request.body("{}").send().await.map(|response| response.status().as_u16());
    (result, began.elapsed())
}

fn timeouts(spy: &Spy) -> Vec<Option<Duration>> {
    spy.requests.lock().unwrap().iter().map(|request| request.timeout().copied()).collect()
}

#[tokio::test(start_paused = true)]
async fn g6_timeout_of_the_request_bounds_the_wait_for_a_token() {
    let (source, spy) = (slow(|_| 3_600_000), Spy::responding_ok());
    let (layer, client) = client_of(&source, &spy);
    for (timeout, takes) in [(Some(TIMEOUT), TIMEOUT), (Some(Duration::ZERO), Duration::ZERO), (None, secs(10))] {
        layer.token_cache().unwrap().clear();
        let (result, took) = start(&client, timeout).await;
        let reqwest_middleware::Error::Middleware(error) = result.unwrap_err() else { panic!("no AuthError") };
        let error = error.downcast_ref::<AuthError>().unwrap();
        assert_eq!((error.kind(), error.is_transient()), (AuthErrorKind::FetchTimeout, true));
        assert_eq!(took.as_millis(), takes.as_millis(), "{error}");
    }
    assert_eq!(timeouts(&spy), []);
}

#[tokio::test(start_paused = true)]
async fn g6_fetch_goes_on_for_others() {
    let (source, spy) = (slow(|_| 800), Spy::responding_ok());
    let (_, client) = client_of(&source, &spy);
    let (first, second) = tokio::join!(start(&client, Some(TIMEOUT)), start(&client, None));
    assert!(first.0.is_err() && second.0.is_ok());
    assert_eq!((start(&client, Some(TIMEOUT)).await.0.unwrap(), source.calls()), (200, 1));
}

#[tokio::test(start_paused = true)]
async fn g6_time_waited_is_taken_off_the_timeout() {
    let spy = Spy::responding_ok();
    let (_, client) = client_of(&slow(|_| 300), &spy);
    for timeout in [Some(TIMEOUT), Some(TIMEOUT), None, Some(Duration::MAX)] {
        start(&client, timeout).await.0.unwrap();
    }
    // The second and later requests find the token in the cache.
    let expected = [Some(Duration::from_millis(200)), Some(TIMEOUT), None, Some(Duration::MAX)];
    let seen = timeouts(&spy);
    // tokio's timers have a resolution of one millisecond.
    assert!(seen[0].unwrap().abs_diff(expected[0].unwrap()) <= Duration::from_millis(1), "{seen:?}");
    assert_eq!(seen[1..], expected[1..]);
}

#[tokio::test(start_paused = true)]
async fn g6_replay_stays_within_the_timeout() {
    for (takes, status, sent) in [(300, 200, 2), (3_600_000, 401, 1)] {
        let spy = Spy::responding(|request| {
            let token = request.headers()["authorization"].to_str().unwrap().trim_start_matches("Bearer ").to_owned();
            let status = if token_number(&token) == 1 { 401 } else { 200 };
            http::Response::builder().status(status).body("").unwrap().into()
        });
        let source = slow(move |number| if number == 1 { 0 } else { takes });
        let (layer, client) = client_of(&source, &spy);
        layer.token_cache().unwrap().get(&params("image-1")).await.unwrap();
        let (result, took) = start(&client, Some(TIMEOUT)).await;
        assert_eq!((result.unwrap(), timeouts(&spy).len()), (status, sent));
        assert!(took <= TIMEOUT + Duration::from_millis(1), "{took:?}");
        let last = timeouts(&spy).pop().unwrap().unwrap();
        assert!(last + took <= TIMEOUT + Duration::from_millis(1) || sent == 1, "{last:?} {took:?}");
    }
}
