//! [`ResponseFuture`]: one state for each thing that a request awaits.
//!
//! ```text
//! Preparing     => AwaitingToken | Readying | Failed
//! AwaitingToken => Readying | Failed
//! Readying      => Sent
//! Sent          => (the response) | AwaitingReplacement | Readying
//! AwaitingReplacement => (the first response) | Readying
//! ```

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, Response, StatusCode};
use pin_project::pin_project;
use tower_service::Service;

use crate::cache::{Found, Served, Waiter};
use crate::error::{AuthError, BoxError};
use crate::layer::authorize::{JwtScheme, Prepared, Preparing, Sent};
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
    /// A refresh that no task drives: it is polled as long as the request is under way, and left to the next one then.
    beside: Option<Waiter>,
}

#[pin_project(project = StateProj)]
enum State<S, B>
where
    S: Service<Request<B>>,
{
    /// The inner service's response to a request without a token.
    Passing {
        #[pin]
        response: S::Future,
    },
    /// The request's body.
    Preparing { preparing: Preparing, scheme: Arc<JwtScheme>, waiting: Option<Box<Waiting<S, B>>> },
    /// A token for the first time.
    AwaitingToken {
        prepared: Option<Prepared>,
        waiter: Waiter,
        scheme: Arc<JwtScheme>,
        waiting: Option<Box<Waiting<S, B>>>,
    },
    /// The service, which is not the one that was polled ready before `call`: the request had to wait, or is sent again.
    Readying { waiting: Option<Box<Waiting<S, B>>>, sent: Option<Sent> },
    /// The inner service's response to a request with a token.
    Sent {
        #[pin]
        response: S::Future,
        sent: Option<Sent>,
        /// Not polled ready; there if the request may be sent again.
        service: Option<Box<S>>,
    },
    /// Another token after a 401. The response is for the caller if none can be had.
    AwaitingReplacement { waiter: Waiter, response: Option<S::Response>, sent: Option<Sent>, service: Option<Box<S>> },
    /// Nothing: the request can't be sent.
    Failed { error: Option<AuthError> },
}

/// A request that waits, and the service that it goes to: not polled ready, so that nothing is kept from others (rule C2).
///
/// It stands in a box, as all that is large and seldom needed: the future of a request that need not wait is moved about, and stays small.
pub(crate) struct Waiting<S, B> {
    pub(crate) request: Request<B>,
    pub(crate) service: S,
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn new(state: State<S, B>) -> Self {
        Self { state, beside: None }
    }

    pub(crate) fn passing(response: S::Future) -> Self {
        Self::new(State::Passing { response })
    }

    pub(crate) fn failed(error: AuthError) -> Self {
        Self::new(State::Failed { error: Some(error) })
    }

    pub(crate) fn preparing(preparing: Preparing, scheme: Arc<JwtScheme>, waiting: Waiting<S, B>) -> Self {
        Self::new(State::Preparing { preparing, scheme, waiting: Some(Box::new(waiting)) })
    }

    pub(crate) fn awaiting_token(
        prepared: Prepared,
        waiter: Waiter,
        scheme: Arc<JwtScheme>,
        waiting: Waiting<S, B>,
    ) -> Self {
        let waiting = Some(Box::new(waiting));
        Self::new(State::AwaitingToken { prepared: Some(prepared), waiter, scheme, waiting })
    }

    pub(crate) fn sent(response: S::Future, sent: Sent, service: Option<S>, beside: Option<Waiter>) -> Self {
        let service = service.map(Box::new);
        Self { state: State::Sent { response, sent: Some(sent), service }, beside }
    }
}

/// The states in which nothing is pinned, by value.
impl<S, B> State<S, B>
where
    S: Service<Request<B>>,
{
    fn readying(mut waiting: Box<Waiting<S, B>>, scheme: &Arc<JwtScheme>, prepared: Prepared, served: Served) -> Self {
        let sent = prepared.authorize(Arc::clone(scheme), &mut waiting.request, served);
        Self::Readying { waiting: Some(waiting), sent: Some(sent) }
    }
}

const TAKEN: &str = "`ResponseFuture` was polled after it was ready";

impl<S, B, R> Future for ResponseFuture<S, B>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    B: RequestBody + Unpin,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<R>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            if this.beside.as_mut().is_some_and(|refresh| Pin::new(refresh).poll(cx).is_ready()) {
                *this.beside = None;
            }
            let next = match this.state.as_mut().project() {
                StateProj::Passing { response } => return response.poll(cx).map_err(Into::into),
                StateProj::Preparing { preparing, scheme, waiting } => {
                    let request = &mut waiting.as_mut().expect(TAKEN).request;
                    let prepared = ready!(preparing.poll(scheme, request, cx))?;
                    let found = prepared.find_token(scheme);
                    let waiting = waiting.take().expect(TAKEN);
                    match found {
                        Found::Cached { served, beside } => {
                            *this.beside = beside;
                            State::readying(waiting, scheme, prepared, served)
                        }
                        Found::Fetched(result) => State::readying(waiting, scheme, prepared, result?),
                        Found::Awaited(waiter) => State::AwaitingToken {
                            prepared: Some(prepared),
                            waiter,
                            scheme: Arc::clone(scheme),
                            waiting: Some(waiting),
                        },
                    }
                }
                StateProj::AwaitingToken { prepared, waiter, scheme, waiting } => {
                    let served = ready!(Pin::new(waiter).poll(cx))?;
                    let (waiting, prepared) = (waiting.take().expect(TAKEN), prepared.take().expect(TAKEN));
                    State::readying(waiting, scheme, prepared, served)
                }
                StateProj::Readying { waiting, sent } => {
                    ready!(waiting.as_mut().expect(TAKEN).service.poll_ready(cx)).map_err(Into::into)?;
                    let Waiting { request, mut service } = *waiting.take().expect(TAKEN);
                    let response = service.call(request);
                    let sent = sent.take();
                    // Called once, it is unready again; whoever needs it no more must not keep what it holds.
                    let service = sent.as_ref().is_some_and(Sent::may_replay).then(|| Box::new(service));
                    State::Sent { response, sent, service }
                }
                StateProj::Sent { response, sent, service } => {
                    let response = ready!(response.poll(cx)).map_err(Into::into)?;
                    if response.status() != StatusCode::UNAUTHORIZED {
                        return Poll::Ready(Ok(response));
                    }
                    let sent = sent.take().expect(TAKEN);
                    match sent.refused(&response) {
                        Some(Found::Cached { served, .. } | Found::Fetched(Ok(served))) => {
                            match replay(response, sent, served, service.take()) {
                                Ok(state) => state,
                                Err(response) => return Poll::Ready(Ok(response)),
                            }
                        }
                        Some(Found::Awaited(waiter)) => State::AwaitingReplacement {
                            waiter,
                            response: Some(response),
                            sent: Some(sent),
                            service: service.take(),
                        },
                        Some(Found::Fetched(Err(_))) | None => return Poll::Ready(Ok(response)),
                    }
                }
                StateProj::AwaitingReplacement { waiter, response, sent, service } => {
                    let result = ready!(Pin::new(waiter).poll(cx));
                    let (response, sent) = (response.take().expect(TAKEN), sent.take().expect(TAKEN));
                    let Ok(served) = result else { return Poll::Ready(Ok(response)) };
                    match replay(response, sent, served, service.take()) {
                        Ok(state) => state,
                        Err(response) => return Poll::Ready(Ok(response)),
                    }
                }
                StateProj::Failed { error } => return Poll::Ready(Err(error.take().expect(TAKEN).into())),
            };
            this.state.set(next);
        }
    }
}

/// Drops the first response, whose connection or permit the replay may need, and goes on to the replay; gives the response back if the
/// token is the one that was refused.
fn replay<S, B, R>(
    response: Response<R>,
    mut sent: Sent,
    served: Served,
    service: Option<Box<S>>,
) -> Result<State<S, B>, Response<R>>
where
    S: Service<Request<B>, Response = Response<R>>,
    B: RequestBody,
{
    let Some(service) = service else { return Err(response) };
    let Some(request) = sent.replay(served) else { return Err(response) };
    drop(response);
    trace::replayed();
    Ok(State::Readying { waiting: Some(Box::new(Waiting { request, service: *service })), sent: Some(sent) })
}

impl<S, B> std::fmt::Debug for ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
