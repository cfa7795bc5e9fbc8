//! [`AiutaAuth`]: the service. Start reading this crate at [`call`](Service::call).

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use http::{Request, Response};
use tower_service::Service;

use super::authorize::{Authorize, PolledFrom};
use super::config::{Config, Scheme};
use super::future::{ResponseFuture, Waiting, not_sent, send_with_token};
use super::stats::Treatment;
use crate::error::{AuthError, BoxError};
use crate::request::access::{Access, NormalizedPaths};
use crate::request::body::RequestBody;
use crate::request::credential::Credential;
use crate::request::origin::{Mistake, Trust};

/// Adds Aiuta's credentials to the requests of the service `S`. Created by [`AiutaAuthLayer`](crate::AiutaAuthLayer).
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
/// - A request to a trusted origin carries exactly one credential, unless its access is
///   [`Anonymous`](crate::Access::Anonymous). The layer's credential replaces all credentials that the caller has put
///   into the headers. A request to another origin is not changed.
/// - A request whose `Host` header contradicts its URI is not sent to a trusted origin with a credential. It fails.
/// - The inner service gets the same body, byte for byte. A body is read only if it contains the params, or if it is
///   small enough for a replay.
/// - While a request waits for its body or for a token, it does not hold a permit or another resource of the inner
///   service.
/// - A request is sent at most twice. It is sent again only after a 401 to a token that came from a cache, had expired
///   before the 401 arrived, or was made with the time of a wrong clock. If the second attempt fails, the caller gets
///   its error, and the 401 is lost.
/// - The inner service is called only after it was polled ready.
/// - Errors of the inner service are boxed, and otherwise unchanged. Errors of this layer can be downcast to
///   [`AuthError`](crate::AuthError). Such an error proves that this call sent nothing.
/// - If the clock is wrong by up to a day, the `Date` of a 401 shows this. The request is sent again with a token that
///   was made with the corrected time. If Aiuta accepts that token, the correction is used for an hour.
#[derive(Clone)]
pub struct AiutaAuth<S> {
    inner: S,
    config: Arc<Config>,
}

impl<S> AiutaAuth<S> {
    pub(crate) fn new(inner: S, config: Arc<Config>) -> Self {
        Self { inner, config }
    }

    /// Returns a reference to the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns a mutable reference to the inner service.
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
        match config.origins.trust(&request) {
            Trust::Trusted => {}
            Trust::HostMismatch if config.is_anonymous(&request) => {}
            Trust::HostMismatch => {
                config.counters.count_withheld(Mistake::Host);
                return self.fail(AuthError::host_mismatch());
            }
            Trust::Untrusted(mistake) => {
                config.counters.count_untrusted(&request, mistake);
                return ResponseFuture::passing(self.inner.call(request));
            }
        }
        match &config.scheme {
            Scheme::ApiKey(key) => {
                if config.access.stated(&request) == Some(Access::Anonymous) {
                    config.counters.count(Treatment::Anonymous);
                } else {
                    config.counters.count(Treatment::ApiKey);
                    Credential::ApiKey(&key.load()).put_into(request.headers_mut());
                }
                ResponseFuture::passing(self.inner.call(request))
            }
            Scheme::Jwt(jwt) => {
                let paths = NormalizedPaths::new(request.uri().path());
                match config.access.of(&request, &paths) {
                    Access::Anonymous => {
                        config.counters.count(Treatment::Anonymous);
                        ResponseFuture::passing(self.inner.call(request))
                    }
                    Access::SubscriptionId => {
                        config.counters.count(Treatment::SubscriptionId);
                        Credential::UserId(&jwt.subscription_id).put_into(request.headers_mut());
                        ResponseFuture::passing(self.inner.call(request))
                    }
                    Access::Jwt => {
                        config.counters.count(Treatment::Jwt);
                        match Authorize::new(jwt, &request, &paths) {
                            Ok(authorize) => self.call_with_jwt(authorize, request),
                            Err(error) => self.fail(error),
                        }
                    }
                }
            }
        }
    }
}

impl<S> AiutaAuth<S> {
    /// Authorizes the request and sends it. If nothing has to wait, the request is sent here, on the service that was
    /// polled ready. Otherwise the future continues. It releases the ready service as soon as it has to wait.
    fn call_with_jwt<B, R>(&mut self, mut authorize: Authorize, mut request: Request<B>) -> ResponseFuture<S, B>
    where
        S: Service<Request<B>, Response = Response<R>> + Clone,
        S::Error: Into<BoxError>,
        B: RequestBody + Unpin,
        B::Error: Into<BoxError>,
    {
        match authorize.poll(PolledFrom::Call, &mut request, &mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(authorized)) => {
                let service = authorized.may_replay().then(|| self.inner.clone());
                ResponseFuture::sent(send_with_token(&mut self.inner, request), authorized, service)
            }
            Poll::Ready(Err(error)) => self.fail(not_sent(error, &request)),
            Poll::Pending => {
                let mut waiting = Waiting { request, service: self.take_ready(), is_ready: true };
                if !authorize.is_deferred() {
                    waiting.release_ready();
                }
                ResponseFuture::authorizing(authorize, waiting)
            }
        }
    }

    /// Fails without sending the request, and releases the ready service.
    fn fail<B>(&mut self, error: AuthError) -> ResponseFuture<S, B>
    where
        S: Service<Request<B>> + Clone,
    {
        drop(self.take_ready());
        ResponseFuture::failed(error)
    }

    /// Takes the service that was polled ready, and leaves a clone. The clone must be polled ready before it is called.
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
