//! What a layer was built with, checked: everything that a request meets on its way.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::HeaderValue;

use crate::layer::authorize::JwtScheme;
use crate::request::access::AccessTable;
use crate::request::origin::Origins;

/// Where credentials may go, which one a request needs, and what they are.
pub(crate) struct Settings {
    pub(crate) origins: Origins,
    pub(crate) access: AccessTable,
    pub(crate) scheme: Scheme,
}

/// Aiuta's two ways to authenticate.
pub(crate) enum Scheme {
    /// It can be changed while requests are under way.
    ApiKey(ArcSwap<HeaderValue>),
    Jwt(Arc<JwtScheme>),
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("origins", &self.origins).field("scheme", &self.scheme).finish_non_exhaustive()
    }
}

impl fmt::Debug for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ApiKey(_) => f.write_str("ApiKey(..)"),
            Self::Jwt(jwt) => f.debug_struct("Jwt").field("tokens", &jwt.tokens).finish_non_exhaustive(),
        }
    }
}
