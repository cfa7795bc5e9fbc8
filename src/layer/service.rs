//! [`AiutaAuth`]: the service. Start reading this crate at [`call`](Service::call).

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use http::{Request, Response};
use tower_service::Service;

use super::authorize::{Authorize, PolledFrom};
use super::config::{Config, JwtScheme, Scheme};
use super::future::{ResponseFuture, Waiting};
use crate::error::BoxError;
use crate::request::access::{Access, NormalizedPaths, starts_try_on};
use crate::request::body::RequestBody;
use crate::request::credential::Credential;
use crate::trace;

/// Adds Aiuta's credentials to the requests of the service `S`. Made by [`AiutaAuthLayer`](crate::AiutaAuthLayer).
///
/// ```text
/// request ─▶ trusted origin? ──no──▶ inner service, untouched
///               │yes
///               ▼
///         API key ──────────────────────────────────▶ x-api-key ───────────┐
///         JWT ─▶ Access? ── SubscriptionId ─────────▶ x-user-id ───────────┤
///                  └─ Jwt ─▶ params ─▶ token cache ── hit ─▶ Bearer ───────┤
///                                          └─ miss ─▶ fetch ─▶ Bearer ─────┤
///                                                                          ▼
///                                                                    inner service
///                       forget the token, get another, replay once ◀── 401 │
///                                                                          ▼
///                                                                       response
/// ```
///
/// # Guarantees
///
/// - At a trusted origin a request carries exactly one credential. Those that the caller put into its headers are
///   replaced. A request to another origin is not touched.
/// - The inner service gets the same body, byte for byte. Bodies are only read if the params are in them, or if they are
///   small enough to be replayed.
/// - While a request waits for its body or for a token, it holds nothing of the inner service, such as a permit.
/// - A request is sent at most twice. It is sent again only after a 401 to a token that came from a cache, had expired
///   before the 401 arrived, or was made by a wrong clock.
/// - Only a service that was polled ready is called.
/// - Errors of the inner service pass through unchanged, boxed. This layer's own downcast to
///   [`AuthError`](crate::AuthError), and mean that the request was not sent.
/// - If the clock is off by up to a day, the `Date` of a 401 shows it. The request is sent again with a token that was
///   made by the corrected time. If Aiuta accepts that token, the correction is used for an hour.
#[derive(Clone)]
pub struct AiutaAuth<S> {
    inner: S,
    config: Arc<Config>,
}

impl<S> AiutaAuth<S> {
    pub(crate) fn new(inner: S, config: Arc<Config>) -> Self {
        Self { inner, config }
    }

    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service, mutably.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service.
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
        let config = &*self.config;
        if !config.origins.trust(&request) {
            trace::withheld(request.uri().host());
            return ResponseFuture::passing(self.inner.call(request));
        }
        match &config.scheme {
            Scheme::ApiKey(key) => {
                if config.access.stated(&request) != Some(Access::Anonymous) {
                    Credential::ApiKey(&key.load()).put_into(request.headers_mut());
                }
                ResponseFuture::passing(self.inner.call(request))
            }
            Scheme::Jwt(jwt) => {
                let paths = NormalizedPaths::new(request.uri().path());
                match config.access.of(&request, &paths) {
                    Access::Anonymous => ResponseFuture::passing(self.inner.call(request)),
                    Access::SubscriptionId => {
                        Credential::UserId(&jwt.subscription_id).put_into(request.headers_mut());
                        ResponseFuture::passing(self.inner.call(request))
                    }
                    Access::Jwt => {
                        let starts_try_on = starts_try_on(request.method(), &paths);
                        let jwt = Arc::clone(jwt);
                        self.call_with_jwt(jwt, request, starts_try_on)
                    }
                }
            }
        }
    }
}

impl<S> AiutaAuth<S> {
    /// Authorizes the request and sends it. If nothing has to wait, it is sent here, on the service that was polled ready.
    /// Otherwise the future goes on; it releases that readiness as soon as something is pending.
    fn call_with_jwt<B, R>(
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
        let mut authorize = Authorize::new(scheme, &request, starts_try_on);
        match authorize.poll(PolledFrom::Call, &mut request, &mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(authorized)) => {
                let service = authorized.may_replay().then(|| self.inner.clone());
                ResponseFuture::sent(self.inner.call(request), authorized, service)
            }
            Poll::Ready(Err(error)) => {
                drop(self.take_ready());
                ResponseFuture::failed(error)
            }
            Poll::Pending => {
                let mut waiting = Waiting { request, service: self.take_ready(), is_ready: true };
                if !authorize.is_deferred() {
                    waiting.release_ready();
                }
                ResponseFuture::authorizing(authorize, waiting)
            }
        }
    }

    /// Takes the service that was polled ready. Leaves a clone, which has to be polled ready first.
    fn take_ready(&mut self) -> S
    where
        S: Clone,
    {
        let unready = self.inner.clone();
        std::mem::replace(&mut self.inner, unready)
    }
}

impl<S: fmt::Debug> fmt::Debug for AiutaAuth<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AiutaAuth").field("inner", &self.inner).field("config", &self.config).finish()
    }
}
