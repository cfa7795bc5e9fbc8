//! [`ResponseFuture`]: a state machine. Each state awaits one thing.
//!
//! ```text
//! Passing     ⇒ (the response)
//! Authorizing ⇒ Readying | (the error)
//! Readying    ⇒ Sent | Renewing
//! Renewing    ⇒ Readying | (the error)
//! Sent        ⇒ (the response) | Replacing
//! Replacing   ⇒ (the first response) | Readying
//! Failed      ⇒ (the error)
//! ```

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use pin_project::pin_project;
use tower_service::Service;

use super::authorize::{Authorize, Authorized, PolledFrom};
use crate::cache::Lookup;
use crate::error::{AuthError, BoxError};
use crate::request::body::RequestBody;
#[cfg(feature = "retry")]
use crate::request::sent::{self, SentMark};
use crate::trace;

/// The response future of [`AiutaAuth`](crate::AiutaAuth).
#[pin_project]
pub struct ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    #[pin]
    state: State<S, B>,
}

#[pin_project(project = StateProj, project_replace = StateOwned)]
enum State<S, B>
where
    S: Service<Request<B>>,
{
    /// Awaits the inner service's response to a request without a token.
    Passing {
        #[pin]
        response: S::Future,
    },
    /// Awaits the request's body, then its token.
    Authorizing { authorize: Authorize, waiting: Box<Waiting<S, B>> },
    /// Awaits the inner service.
    Readying { waiting: Box<Waiting<S, B>>, authorized: Authorized },
    /// Awaits another token, because the last one expired while the inner service was not ready.
    Renewing { lookup: Lookup, waiting: Box<Waiting<S, B>>, authorized: Authorized },
    /// Awaits the inner service's response to a request with a token.
    Sent {
        #[pin]
        response: S::Future,
        authorized: Authorized,
        /// The service for a replay, which was not polled ready. `None` if the request may not be replayed.
        service: Option<Box<S>>,
    },
    /// Awaits another token after a 401. If there is no better token, the caller gets `response`.
    Replacing { lookup: Lookup, response: S::Response, authorized: Authorized, service: Box<S> },
    /// The request can't be sent. The next poll returns the error.
    Failed { error: AuthError },
    /// The future has returned its result, or is being moved to the next state.
    Complete,
}

/// A request that waits, and the service that it goes to.
///
/// This struct is boxed, because most requests need not wait and their future should be small.
pub(crate) struct Waiting<S, B> {
    pub(crate) request: Request<B>,
    pub(crate) service: S,
    /// Whether `service` was polled ready, either before `call` or since then.
    pub(crate) is_ready: bool,
}

impl<S: Clone, B> Waiting<S, B> {
    /// Replaces a service that was polled ready with a clone that was not. This releases any permit of the service,
    /// because a waiting request must not block other requests (rule C2).
    pub(crate) fn release_ready(&mut self) {
        if std::mem::take(&mut self.is_ready) {
            self.service = self.service.clone();
        }
    }
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    pub(crate) fn passing(response: S::Future) -> Self {
        Self { state: State::Passing { response } }
    }

    pub(crate) fn authorizing(authorize: Authorize, waiting: Waiting<S, B>) -> Self {
        Self { state: State::Authorizing { authorize, waiting: Box::new(waiting) } }
    }

    pub(crate) fn sent(response: S::Future, authorized: Authorized, service: Option<S>) -> Self {
        Self { state: State::Sent { response, authorized, service: service.map(Box::new) } }
    }

    pub(crate) fn failed(error: AuthError) -> Self {
        Self { state: State::Failed { error } }
    }
}

impl<S, B, R> Future for ResponseFuture<S, B>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    B: RequestBody + Unpin,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<R>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProj::Passing { response } => return response.poll(cx).map_err(Into::into),
                StateProj::Authorizing { authorize, waiting } => {
                    let Poll::Ready(result) = authorize.poll(PolledFrom::Future, &mut waiting.request, cx) else {
                        waiting.release_ready();
                        return Poll::Pending;
                    };
                    let StateOwned::Authorizing { waiting, .. } = state.as_mut().take() else { unreachable!() };
                    let authorized = result.map_err(|error| not_sent(error, &waiting.request))?;
                    state.set(State::Readying { waiting, authorized });
                }
                StateProj::Readying { waiting, .. } => {
                    if !waiting.is_ready {
                        ready!(waiting.service.poll_ready(cx)).map_err(Into::into)?;
                        waiting.is_ready = true;
                    }
                    let StateOwned::Readying { mut waiting, mut authorized } = state.as_mut().take() else {
                        unreachable!()
                    };
                    // The inner service may have taken a long time. A token that has expired in the meantime is not
                    // sent.
                    match authorized.renew(&waiting.request) {
                        None => state.set(send(*waiting, authorized)),
                        Some(Lookup::Ready(result)) => {
                            authorized.on_renewed(result.into_inner(), &mut waiting.request)?;
                            state.set(send(*waiting, authorized));
                        }
                        Some(lookup) => {
                            waiting.release_ready();
                            state.set(State::Renewing { lookup, waiting, authorized });
                        }
                    }
                }
                StateProj::Renewing { lookup, .. } => {
                    let result = ready!(Pin::new(lookup).poll(cx));
                    let StateOwned::Renewing { mut waiting, mut authorized, .. } = state.as_mut().take() else {
                        unreachable!()
                    };
                    authorized.on_renewed(result, &mut waiting.request)?;
                    state.set(State::Readying { waiting, authorized });
                }
                StateProj::Sent { response, .. } => {
                    let result = ready!(response.poll(cx));
                    let StateOwned::Sent { mut authorized, service, .. } = state.as_mut().take() else {
                        unreachable!()
                    };
                    let response = result.map_err(Into::into)?;
                    let Some((lookup, service)) = authorized.on_response(&response).zip(service) else {
                        return Poll::Ready(Ok(response));
                    };
                    state.set(State::Replacing { lookup, response, authorized, service });
                }
                StateProj::Replacing { lookup, .. } => {
                    let result = ready!(Pin::new(lookup).poll(cx));
                    let StateOwned::Replacing { response, mut authorized, service, .. } = state.as_mut().take() else {
                        unreachable!()
                    };
                    let Some(request) = result.ok().and_then(|token| authorized.replay(token)) else {
                        return Poll::Ready(Ok(response));
                    };
                    // The replay may need a connection or a permit that the response holds.
                    drop(response);
                    trace::replayed();
                    let waiting = Box::new(Waiting { request, service: *service, is_ready: false });
                    state.set(State::Readying { waiting, authorized });
                }
                StateProj::Failed { .. } => {
                    let StateOwned::Failed { error } = state.as_mut().take() else { unreachable!() };
                    return Poll::Ready(Err(error.into()));
                }
                StateProj::Complete => panic!("`ResponseFuture` was polled after it was ready"),
            }
        }
    }
}

/// Calls the inner service, which was polled ready, with a request that carries a token. Sets its mark (rule F6).
///
/// Requests without a token need no mark, because this layer has no transient error for them. A mark would be wrong if
/// the inner service is another layer, for another origin, whose token fails.
pub(super) fn send_with_token<S, B>(service: &mut S, request: Request<B>) -> S::Future
where
    S: Service<Request<B>>,
{
    #[cfg(feature = "retry")]
    SentMark::set_in(&request);
    service.call(request)
}

/// Notes in an error of the layer which request was not sent (rule F6).
#[cfg_attr(not(feature = "retry"), expect(unused_variables, reason = "only the retry policy asks for the request"))]
pub(super) fn not_sent<B>(error: AuthError, request: &Request<B>) -> AuthError {
    #[cfg(feature = "retry")]
    let error = error.with_unsent_request(sent::fingerprint(request));
    error
}

/// Sends a request that carries its token, on a service that was polled ready.
fn send<S, B>(waiting: Waiting<S, B>, authorized: Authorized) -> State<S, B>
where
    S: Service<Request<B>>,
{
    let Waiting { request, mut service, .. } = waiting;
    let response = send_with_token(&mut service, request);
    // A replay needs the service, which is not ready any more. If there is no replay, the service is dropped now and
    // does not wait for the end of the future.
    let service = authorized.may_replay().then(|| Box::new(service));
    State::Sent { response, authorized, service }
}

impl<S, B> State<S, B>
where
    S: Service<Request<B>>,
{
    /// Takes the fields out of the state, and leaves [`Complete`](Self::Complete). Pinned fields are dropped.
    fn take(self: Pin<&mut Self>) -> StateOwned<S, B> {
        self.project_replace(Self::Complete)
    }
}

impl<S, B> fmt::Debug for ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
