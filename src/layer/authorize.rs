//! Giving a request its token: [`Authorize`] finds the token, [`Authorized`] is what is needed after a 401.
//!
//! The request itself stays where it is, so that it is not moved from one to the other.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};

use super::config::JwtScheme;
use crate::cache::{FetchFuture, Lookup, ResolvedToken};
use crate::error::{AuthError, BoxError};
use crate::params::{AuthParams, json};
use crate::request::access::NoReplay;
use crate::request::body::{BodyReader, RequestBody, copy_head};
use crate::request::credential::Credential;
use crate::request::headers;

/// Gives a request its token: reads its body if that is needed, settles its params, and looks their token up.
pub(crate) struct Authorize {
    scheme: Arc<JwtScheme>,
    /// The params from the request's extensions. `None` if they are in its body (rule B1).
    params: Option<AuthParams>,
    starts_try_on: bool,
    replayable: bool,
    step: Step,
}

enum Step {
    /// Reads the body. `None` if it need not be read.
    Body(Option<BodyReader>),
    /// Awaits the token. `body` is empty if it was not read.
    Token { params: AuthParams, body: Bytes, fetch: FetchFuture },
}

impl Authorize {
    pub(crate) fn new<B: RequestBody>(scheme: Arc<JwtScheme>, request: &Request<B>, starts_try_on: bool) -> Self {
        let in_extensions = request.extensions().get::<AuthParams>().cloned();
        let params = if starts_try_on { in_extensions } else { Some(in_extensions.unwrap_or_default()) };
        let body = request.body();
        let must_read = params.is_none();
        let may_replay = scheme.replay_unauthorized && request.extensions().get::<NoReplay>().is_none();
        let is_empty = may_replay && body.is_end_stream();
        let is_small = || body.size_hint().exact().is_some_and(|size| size <= scheme.body_limit as u64);
        let replayable = may_replay && (must_read || is_empty || is_small());
        let read = must_read || (replayable && !is_empty);
        let reader = read.then(|| BodyReader::new(scheme.body_limit));
        Self { scheme, params, starts_try_on, replayable, step: Step::Body(reader) }
    }

    /// Puts the token into `request`. Must not be polled again once it is ready.
    ///
    /// # Errors
    ///
    /// Those of reading the body and the params, and of fetching the token. The request must not be sent then.
    pub(crate) fn poll<B>(
        &mut self,
        request: &mut Request<B>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Authorized, AuthError>>
    where
        B: RequestBody + Unpin,
        B::Error: Into<BoxError>,
    {
        let (params, body, token) = loop {
            match &mut self.step {
                Step::Body(reader) => {
                    let mut body = Bytes::new();
                    if let Some(reader) = reader {
                        body = ready!(reader.poll(request.body_mut(), cx))?;
                        *request.body_mut() = B::from_bytes(body.clone());
                    }
                    let params = self.params(&body)?;
                    match self.scheme.token_cache.get_or_fetch(&params) {
                        Lookup::Ready(result) => break (params, body, result.into_inner()?),
                        Lookup::Waiting(fetch) => self.step = Step::Token { params, body, fetch },
                    }
                }
                Step::Token { params, body, fetch } => {
                    let token = ready!(Pin::new(fetch).poll(cx))?;
                    break (std::mem::take(params), std::mem::take(body), token);
                }
            }
        };
        // Copied before the token is in it: the copy gets another one.
        let copy = self.replayable.then(|| Box::new(copy_head(request, body)));
        Credential::Bearer(token.jwt()).put_into(request.headers_mut());
        Poll::Ready(Ok(Authorized { scheme: Arc::clone(&self.scheme), params, token, copy }))
    }

    /// Settles the params of the request (rules B1, B3, B4).
    fn params(&mut self, body: &[u8]) -> Result<AuthParams, AuthError> {
        let params = match self.params.take() {
            Some(params) => params,
            None => json::read(body, &self.scheme.signed_fields)?,
        };
        if self.starts_try_on && params.is_empty() {
            return Err(AuthError::missing_params());
        }
        params.check_size()?;
        Ok(params)
    }
}

/// A request that carries a token: what is needed if it is answered with 401.
pub(crate) struct Authorized {
    scheme: Arc<JwtScheme>,
    params: AuthParams,
    token: ResolvedToken,
    /// The same request without a token, if it may be sent again.
    copy: Option<Box<Request<Bytes>>>,
}

impl Authorized {
    pub(crate) fn may_replay(&self) -> bool {
        self.copy.is_some()
    }

    /// Forgets the token of a request that was answered with 401 (rule E1). Returns the look-up of another one, if the
    /// request may be replayed: if the token was in the cache (rule E2) or was made by a wrong clock (rule H1).
    ///
    /// Any other token was fetched for this request, and another fetched now would be rejected as well.
    pub(crate) fn on_unauthorized<R>(&self, response: &Response<R>) -> Option<Lookup> {
        let cache = &self.scheme.token_cache;
        let by_wrong_clock =
            headers::response_date(response).is_some_and(|date| cache.compare_clocks(&self.token, date));
        cache.reject(&self.params, &self.token);
        let replay = self.copy.is_some() && (self.token.from_cache || by_wrong_clock);
        replay.then(|| cache.get_or_fetch(&self.params))
    }

    /// Makes the request with another token, to be sent a second and last time. `None` if the token is the rejected one.
    pub(crate) fn replay<B: RequestBody>(&mut self, token: ResolvedToken) -> Option<Request<B>> {
        if token.jwt().same_as(self.token.jwt()) {
            return None;
        }
        let mut request = (*self.copy.take()?).map(B::from_bytes);
        Credential::Bearer(token.jwt()).put_into(request.headers_mut());
        self.token = token;
        self.scheme.token_cache.count_replay();
        Some(request)
    }
}
