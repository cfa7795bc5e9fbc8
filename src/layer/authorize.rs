//! Gives a request its token. [`Authorize`] finds the token. [`Authorized`] handles the response.
//!
//! Neither owns the request, so the request is not moved between them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Extensions, HeaderMap, Method, Request, Response, StatusCode};

use super::config::JwtScheme;
use super::future::not_sent;
#[cfg(feature = "reqwest-middleware")]
use crate::cache::Instant;
use crate::cache::{FetchFuture, Lookup, ResolvedToken, is_on_runtime};
use crate::error::{AuthError, BoxError};
use crate::params::{AuthParams, json};
use crate::request::access::{NoReplay, NormalizedPaths, params_in_path, resembles_try_on, starts_try_on};
use crate::request::body::{BodyReader, RequestBody, copy_head};
use crate::request::credential::Credential;
use crate::request::headers::{self, Redirected, redirected};
use crate::request::media::{Content, MediaType};

/// Gives a request its token. Reads the body if necessary, determines the params, and looks up their token.
pub(crate) struct Authorize {
    scheme: Arc<JwtScheme>,
    /// The params. If they are in the body, only the partition (rule B1).
    params: AuthParams,
    params_in_body: bool,
    replayable: bool,
    step: Step,
    /// Whether a poll from `call` has left the rest of the work to the future.
    deferred: bool,
}

enum Step {
    /// Reads the body. `None` if the body need not be read.
    Body(Option<BodyReader>),
    /// Fetches the token. `body` is empty if it was not read.
    Fetch { params: AuthParams, body: Bytes },
    /// Awaits the token.
    Token { params: AuthParams, body: Bytes, fetch: FetchFuture },
}

/// Where [`Authorize`] is polled from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum PolledFrom {
    /// `call`, which may run outside the runtime of the future. Without a runtime, foreign futures are not polled in
    /// `call`, because they may need a runtime (rule C4).
    Call,
    Future,
}

impl Authorize {
    /// Decides where the params of a request are, and whether the request can be replayed.
    ///
    /// # Errors
    ///
    /// Fails if the request has no params (rule B3).
    pub(crate) fn new<B: RequestBody>(
        scheme: &Arc<JwtScheme>,
        request: &Request<B>,
        paths: &NormalizedPaths<'_>,
    ) -> Result<Self, AuthError> {
        let given = request.extensions().get::<AuthParams>().cloned().unwrap_or_default();
        let (params, params_in_body) = if !given.is_empty() {
            (given, false)
        } else if starts_try_on(request.method(), paths) {
            check_content(request.headers())?;
            (given, true)
        } else {
            (params_without_body(scheme, request.method(), paths)?.with_partition_of(&given), false)
        };
        let body = request.body();
        let may_replay = scheme.replay_unauthorized && request.extensions().get::<NoReplay>().is_none();
        let is_empty = may_replay && body.is_end_stream();
        let is_small = || body.size_hint().exact().is_some_and(|size| size <= scheme.body_limit as u64);
        let replayable = may_replay && (params_in_body || is_empty || is_small());
        let read = params_in_body || (replayable && !is_empty);
        let reader = read.then(|| BodyReader::new(scheme.body_limit));
        let scheme = Arc::clone(scheme);
        Ok(Self { scheme, params, params_in_body, replayable, step: Step::Body(reader), deferred: false })
    }

    /// Returns whether a poll from `call` was pending only because foreign futures could not be polled there.
    pub(crate) fn is_deferred(&self) -> bool {
        self.deferred
    }

    /// Puts the token into `request`. If a poll from `call` is pending, the future polls again. After `Ready`, this
    /// must not be polled again.
    ///
    /// # Errors
    ///
    /// Fails if the body or the params can't be read, or if the token can't be fetched. The request must not be sent
    /// then.
    pub(crate) fn poll<B>(
        &mut self,
        from: PolledFrom,
        request: &mut Request<B>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Authorized, AuthError>>
    where
        B: RequestBody + Unpin,
        B::Error: Into<BoxError>,
    {
        let may_poll = || from == PolledFrom::Future || is_on_runtime();
        let (params, body, token) = loop {
            let (params, body) = match &mut self.step {
                Step::Body(reader) => {
                    let mut body = Bytes::new();
                    if let Some(reader) = reader {
                        if !request.body().is_buffered() && !may_poll() {
                            self.deferred = true;
                            return Poll::Pending;
                        }
                        body = ready!(reader.poll(request.body_mut(), cx))?;
                        *request.body_mut() = B::from_bytes(body.clone());
                    }
                    (self.params(&body)?, body)
                }
                Step::Fetch { params, body } => (std::mem::take(params), std::mem::take(body)),
                Step::Token { params, body, fetch } => {
                    let token = ready!(Pin::new(fetch).poll(cx))?;
                    break (std::mem::take(params), std::mem::take(body), token);
                }
            };
            match self.scheme.token_cache.lookup(&params) {
                Ok(token) => break (params, body, token),
                Err(_) if !may_poll() => {
                    self.step = Step::Fetch { params, body };
                    self.deferred = true;
                    return Poll::Pending;
                }
                Err(miss) => {
                    let lookup = self.scheme.token_cache.fetch(&params, miss);
                    match within_limit(lookup, request.extensions()) {
                        Lookup::Ready(result) => break (params, body, result.into_inner()?),
                        Lookup::Waiting(fetch) => self.step = Step::Token { params, body, fetch },
                    }
                }
            }
        };
        // The request is copied before it contains the token, because a replay carries another token.
        let copy = self.replayable.then(|| Box::new(copy_head(request, body)));
        Credential::Bearer(token.jwt()).put_into(request.headers_mut());
        let scheme = Arc::clone(&self.scheme);
        Poll::Ready(Ok(Authorized {
            scheme,
            params,
            token,
            copy,
            tried_offset: false,
            renewed: false,
            is_replay: false,
        }))
    }

    /// Returns the params of the request. Reads them from `body` if they are there.
    fn params(&mut self, body: &[u8]) -> Result<AuthParams, AuthError> {
        let mut params = std::mem::take(&mut self.params);
        if self.params_in_body {
            params = json::read(body, &self.scheme.signed_fields)?.with_partition_of(&params);
        }
        params.check_size()?;
        Ok(params)
    }
}

/// Returns the params of a request that has none in its extensions and does not start a try-on.
fn params_without_body(
    scheme: &JwtScheme,
    method: &Method,
    paths: &NormalizedPaths<'_>,
) -> Result<AuthParams, AuthError> {
    match params_in_path(method, paths) {
        Some(params) => Ok(params),
        None if scheme.allow_unbound_tokens && !resembles_try_on(method, paths) => Ok(AuthParams::new()),
        None => Err(AuthError::missing_params()),
    }
}

/// Checks that the headers of a request allow its body to be read as JSON (rule B3).
fn check_content(headers: &HeaderMap) -> Result<(), AuthError> {
    let content = Content::of(headers);
    if content.media_type == MediaType::Other {
        return Err(AuthError::invalid_body(
            "the content type of a request that starts a try-on must be application/json in UTF-8; correct it, \
             or insert `AuthParams` into the request's extensions",
        ));
    }
    if content.is_encoded {
        return Err(AuthError::invalid_body(
            "the body of a request that starts a try-on has a content encoding, so its params can't be read; \
             compress it in a layer below this one, or insert `AuthParams` into the request's extensions",
        ));
    }
    Ok(())
}

/// A request that carries a token. Contains the data that is needed to send the request and to handle its response.
pub(crate) struct Authorized {
    scheme: Arc<JwtScheme>,
    params: AuthParams,
    token: ResolvedToken,
    /// The same request without a token, if it may be sent again.
    copy: Option<Box<Request<Bytes>>>,
    /// Whether the token was fetched to try another clock offset.
    tried_offset: bool,
    /// Whether the token has replaced another token that expired before the request was sent.
    renewed: bool,
    is_replay: bool,
}

impl Authorized {
    pub(crate) fn may_replay(&self) -> bool {
        self.copy.is_some()
    }

    /// Looks up another token if this one has expired before the request was sent (rule C2). The first time, the new
    /// token may be fetched. After that, it may only come from the cache. If the cache has no valid token, the request
    /// is sent with the expired one.
    pub(crate) fn renew<B>(&mut self, request: &Request<B>) -> Option<Lookup> {
        let cache = &self.scheme.token_cache;
        if !cache.has_expired_since(&self.token) {
            return None;
        }
        if std::mem::replace(&mut self.renewed, true) {
            return cache.lookup(&self.params).ok().map(Lookup::from);
        }
        Some(within_limit(cache.get_or_fetch(&self.params), request.extensions()))
    }

    /// Puts another token into the request that is about to be sent.
    ///
    /// # Errors
    ///
    /// Fails if the token can't be fetched. A replay does not fail, because an error of this layer means that the
    /// request was not sent at all. The replay is sent with the expired token instead.
    pub(crate) fn on_renewed<B>(
        &mut self,
        result: Result<ResolvedToken, AuthError>,
        request: &mut Request<B>,
    ) -> Result<(), AuthError> {
        match result {
            Ok(token) => self.put(token, request),
            Err(_) if self.is_replay => {}
            Err(error) => return Err(not_sent(error, request)),
        }
        Ok(())
    }

    fn put<B>(&mut self, token: ResolvedToken, request: &mut Request<B>) {
        Credential::Bearer(token.jwt()).put_into(request.headers_mut());
        self.token = token;
    }

    /// Handles a response. After a 401, returns the lookup of a token for a replay, if the request may be replayed.
    ///
    /// The response to a redirect that was followed below this layer answers another request. It says nothing about
    /// the token if it comes from another origin, and it never leads to a replay: the first request may have been
    /// accepted (rule E2).
    pub(crate) fn on_response<R>(&mut self, response: &Response<R>) -> Option<Lookup> {
        let cache = &self.scheme.token_cache;
        if !self.is_rejection(response.status()) {
            if self.tried_offset || cache.is_watching(&self.token) {
                self.on_other_response(response);
            }
            return None;
        }
        let redirected = redirected(response);
        if redirected == Some(Redirected::CrossOrigin) {
            return None;
        }
        let date = headers::reliable_date(response.headers());
        if let Some(date) = date {
            cache.on_date(date);
        }
        let replacement = cache.on_rejected(&self.params, &self.token, date)?;
        let copy = self.copy.as_ref().filter(|_| redirected.is_none())?;
        self.tried_offset = replacement.tries_offset();
        Some(within_limit(cache.replace(&self.params, replacement), copy.extensions()))
    }

    /// Returns whether a status means that the token was rejected (rule E3).
    fn is_rejection(&self, status: StatusCode) -> bool {
        status == StatusCode::UNAUTHORIZED || (status == StatusCode::FORBIDDEN && self.scheme.reject_on_forbidden)
    }

    #[cold]
    fn on_other_response<R>(&self, response: &Response<R>) {
        let cache = &self.scheme.token_cache;
        if redirected(response) == Some(Redirected::CrossOrigin) {
            return;
        }
        if is_success(response.status()) {
            cache.on_accepted(&self.params, &self.token, self.tried_offset);
        }
        if let Some(date) = headers::reliable_date(response.headers()) {
            cache.on_date(date);
        }
    }

    /// Creates the replay of the request, with another token. Returns `None` if that token is no better than the
    /// rejected one. A request is replayed at most once.
    pub(crate) fn replay<B: RequestBody>(&mut self, token: ResolvedToken) -> Option<Request<B>> {
        if !token.is_better_than(&self.token) {
            return None;
        }
        let mut request = (*self.copy.take()?).map(B::from_bytes);
        self.put(token, &mut request);
        (self.renewed, self.is_replay) = (false, true);
        self.scheme.token_cache.count_replay();
        Some(request)
    }
}

/// Bounds the wait for a token by the request's own time limit (rule G6).
#[cfg_attr(not(feature = "reqwest-middleware"), expect(unused_variables, reason = "no other requests have a limit"))]
fn within_limit(lookup: Lookup, extensions: &Extensions) -> Lookup {
    #[cfg(feature = "reqwest-middleware")]
    let lookup = match lookup {
        Lookup::Waiting(_) => lookup.wait_until(extensions.get::<TimeLimit>().map(|limit| limit.0)),
        Lookup::Ready(_) => lookup,
    };
    lookup
}

/// Request extension: the time at which the caller gives up.
#[cfg(feature = "reqwest-middleware")]
#[derive(Clone, Copy)]
pub(crate) struct TimeLimit(pub(crate) Instant);

/// Returns whether a status that is no rejection shows that the token was accepted. 408, 429 and 5xx do not show this,
/// because a proxy may have sent them before Aiuta checked the token.
fn is_success(status: StatusCode) -> bool {
    !matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS) && !status.is_server_error()
}
