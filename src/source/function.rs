//! [`source_fn`]: creates a [`TokenSource`] from an async closure.

use std::fmt;
use std::future::Future;

use super::{TokenRequest, TokenSource};
use crate::error::{BoxError, TokenError};
use crate::jwt::Jwt;

/// Creates a [`TokenSource`] from an async closure.
///
/// The closure receives the [`TokenRequest`] and returns the token as a [`Jwt`] or a `String`. If its error is a
/// [`TokenError`], it is used unchanged. Any other error is wrapped in a permanent [`TokenError`], as with
/// [`TokenError::new`].
///
/// ```
/// use tower_aiuta_auth::{AiutaAuthLayer, TokenError, TokenRequest, source_fn};
///
/// async fn ask_our_server(request: TokenRequest) -> Result<String, std::io::Error> {
///     # let _ = request;
///     // Post `request.params().to_strings()` to your server, and return its token.
///     Err(std::io::Error::other("unreachable"))
/// }
///
/// let source = source_fn(|request| async { ask_our_server(request).await.map_err(TokenError::transient) });
/// let layer = AiutaAuthLayer::jwt("65f0c0ffee65f0c0ffee65f0", source)?;
/// # Ok::<(), tower_aiuta_auth::ConfigError>(())
/// ```
pub fn source_fn<F>(f: F) -> SourceFn<F> {
    SourceFn { f }
}

/// A [`TokenSource`] that calls an async closure. Created by [`source_fn`].
#[derive(Clone, Copy)]
pub struct SourceFn<F> {
    f: F,
}

impl<F, Fut, T, E> TokenSource for SourceFn<F>
where
    F: Fn(TokenRequest) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, E>> + Send,
    T: TryInto<Jwt>,
    T::Error: Into<TokenError>,
    E: Into<BoxError>,
{
    fn token(&self, request: TokenRequest) -> impl Future<Output = Result<Jwt, TokenError>> + Send {
        let call = (self.f)(request);
        async move {
            match call.await {
                Ok(token) => token.try_into().map_err(Into::into),
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
