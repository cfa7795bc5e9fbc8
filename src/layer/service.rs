//! [`AiutaAuth`]: the service. [`call`](Service::call) is the map of this crate.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use http::{Request, Response};
use tower_service::Service;

use crate::cache::Found;
use crate::error::{AuthError, BoxError};
use crate::layer::authorize::{JwtScheme, Preparing};
use crate::layer::config::{Scheme, Settings};
use crate::layer::future::{ResponseFuture, Waiting};
use crate::request::access::{Access, Need};
use crate::request::body::RequestBody;
use crate::request::credential::Credential;
use crate::trace;

/// Adds Aiuta's credentials to the requests of the service `S`; made by [`AiutaAuthLayer`](crate::AiutaAuthLayer).
///
/// ```text
/// request ─▶ trusted origin? ──no──▶ inner service, untouched
///               │yes
///               ▼
///         ApiKey ────────────────────────────────────▶ x-api-key ───────────┐
///         Jwt ─▶ access? ── SubscriptionId ──────────────▶ x-user-id ───────────┤
///                  └─ Jwt ─▶ params ─▶ token cache ── hit ─▶ Bearer ────┤
///                                              └─ miss ─▶ flight ─▶ source  ▼
///                                                                      inner service
///                       forget that token, make another, replay once ◀── 401 │
///                                                                            ▼
///                                                                         response
/// ```
///
/// # Rules it keeps
///
/// - **A1** At a trusted origin exactly one credential leaves; what the caller had put into its headers is replaced.
/// - **B2** The inner service gets the very same bytes; bodies that need not be read are not.
/// - **C2** While a request waits, for its body or for a token, it holds nothing of the inner service.
/// - **E4** A request is sent at most twice: again only after a 401 to a token that was out of the cache, or made by a wrong clock.
/// - **F1** Only a service that was polled ready is called.
/// - **F3** Errors of the inner service pass through as they are, boxed; ours downcast to [`AuthError`].
/// - **H1** A clock that is off by up to a day is found out by the `Date` of a 401, and corrected for an hour.
#[derive(Clone)]
pub struct AiutaAuth<S> {
    inner: S,
    settings: Arc<Settings>,
}

impl<S> AiutaAuth<S> {
    pub(crate) fn new(inner: S, settings: Arc<Settings>) -> Self {
        Self { inner, settings }
    }

    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service, mutably.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service, the layer taken off.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B, R> Service<Request<B>> for AiutaAuth<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    B: RequestBody + Unpin,
    B::Error: Into<BoxError>,
{
    type Response = Response<R>;
    type Error = BoxError;
    type Future = ResponseFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let settings = &*self.settings;
        if !settings.origins.trust(&request) {
            trace::withheld(request.uri().host());
            return ResponseFuture::passing(self.inner.call(request));
        }
        match &settings.scheme {
            Scheme::ApiKey(key) => {
                if settings.access.stated(&request) != Some(Access::Anonymous) {
                    Credential::ApiKey(&key.load()).put_into(request.headers_mut());
                }
                ResponseFuture::passing(self.inner.call(request))
            }
            Scheme::Jwt(jwt) => match settings.access.need(&request) {
                Need::Nothing => ResponseFuture::passing(self.inner.call(request)),
                Need::UserId => {
                    Credential::UserId(&jwt.subscription_id).put_into(request.headers_mut());
                    ResponseFuture::passing(self.inner.call(request))
                }
                Need::Token { starts_try_on } => {
                    let jwt = Arc::clone(jwt);
                    self.call_secured(jwt, request, starts_try_on)
                }
            },
        }
    }
}

impl<S> AiutaAuth<S> {
    /// Params, token, Bearer. What can be had without waiting is had here and now, and the service that was polled ready is called; a
    /// request that has to wait goes on in the future, with a service that is polled ready again.
    fn call_secured<B, R>(
        &mut self,
        scheme: Arc<JwtScheme>,
        mut request: Request<B>,
        starts_try_on: bool,
    ) -> ResponseFuture<S, B>
    where
        S: Service<Request<B>, Response = Response<R>> + Clone,
        S::Error: Into<BoxError>,
        B: RequestBody + Unpin,
        B::Error: Into<BoxError>,
    {
        let mut preparing = Preparing::new(&scheme, &request, starts_try_on);
        // A body of known bytes is read at once. One that has to wait is polled again by the future, with its real waker.
        let prepared = match preparing.poll(&scheme, &mut request, &mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(prepared)) => prepared,
            Poll::Ready(Err(error)) => return self.fail(error),
            Poll::Pending => {
                let waiting = Waiting { request, service: self.give_up_ready() };
                return ResponseFuture::preparing(preparing, scheme, waiting);
            }
        };
        let (served, beside) = match prepared.find_token(&scheme) {
            Found::Cached { served, beside } => (served, beside),
            Found::Fetched(Ok(served)) => (served, None),
            Found::Fetched(Err(error)) => return self.fail(error),
            Found::Awaited(waiter) => {
                let waiting = Waiting { request, service: self.give_up_ready() };
                return ResponseFuture::awaiting_token(prepared, waiter, scheme, waiting);
            }
        };
        let sent = prepared.authorize(scheme, &mut request, served);
        let service = sent.may_replay().then(|| self.inner.clone());
        ResponseFuture::sent(self.inner.call(request), sent, service, beside)
    }

    /// The request is not sent: whatever was reserved for it is for others.
    fn fail<B>(&mut self, error: AuthError) -> ResponseFuture<S, B>
    where
        S: Service<Request<B>> + Clone,
    {
        self.give_up_ready();
        ResponseFuture::failed(error)
    }

    /// Drops the service that was polled ready, with any permit it holds, and returns a clone that was not polled: a request that waits
    /// must not keep others from being sent (rule C2).
    fn give_up_ready(&mut self) -> S
    where
        S: Clone,
    {
        let unready = self.inner.clone();
        self.inner = unready.clone();
        unready
    }
}

impl<S: fmt::Debug> fmt::Debug for AiutaAuth<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AiutaAuth").field("inner", &self.inner).field("settings", &self.settings).finish()
    }
}
