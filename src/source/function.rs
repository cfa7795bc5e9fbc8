//! [`source_fn`]: an async closure as a [`TokenSource`].

use std::fmt;
use std::future::Future;

use super::{TokenError, TokenRequest, TokenSource};
use crate::error::BoxError;
use crate::jwt::Jwt;
use crate::params::AuthParams;

/// A [`TokenSource`] that calls `f` with the params and takes the token as a string.
///
/// An error that is a [`TokenError`] counts as it is; any other as [`TokenError::new`].
///
/// ```
/// use tower_aiuta_auth::{AiutaAuthLayer, AuthParams, TokenError, source_fn};
///
/// async fn ask_our_server(params: AuthParams) -> Result<String, std::io::Error> {
///     # let _ = params;
///     // POST params.to_strings() somewhere, return the token.
///     Err(std::io::Error::other("not today"))
/// }
///
/// let source = source_fn(|params| async { ask_our_server(params).await.map_err(TokenError::transient) });
/// let layer = AiutaAuthLayer::jwt("65f0c0ffee65f0c0ffee65f0", source)?;
/// # Ok::<(), tower_aiuta_auth::ConfigError>(())
/// ```
pub fn source_fn<F>(f: F) -> SourceFn<F> {
    SourceFn { f }
}

/// The [`TokenSource`] that [`source_fn`] makes.
#[derive(Clone, Copy)]
pub struct SourceFn<F> {
    f: F,
}

impl<F, Fut, E> TokenSource for SourceFn<F>
where
    F: Fn(AuthParams) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<String, E>> + Send,
    E: Into<BoxError>,
{
    fn token(&self, request: TokenRequest) -> impl Future<Output = Result<Jwt, TokenError>> + Send {
        let call = (self.f)(request.params().clone());
        async move {
            match call.await {
                Ok(compact) => Ok(Jwt::parse(compact)?),
                Err(error) => Err(match error.into().downcast() {
                    Ok(error) => *error,
                    Err(other) => TokenError::new(other),
                }),
            }
        }
    }
}

impl<F> fmt::Debug for SourceFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceFn").finish_non_exhaustive()
    }
}
