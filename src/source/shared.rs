//! [`BoxTokenSource`]: a source with its type erased. The token cache holds its source in one.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::{TokenRequest, TokenSource};
use crate::error::{ConfigError, TokenError};
use crate::jwt::Jwt;

/// A [`TokenSource`] with its type erased, for a source that is chosen at run time.
///
/// Clones share the source.
///
/// ```
/// use tower_aiuta_auth::{BoxTokenSource, source_fn};
///
/// fn source(dry_run: bool) -> BoxTokenSource {
///     if dry_run {
///         BoxTokenSource::new(source_fn(|_| async { Err::<String, _>("dry run: no token") }))
///     } else {
///         BoxTokenSource::new(source_fn(|request| async move { fetch(request).await }))
///     }
/// }
/// # async fn fetch(_: tower_aiuta_auth::TokenRequest) -> Result<String, std::io::Error> { unimplemented!() }
/// ```
#[derive(Clone)]
pub struct BoxTokenSource(Arc<dyn ErasedSource>);

impl BoxTokenSource {
    /// Erases the type of a source.
    pub fn new(source: impl TokenSource) -> Self {
        Self(Arc::new(source))
    }

    /// Returns a call of the source that owns a handle to it. The source's code runs when the call is first polled, not
    /// before.
    pub(crate) fn call(&self, request: TokenRequest) -> SourceCall {
        Arc::clone(&self.0).call(request)
    }
}

impl TokenSource for BoxTokenSource {
    fn token(&self, request: TokenRequest) -> impl Future<Output = Result<Jwt, TokenError>> + Send {
        self.call(request)
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.0.check_erased()
    }
}

impl fmt::Debug for BoxTokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoxTokenSource").finish_non_exhaustive()
    }
}

/// A call of a source.
pub(crate) type SourceCall = Pin<Box<dyn Future<Output = Result<Jwt, TokenError>> + Send>>;

/// A dyn-compatible [`TokenSource`].
trait ErasedSource: Send + Sync {
    fn call(self: Arc<Self>, request: TokenRequest) -> SourceCall;

    fn check_erased(&self) -> Result<(), ConfigError>;
}

impl<T: TokenSource> ErasedSource for T {
    fn call(self: Arc<Self>, request: TokenRequest) -> SourceCall {
        Box::pin(async move { self.token(request).await })
    }

    fn check_erased(&self) -> Result<(), ConfigError> {
        self.check()
    }
}
