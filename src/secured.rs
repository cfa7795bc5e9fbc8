//! A request that needs a token, on its way: [`Preparing`] (its body may have to be read) → [`Prepared`] (params known, body as it was)
//! → [`Sent`] (what is needed should it be answered with 401).

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderValue, Request};
use std::sync::Arc;

use crate::access::NoReplay;
use crate::body::{BodyReader, RequestBody, copy_head};
use crate::credential::Credential;
use crate::error::{AuthError, BoxError};
use crate::jwt::Jwt;
use crate::params::{AuthParams, body};
use crate::tokens::{Found, Tokens};

/// The Jwt scheme: its credential, and how its requests are treated.
pub(crate) struct JwtScheme {
    pub(crate) subscription_id: HeaderValue,
    pub(crate) tokens: Tokens,
    pub(crate) signed_fields: Vec<String>,
    pub(crate) body_limit: usize,
    pub(crate) replay_unauthorized: bool,
}

/// Where a request's params come from (rule B1).
enum Params {
    Known(AuthParams),
    InBody,
}

/// A request whose body may have to be read, for its params or to be sent again.
pub(crate) struct Preparing<B> {
    scheme: Arc<JwtScheme>,
    /// `None` once it is prepared.
    request: Option<Request<B>>,
    starts_try_on: bool,
    params: Params,
    /// `None` if the body is not read.
    reader: Option<BodyReader>,
    replayable: bool,
}

impl<B> Preparing<B>
where
    B: RequestBody + Unpin,
    B::Error: Into<BoxError>,
{
    pub(crate) fn new(scheme: Arc<JwtScheme>, request: Request<B>, starts_try_on: bool) -> Self {
        let params = match request.extensions().get::<AuthParams>() {
            Some(params) => Params::Known(params.clone()),
            None if starts_try_on => Params::InBody,
            None => Params::Known(AuthParams::new()),
        };
        let body = request.body();
        let must_read = matches!(params, Params::InBody);
        let small = body.size_hint().exact().is_some_and(|size| size <= scheme.body_limit as u64);
        let replayable = scheme.replay_unauthorized
            && request.extensions().get::<NoReplay>().is_none()
            && (must_read || small || body.is_end_stream());
        let read = must_read || (replayable && !body.is_end_stream());
        let reader = read.then(|| BodyReader::new(scheme.body_limit));
        Self { scheme, request: Some(request), starts_try_on, params, reader, replayable }
    }

    /// Reads the body if that is needed, and settles the params.
    ///
    /// # Errors
    ///
    /// Those of rule B3 and the sizes of B4. Nothing was sent then.
    ///
    /// # Panics
    ///
    /// If polled again after it was ready.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Prepared<B>, AuthError>> {
        let request = self.request.as_mut().expect("polled after it was ready");
        let mut kept = Bytes::new();
        if let Some(reader) = &mut self.reader {
            kept = ready!(reader.poll(request.body_mut(), cx))?;
            *request.body_mut() = B::from_bytes(kept.clone());
        }
        Poll::Ready(self.finish(kept))
    }

    fn finish(&mut self, kept: Bytes) -> Result<Prepared<B>, AuthError> {
        let params = match &self.params {
            Params::Known(params) => params.clone(),
            Params::InBody => body::read(&kept, &self.scheme.signed_fields)?,
        };
        if self.starts_try_on && params.is_empty() {
            return Err(AuthError::missing_params());
        }
        params.check_size()?;
        let request = self.request.take().expect("polled after it was ready");
        let kept = self.replayable.then_some(kept);
        Ok(Prepared { scheme: Arc::clone(&self.scheme), request, params, kept })
    }
}

/// A request that lacks only its token.
pub(crate) struct Prepared<B> {
    scheme: Arc<JwtScheme>,
    request: Request<B>,
    params: AuthParams,
    /// The body's bytes, if it can be sent again.
    kept: Option<Bytes>,
}

impl<B> Prepared<B> {
    pub(crate) fn find_token(&self) -> Found {
        self.scheme.tokens.find(&self.params)
    }

    /// The request with the token, ready to be sent; and what is needed after a 401. Only a token out of the cache makes for a replay:
    /// one that was just fetched is no older than the refusal (rule E2).
    pub(crate) fn authorize(self, jwt: Jwt, from_cache: bool) -> (Request<B>, Sent) {
        let Self { scheme, mut request, params, kept } = self;
        Credential::Bearer(&jwt).put_into(request.headers_mut());
        let copy = kept.filter(|_| from_cache).map(|body| copy_head(&request, body));
        (request, Sent { scheme, params, jwt, copy })
    }
}

/// A request that was sent with a token.
pub(crate) struct Sent {
    scheme: Arc<JwtScheme>,
    params: AuthParams,
    jwt: Jwt,
    /// The same request once more, if it may be sent again.
    copy: Option<Request<Bytes>>,
}

impl Sent {
    pub(crate) fn may_replay(&self) -> bool {
        self.copy.is_some()
    }

    /// It was answered with 401: the token is forgotten. Then the token for a replay, if there may be one (rules E1, E2).
    pub(crate) fn refused(&self) -> Option<Found> {
        self.scheme.tokens.reject(&self.params, &self.jwt);
        self.copy.is_some().then(|| self.scheme.tokens.find(&self.params))
    }

    /// The request with another token, to be sent a second and last time; `None` if the token is the one that was refused.
    pub(crate) fn replay<B: RequestBody>(&mut self, jwt: Jwt) -> Option<Request<B>> {
        if jwt.same_as(&self.jwt) {
            return None;
        }
        let mut request = self.copy.take()?.map(B::from_bytes);
        Credential::Bearer(&jwt).put_into(request.headers_mut());
        self.jwt = jwt;
        self.scheme.tokens.count_replay();
        Some(request)
    }
}
