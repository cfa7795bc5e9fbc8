//! A request that needs a token, on its way: [`Preparing`] (its body may have to be read) → [`Prepared`] (params known, body as it was)
//! → [`Sent`] (what is needed should it be answered with 401).
//!
//! The request itself stays where it is, so that it need not be moved from one to the next.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};

use crate::cache::{Found, Served, TokenCache};
use crate::error::{AuthError, BoxError};
use crate::params::{AuthParams, json};
use crate::request::access::NoReplay;
use crate::request::body::{BodyReader, RequestBody, copy_head};
use crate::request::credential::Credential;
use crate::request::headers;

/// The Jwt scheme: its credential, and how its requests are treated.
pub(crate) struct JwtScheme {
    pub(crate) subscription_id: HeaderValue,
    pub(crate) tokens: TokenCache,
    pub(crate) signed_fields: Vec<String>,
    pub(crate) body_limit: usize,
    pub(crate) replay_unauthorized: bool,
}

/// Where a request's params come from (rule B1).
enum Params {
    Known(AuthParams),
    InBody,
}

/// What is to be found out of a request before it can have a token.
pub(crate) struct Preparing {
    params: Params,
    starts_try_on: bool,
    replayable: bool,
    /// `None` if the body is not read.
    reader: Option<BodyReader>,
}

impl Preparing {
    pub(crate) fn new<B: RequestBody>(scheme: &JwtScheme, request: &Request<B>, starts_try_on: bool) -> Self {
        let params = match request.extensions().get::<AuthParams>() {
            Some(params) => Params::Known(params.clone()),
            None if starts_try_on => Params::InBody,
            None => Params::Known(AuthParams::new()),
        };
        let body = request.body();
        let must_read = matches!(params, Params::InBody);
        let may_replay = scheme.replay_unauthorized && request.extensions().get::<NoReplay>().is_none();
        let empty = may_replay && body.is_end_stream();
        let small = || body.size_hint().exact().is_some_and(|size| size <= scheme.body_limit as u64);
        let replayable = may_replay && (must_read || empty || small());
        let read = must_read || (replayable && !empty);
        let reader = read.then(|| BodyReader::new(scheme.body_limit));
        Self { params, starts_try_on, replayable, reader }
    }

    /// Reads the request's body and puts it back if that is needed, and settles the params. Not to be polled again once it is ready.
    ///
    /// # Errors
    ///
    /// Those of rule B3 and the sizes of B4. Nothing was sent then.
    pub(crate) fn poll<B>(
        &mut self,
        scheme: &JwtScheme,
        request: &mut Request<B>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Prepared, AuthError>>
    where
        B: RequestBody + Unpin,
        B::Error: Into<BoxError>,
    {
        let mut kept = Bytes::new();
        if let Some(reader) = &mut self.reader {
            kept = ready!(reader.poll(request.body_mut(), cx))?;
            *request.body_mut() = B::from_bytes(kept.clone());
        }
        Poll::Ready(self.finish(scheme, kept))
    }

    fn finish(&mut self, scheme: &JwtScheme, kept: Bytes) -> Result<Prepared, AuthError> {
        let params = match &mut self.params {
            Params::Known(params) => std::mem::take(params),
            Params::InBody => json::read(&kept, &scheme.signed_fields)?,
        };
        if self.starts_try_on && params.is_empty() {
            return Err(AuthError::missing_params());
        }
        params.check_size()?;
        Ok(Prepared { params, kept: self.replayable.then_some(kept) })
    }
}

/// What is known of a request that lacks only its token.
pub(crate) struct Prepared {
    params: AuthParams,
    /// The body's bytes, if it can be sent again.
    kept: Option<Bytes>,
}

impl Prepared {
    pub(crate) fn find_token(&self, scheme: &JwtScheme) -> Found {
        scheme.tokens.find(&self.params)
    }

    /// Gives the request its token; the answer is what is needed after a 401.
    pub(crate) fn authorize<B>(self, scheme: Arc<JwtScheme>, request: &mut Request<B>, served: Served) -> Sent {
        // Before the token is in: the copy gets another.
        let copy = self.kept.map(|body| Box::new(copy_head(request, body)));
        Credential::Bearer(&served.jwt).put_into(request.headers_mut());
        Sent { scheme, params: self.params, served, copy }
    }
}

/// What is known of a request that was sent with a token.
pub(crate) struct Sent {
    scheme: Arc<JwtScheme>,
    params: AuthParams,
    served: Served,
    /// The same request once more, if it may be sent again.
    copy: Option<Box<Request<Bytes>>>,
}

impl Sent {
    pub(crate) fn may_replay(&self) -> bool {
        self.copy.is_some()
    }

    /// It was answered with 401: the token is forgotten (rule E1). Then the token for a replay, if there may be one: if the refused one was out
    /// of the cache (rule E2) or made by a wrong clock (rule H1). Any other was made for this very request, and the next would fare no better.
    pub(crate) fn refused<R>(&self, response: &Response<R>) -> Option<Found> {
        let tokens = &self.scheme.tokens;
        let by_a_wrong_clock =
            headers::response_date(response).is_some_and(|date| tokens.compare_clocks(&self.served, date));
        tokens.reject(&self.params, &self.served.jwt);
        let replay = self.copy.is_some() && (self.served.from_cache || by_a_wrong_clock);
        replay.then(|| tokens.find(&self.params))
    }

    /// The request with another token, to be sent a second and last time; `None` if the token is the one that was refused.
    pub(crate) fn replay<B: RequestBody>(&mut self, served: Served) -> Option<Request<B>> {
        if served.jwt.same_as(&self.served.jwt) {
            return None;
        }
        let mut request = (*self.copy.take()?).map(B::from_bytes);
        Credential::Bearer(&served.jwt).put_into(request.headers_mut());
        self.served = served;
        self.scheme.tokens.count_replay();
        Some(request)
    }
}
