//! [`ResponseFuture`]: one state for each thing that a request awaits.
//!
//! ```text
//! Passing     ⇒ (the response)
//! Authorizing ⇒ Readying | (the error)
//! Readying    ⇒ Sent
//! Sent        ⇒ (the response) | Replacing
//! Replacing   ⇒ (the first response) | Readying
//! Failed      ⇒ (the error)
//! ```

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response, StatusCode};
use pin_project::pin_project;
use tower_service::Service;

use super::authorize::{Authorize, Authorized};
use crate::cache::Lookup;
use crate::error::{AuthError, BoxError};
use crate::request::body::RequestBody;
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
    /// Awaits the inner service, which is not the one that was polled ready before `call`: the request had to wait, or
    /// is sent again.
    Readying { waiting: Box<Waiting<S, B>>, authorized: Authorized },
    /// Awaits the inner service's response to a request with a token.
    Sent {
        #[pin]
        response: S::Future,
        authorized: Authorized,
        /// Not polled ready. `None` if the request may not be sent again.
        service: Option<Box<S>>,
    },
    /// Awaits another token after a 401. Without one the caller gets `response`.
    Replacing { lookup: Lookup, response: S::Response, authorized: Authorized, service: Box<S> },
    /// Nothing to await: the request can't be sent.
    Failed { error: AuthError },
    /// The future is ready, or being moved to the next state.
    Complete,
}

/// A request that waits, and the service that it goes to. That one is not polled ready, so that nothing is kept from
/// other requests (rule C2).
///
/// It is boxed: most requests need not wait, and their future stays small.
pub(crate) struct Waiting<S, B> {
    pub(crate) request: Request<B>,
    pub(crate) service: S,
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
    S: Service<Request<B>, Response = Response<R>>,
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
                    let result = ready!(authorize.poll(&mut waiting.request, cx));
                    let StateOwned::Authorizing { waiting, .. } = state.as_mut().take() else { unreachable!() };
                    state.set(State::Readying { waiting, authorized: result? });
                }
                StateProj::Readying { waiting, .. } => {
                    let result = ready!(waiting.service.poll_ready(cx));
                    let StateOwned::Readying { waiting, authorized } = state.as_mut().take() else { unreachable!() };
                    result.map_err(Into::into)?;
                    let Waiting { request, mut service } = *waiting;
                    let response = service.call(request);
                    // `call` consumed its readiness. Keep it only for a replay, so that it holds no permit.
                    let service = authorized.may_replay().then(|| Box::new(service));
                    state.set(State::Sent { response, authorized, service });
                }
                StateProj::Sent { response, .. } => {
                    let result = ready!(response.poll(cx));
                    let StateOwned::Sent { authorized, service, .. } = state.as_mut().take() else { unreachable!() };
                    let response = result.map_err(Into::into)?;
                    if response.status() != StatusCode::UNAUTHORIZED {
                        return Poll::Ready(Ok(response));
                    }
                    let Some((lookup, service)) = authorized.on_unauthorized(&response).zip(service) else {
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
                    // The replay may need its connection or permit.
                    drop(response);
                    trace::replayed();
                    let waiting = Box::new(Waiting { request, service: *service });
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

impl<S, B> State<S, B>
where
    S: Service<Request<B>>,
{
    /// Takes the state apart. Only what is pinned in it is dropped.
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
