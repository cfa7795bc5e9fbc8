//! Rule C2: a token that expires while its request waits for the inner service is replaced before it is sent.

use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower::limit::ConcurrencyLimit;
use tower::retry::Retry;
use tower::{Layer, Service};
use tower_aiuta_auth::testing::ManualClock;
use tower_aiuta_auth::{AiutaAuth, AiutaAuthLayer, AiutaRetryPolicy, AuthErrorKind, BoxError, TokenError};

use crate::support::*;

type Limited = ConcurrencyLimit<Recorder>;
type Sending = BoxFuture<'static, Result<Response<Full<Bytes>>, BoxError>>;

/// A layer around a service that lets one request through at a time.
struct Setup {
    clock: ManualClock,
    gate: Gate,
    source: Source,
    inner: Recorder,
    limit: Limited,
    layer: AiutaAuthLayer,
}

/// The error of a call of the source, by its number, if it fails.
type Answer = fn(usize) -> Result<(), TokenError>;

impl Setup {
    /// The calls of the source that `is_gated` selects wait for the gate.
    fn new(is_gated: fn(usize) -> bool, answer: Answer, inner: Recorder) -> Self {
        let (clock, gate) = (ManualClock::default(), Gate::closed());
        let source = Source::from_fn({
            let gate = gate.clone();
            move |call, request| {
                let gate = gate.clone();
                async move {
                    if is_gated(call) {
                        gate.pass().await;
                    }
                    answer(call)?;
                    Ok(numbered_token(call, &request, secs(60)))
                }
            }
        });
        let layer = jwt_with_clock(&clock, source.clone());
        let limit = ConcurrencyLimit::new(inner.clone(), 1);
        Self { clock, gate, source, inner, limit, layer }
    }

    fn start(&self, image: &str) -> Sending {
        let client: AiutaAuth<Limited> = self.layer.layer(self.limit.clone());
        tower::ServiceExt::oneshot(client, try_on(image)).boxed()
    }

    /// Takes the only permit, if it is free.
    fn take_permit(&self) -> Option<Limited> {
        let mut limit = self.limit.clone();
        let ready = Service::<Request<Full<Bytes>>>::poll_ready(
            &mut limit,
            &mut Context::from_waker(futures::task::noop_waker_ref()),
        );
        matches!(ready, Poll::Ready(Ok(()))).then_some(limit)
    }

    /// Lets the token arrive while another request holds the permit, so that the token expires before the request is
    /// sent.
    async fn expire_token_of(&self, request: &mut Sending) {
        let permit = self.take_permit().expect("a request that waits for its token holds no permit");
        self.gate.open(1);
        settle().await;
        assert!(request.now_or_never().is_none(), "there is no permit");
        self.clock.advance(secs(61));
        drop(permit);
    }

    /// Sends a request to its first 401, whose replay waits for a token.
    async fn start_replay(&self, image: &str) -> Sending {
        self.layer.token_cache().unwrap().get(&params(image)).await.unwrap();
        let mut request = self.start(image);
        assert!((&mut request).now_or_never().is_none());
        assert_eq!(self.numbers(), [1]);
        request
    }

    fn numbers(&self) -> Vec<u64> {
        self.inner.tokens().iter().map(|token| token_number(token)).collect()
    }
}

fn succeed(_: usize) -> Result<(), TokenError> {
    Ok(())
}

/// Rejects the first token.
fn rejecting_first() -> Recorder {
    Recorder::with_status(|seen| match token_number(seen.token()) {
        1 => StatusCode::UNAUTHORIZED,
        _ => StatusCode::OK,
    })
}

#[tokio::test]
async fn c2_token_that_expires_before_it_is_sent_is_renewed() {
    let is_gated: [fn(usize) -> bool; 2] = [|call| call == 1, |_| true];
    for (renewal_waits, is_gated) in [false, true].into_iter().zip(is_gated) {
        let setup = Setup::new(is_gated, succeed, Recorder::new());
        let mut request = setup.start("image-1");
        assert!((&mut request).now_or_never().is_none());
        setup.expire_token_of(&mut request).await;
        if renewal_waits {
            assert!((&mut request).now_or_never().is_none());
            setup.gate.open(1);
        }
        assert_eq!(request.await.unwrap().status(), 200);
        assert_eq!((setup.numbers(), setup.source.calls()), (vec![2], 2), "the renewal waits: {renewal_waits}");
    }
}

#[tokio::test]
async fn c2_token_of_a_replay_that_expires_before_it_is_sent_is_renewed() {
    let setup = Setup::new(|call| call == 2, succeed, rejecting_first());
    let mut request = setup.start_replay("image-1").await;
    setup.expire_token_of(&mut request).await;
    assert_eq!(request.await.unwrap().status(), 200);
    assert_eq!((setup.numbers(), setup.source.calls()), (vec![1, 3], 3));
    assert_eq!(setup.layer.token_cache().unwrap().stats().replays, 1);
}

#[tokio::test]
async fn c2_renewal_uses_the_token_of_another_request() {
    let setup = Setup::new(|call| call == 1, succeed, Recorder::new());
    let mut request = setup.start("image-1");
    assert!((&mut request).now_or_never().is_none());
    setup.expire_token_of(&mut request).await;
    setup.layer.token_cache().unwrap().get(&params("image-1")).await.unwrap();
    assert_eq!(request.now_or_never().expect("the token is in the cache").unwrap().status(), 200);
    assert_eq!((setup.numbers(), setup.source.calls()), (vec![2], 2));
}

#[tokio::test]
async fn c2_usable_token_is_not_renewed() {
    let setup = Setup::new(|_| true, succeed, Recorder::new());
    let mut request = setup.start("image-1");
    assert!((&mut request).now_or_never().is_none());
    let permit = setup.take_permit().unwrap();
    setup.gate.open(1);
    settle().await;
    assert!((&mut request).now_or_never().is_none());
    setup.clock.advance(secs(53));
    drop(permit);
    assert_eq!(request.await.unwrap().status(), 200);
    assert_eq!((setup.numbers(), setup.source.calls()), (vec![1], 1));
}

#[tokio::test]
async fn c2_request_whose_token_expires_again_is_sent_without_another_renewal() {
    let setup = Setup::new(|_| true, succeed, Recorder::new());
    let mut request = setup.start("image-1");
    assert!((&mut request).now_or_never().is_none());
    setup.expire_token_of(&mut request).await;
    assert!((&mut request).now_or_never().is_none());
    setup.expire_token_of(&mut request).await;
    assert_eq!(request.now_or_never().expect("nothing is pending").unwrap().status(), 200);
    assert_eq!((setup.numbers(), setup.source.calls()), (vec![2], 2));
}

#[tokio::test]
async fn c2_first_sending_fails_if_the_renewal_fails() {
    let is_gated: [fn(usize) -> bool; 2] = [|call| call == 1, |_| true];
    for (renewal_waits, is_gated) in [false, true].into_iter().zip(is_gated) {
        let fails: Answer = |call| if call == 2 { Err(TokenError::transient("down")) } else { Ok(()) };
        let setup = Setup::new(is_gated, fails, Recorder::new());
        let mut request = setup.start("image-1");
        assert!((&mut request).now_or_never().is_none());
        setup.expire_token_of(&mut request).await;
        if renewal_waits {
            assert!((&mut request).now_or_never().is_none());
            setup.gate.open(1);
        }
        let error = auth_error(request.await);
        assert_eq!((error.kind(), error.is_transient()), (AuthErrorKind::TokenSource, true));
        assert_eq!((setup.inner.count(), setup.source.calls()), (0, 2), "the renewal waits: {renewal_waits}");
        assert!(setup.take_permit().is_some(), "the failed request holds no permit");
    }
}

#[tokio::test]
async fn c2_replay_is_sent_with_the_expired_token_if_the_renewal_fails() {
    let is_gated: [fn(usize) -> bool; 2] = [|call| call == 2, |call| call > 1];
    for (renewal_waits, is_gated) in [false, true].into_iter().zip(is_gated) {
        let fails: Answer = |call| if call == 3 { Err(TokenError::transient("down")) } else { Ok(()) };
        let setup = Setup::new(is_gated, fails, rejecting_first());
        let mut request = setup.start_replay("image-1").await;
        setup.expire_token_of(&mut request).await;
        if renewal_waits {
            assert!((&mut request).now_or_never().is_none());
            setup.gate.open(1);
        }
        assert_eq!(request.await.unwrap().status(), 200);
        assert_eq!((setup.numbers(), setup.source.calls()), (vec![1, 2], 3), "the renewal waits: {renewal_waits}");
    }
}

#[tokio::test]
async fn c2_request_that_awaits_its_renewal_holds_no_permit() {
    for is_replay in [false, true] {
        let is_gated: fn(usize) -> bool = if is_replay { |call| call == 2 || call == 3 } else { |call| call < 3 };
        let setup = Setup::new(is_gated, succeed, if is_replay { rejecting_first() } else { Recorder::new() });
        let mut request = if is_replay { setup.start_replay("image-1").await } else { setup.start("image-1") };
        assert!((&mut request).now_or_never().is_none());
        setup.expire_token_of(&mut request).await;
        assert!((&mut request).now_or_never().is_none(), "it awaits the renewal");
        let other = setup.start("image-2").now_or_never().expect("the permit is free");
        assert_eq!(other.unwrap().status(), 200);
        setup.gate.open(1);
        assert_eq!(request.await.unwrap().status(), 200);
        let expected: &[u64] = if is_replay { &[1, 4, 3] } else { &[3, 2] };
        assert_eq!(setup.numbers(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn f6_start_whose_renewed_token_failed_is_repeated_and_sent_once() {
    let busy = |call| if call == 2 { Err(TokenError::transient("busy")) } else { Ok(()) };
    for is_gated in [(|call| call == 1) as fn(usize) -> bool, |call| call <= 2] {
        let setup = Setup::new(is_gated, busy, Recorder::new());
        let client = Retry::new(AiutaRetryPolicy::new(), setup.layer.layer(setup.limit.clone()));
        let mut request = tower::ServiceExt::oneshot(client, try_on("image-1")).boxed();
        assert!((&mut request).now_or_never().is_none());
        setup.expire_token_of(&mut request).await;
        setup.gate.open(1);
        assert_eq!(request.await.unwrap().status(), StatusCode::OK);
        assert_eq!((setup.source.calls(), setup.numbers()), (3, vec![3]));
    }
}
