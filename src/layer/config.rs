//! [`Config`]: the validated settings of a layer.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::{HeaderValue, Request};

use super::stats::AuthCounters;
use crate::cache::TokenCache;
use crate::request::access::{Access, AccessTable, NormalizedPaths};
use crate::request::origin::Origins;

/// The trusted origins, the access rules, the credentials and the counters.
pub(crate) struct Config {
    pub(crate) origins: Origins,
    pub(crate) access: AccessTable,
    pub(crate) scheme: Scheme,
    pub(crate) counters: AuthCounters,
}

impl Config {
    /// Returns whether the request needs no credential at a trusted origin.
    pub(crate) fn is_anonymous<B>(&self, request: &Request<B>) -> bool {
        let access = match &self.scheme {
            Scheme::ApiKey(_) => self.access.stated(request),
            Scheme::Jwt(_) => Some(self.access.of(request, &NormalizedPaths::new(request.uri().path()))),
        };
        access == Some(Access::Anonymous)
    }
}

/// Aiuta's two ways to authenticate.
pub(crate) enum Scheme {
    /// The value of `x-api-key`. It can be changed while requests are in flight.
    ApiKey(ArcSwap<HeaderValue>),
    Jwt(Arc<JwtScheme>),
}

/// The settings of the JWT scheme.
pub(crate) struct JwtScheme {
    pub(crate) subscription_id: HeaderValue,
    pub(crate) token_cache: TokenCache,
    pub(crate) signed_fields: Vec<String>,
    pub(crate) body_limit: usize,
    pub(crate) replay_unauthorized: bool,
    pub(crate) reject_on_forbidden: bool,
    pub(crate) allow_unbound_tokens: bool,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("origins", &self.origins).field("scheme", &self.scheme).finish_non_exhaustive()
    }
}

impl fmt::Debug for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ApiKey(_) => f.write_str("ApiKey(..)"),
            Self::Jwt(jwt) => f.debug_struct("Jwt").field("token_cache", &jwt.token_cache).finish_non_exhaustive(),
        }
    }
}
