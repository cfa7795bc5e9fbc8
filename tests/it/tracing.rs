//! The spans and events of the layer: one span per fetch, and one event for each condition that an operator should know
//! about.

use std::time::SystemTime;

use tower_aiuta_auth::testing::ManualClock;
use tower_aiuta_auth::{AuthErrorKind, Clock, TokenError};

use crate::support::captured_events::CapturedEvents;
use crate::support::*;

#[tokio::test]
async fn tracing_reports_each_fetch_and_every_event() {
    let events = CapturedEvents::start();
    let gate = Gate::closed();
    // The third call is a refresh and fails.
    let source = Source::from_fn({
        let gate = gate.clone();
        move |number, request| {
            let gate = gate.clone();
            async move {
                gate.pass().await;
                match number {
                    3 => Err(TokenError::transient("down")),
                    5 => Err(TokenError::new("broken")),
                    _ => Ok(numbered_token(number, &request, secs(60))),
                }
            }
        }
    });
    let clock = ManualClock::default();
    let layer = jwt_with_clock(&clock, source);
    let rejected = RejectedTokens::default();
    let inner = Recorder::with_status({
        let rejected = rejected.clone();
        move |seen| match seen.headers.contains_key("authorization") && rejected.contains(seen.token()) {
            true => http::StatusCode::UNAUTHORIZED,
            false => http::StatusCode::OK,
        }
    });
    let service = service(&layer, &inner);

    // A miss with three waiters.
    let callers: Vec<_> =
        (0..3).map(|_| tokio::spawn(tower::ServiceExt::oneshot(service.clone(), try_on("image-1")))).collect();
    settle().await;
    gate.open(100);
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    assert_eq!(events.take(), "span token_fetch\n  reason=\"miss\"\n  outcome=Token\n  waiters=3\n");

    // A hit emits nothing.
    send(&service, try_on("image-1")).await.unwrap();
    assert_eq!(events.take(), "");

    rejected.add(inner.last().token());
    send(&service, try_on("image-1")).await.unwrap();
    let replay = "span token_fetch\n  reason=\"rejected\"\n  outcome=Token\n  waiters=1\n".to_owned() + REPLAYED;
    assert_eq!(events.take(), replay);

    clock.advance(secs(49));
    send(&service, try_on("image-1")).await.unwrap();
    settle().await;
    let refresh = "span token_fetch\n  reason=\"refresh\"\n  outcome=Failed(TokenSource)\n  waiters=0\n\
        event in tower_aiuta_auth\n  message=token refresh failed\n  error=Some(TokenSource)\n";
    assert_eq!(events.take(), refresh);

    send(&service, get("https://storage.example/photo.png?token=secret")).await.unwrap();
    let withheld = "event in tower_aiuta_auth\n  message=credential withheld from an untrusted origin\n  \
        host=\"storage.example\"\n";
    assert_eq!(events.take(), withheld);

    send(&service, try_on("image-2")).await.unwrap();
    assert_eq!(error_kind(send(&service, try_on("image-3")).await), AuthErrorKind::TokenSource);
    let last = events.take();
    assert!(last.ends_with("reason=\"miss\"\n  outcome=Failed(TokenSource)\n  waiters=1\n"), "{last}");
}

/// Responds with this `Date`, and with 401 to tokens that `rejects` selects.
fn inner_with_date(date: SystemTime, rejects: impl Fn(&SentRequest) -> bool + Send + Sync + 'static) -> Recorder {
    let date = httpdate::fmt_http_date(date);
    Recorder::with_response(move |seen| {
        let response = http::Response::builder().status(if rejects(&seen) { 401 } else { 200 }).header("date", &date);
        let response = response.body(http_body_util::Full::default()).unwrap();
        async move { Ok(response) }
    })
}

const REPLAYED: &str = "event in tower_aiuta_auth\n  message=request replayed with a new token\n";

#[tokio::test]
async fn tracing_reports_a_clock_offset_once_it_has_helped() {
    let events = CapturedEvents::start();
    // The clock is ten minutes behind.
    let clock = ManualClock::default();
    let right = clock.now() + secs(600);
    let layer = jwt_with_clock(&clock, Source::new());
    let send_by = async |inner: &Recorder, image: &str| {
        let status = send(&service(&layer, inner), try_on(image)).await.unwrap();
        (status.as_u16(), events.take())
    };
    let fetched = |reason: &str| format!("span token_fetch\n  reason=\"{reason}\"\n  outcome=Token\n  waiters=1\n");
    let adopted =
        |offset: i64| format!("event in tower_aiuta_auth\n  message=clock offset adopted\n  offset={offset}\n");

    // The replay is rejected as well, so nothing shows that the offset is right.
    let rejecting = inner_with_date(right, |_| true);
    let replayed = [fetched("miss"), fetched("rejected"), REPLAYED.to_owned()].concat();
    assert_eq!(send_by(&rejecting, "image-1").await, (401, replayed.clone()));

    let strict = inner_with_date(right, move |seen| claims(seen.token())["iat"] != unix_seconds(right));
    assert_eq!(send_by(&strict, "image-2").await, (200, replayed + &adopted(600)));
    assert_eq!(send_by(&strict, "image-2").await, (200, String::new()), "the offset is reported once");
    assert_eq!(send_by(&strict, "image-3").await, (200, fetched("miss")));

    // The clock is set right.
    clock.advance(secs(600));
    let accepting = inner_with_date(right, |_| false);
    assert_eq!(send_by(&accepting, "image-4").await, (200, fetched("miss") + &adopted(0)));
    assert_eq!(send_by(&accepting, "image-4").await, (200, String::new()));
}
