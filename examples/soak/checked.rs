//! [`Checked`]: the service right below the layer. It is sometimes slow to become ready, and checks what the layer
//! sends at the moment it does.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::BoxFuture;
use http::header::AUTHORIZATION;
use http::{Request, Response, StatusCode};
use tower::Service;
use tower_aiuta_auth::BoxError;

use crate::call;
use crate::gate::FALSE_DATE;
use crate::invariants::Invariant;
use crate::shared::Shared;

pub(crate) struct Checked<S> {
    shared: Arc<Shared>,
    inner: S,
    readiness: Readiness,
}

enum Readiness {
    None,
    /// Slow to become ready.
    Slow(Pin<Box<dyn Future<Output = ()> + Send + Sync>>),
    Inner,
}

impl<S> Checked<S> {
    pub(crate) fn new(shared: Arc<Shared>, inner: S) -> Self {
        Self { shared, inner, readiness: Readiness::None }
    }

    /// Returns how long the service takes to become ready. The first time in a call, a token is looked up only after
    /// that, so only the second time is slow.
    fn slowness(&self) -> Option<Duration> {
        let slowness = call::with(|call| {
            call.readied += 1;
            (call.readied == 2 && !call.slow.is_zero()).then_some(call.slow)
        });
        slowness.flatten()
    }
}

/// The clone has to become ready by itself.
impl<S: Clone> Clone for Checked<S> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.shared), self.inner.clone())
    }
}

impl<S, B, R> Service<Request<B>> for Checked<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Response<R>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<R>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        loop {
            match &mut self.readiness {
                Readiness::None => {
                    self.readiness = match self.slowness() {
                        Some(slowness) => {
                            self.shared.counts.slow.add();
                            let timers = self.shared.timers.clone();
                            Readiness::Slow(Box::pin(async move { timers.sleep(slowness).await }))
                        }
                        None => Readiness::Inner,
                    };
                }
                Readiness::Slow(sleep) => {
                    ready!(sleep.as_mut().poll(cx));
                    self.readiness = Readiness::Inner;
                }
                Readiness::Inner => return self.inner.poll_ready(cx),
            }
        }
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.readiness = Readiness::None;
        let token = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = token.and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
        self.shared.check_sent(token.as_deref());
        let response = self.inner.call(request);
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let response = response.await?;
            if response.status() == StatusCode::UNAUTHORIZED {
                shared.counts.unauthorized.add();
                if token.is_some_and(|token| shared.issued.reject(&token)) {
                    shared.counts.rejected_tokens.add();
                }
                if response.headers().contains_key(FALSE_DATE) {
                    call::with(|call| call.saw_false_date = true);
                }
                shared.invalidations.rejection();
            }
            Ok(response)
        })
    }
}

impl Shared {
    /// Checks that the layer sends a token in time, and that the request did not wait for it too long.
    fn check_sent(&self, token: Option<&str>) {
        call::with(|call| {
            call.sent += 1;
            if let Some(token) = token {
                let error = self.issued.error_of_sent(token, call, &self.clock);
                self.violations.check(Invariant::TokenInTime, error.is_none(), || error.unwrap_or_default());
            }
            if call.sent == 1 {
                self.check_wait(call);
            }
        });
    }
}
