//! [`TokenSource`]: who makes tokens. What the official SDKs call `getJwt`.
//!
//! The layer calls it from a flight (one for all who need the same token) and never sees its type: that is erased once, when the layer
//! is built.

mod function;
#[cfg(feature = "remote")]
mod remote;
#[cfg(any(feature = "signer", feature = "signer-rust-crypto"))]
mod signer;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub use self::function::{SourceFn, source_fn};
#[cfg(all(feature = "remote", feature = "reqwest-middleware"))]
pub(crate) use self::remote::Client as RemoteClient;
#[cfg(feature = "remote")]
pub use self::remote::RemoteIssuer;
#[cfg(any(feature = "signer", feature = "signer-rust-crypto"))]
pub use self::signer::JwtSigner;
use crate::error::BoxError;
use crate::jwt::{InvalidJwt, Jwt};
use crate::params::AuthParams;

/// Makes a token for params.
///
/// Implemented by [`JwtSigner`](crate::JwtSigner) (in-process), by [`RemoteIssuer`](crate::RemoteIssuer) (your backend) and, for an
/// async closure, by [`source_fn`]; implement it for anything else that can produce a token. `Arc<T>` of a source is a source, and [`BoxTokenSource`] is one chosen at run time.
///
/// # What the layer does for a source
///
/// - It is called once for all who need the same token, and only if none is in the cache (rule C1).
/// - It is given up after [`fetch_timeout`](crate::AiutaAuthBuilder::fetch_timeout) (rule C6).
/// - An error or a panic fails the requests that wait for this very call, and nothing else (rule G1).
/// - [`TokenError::with_retry_after`] keeps the layer from calling it for a while (rule G2).
///
/// # What a source takes care of
///
/// - It makes the token for *these* params: one that is good for others defeats the scheme.
/// - It gives the token an `exp`, soon: a minute is usual.
/// - It checks that the params are the caller's to use; [`AuthParams::partition`] says whom they belong to.
/// - With a cache of its own it skips it when [`TokenRequest::must_be_new`] is set.
/// - It does not block the thread.
///
/// ```
/// use tower_aiuta_auth::{Jwt, TokenError, TokenRequest, TokenSource};
/// # struct Vault;
/// # impl Vault { async fn sign(&self, _: &str) -> Result<String, std::io::Error> { Err(std::io::Error::other("sealed")) } }
///
/// struct VaultSource { vault: Vault }
///
/// impl TokenSource for VaultSource {
///     async fn token(&self, request: TokenRequest) -> Result<Jwt, TokenError> {
///         let claims = serde_json::to_string(request.params()).map_err(TokenError::new)?;
///         let token = self.vault.sign(&claims).await.map_err(TokenError::transient)?;
///         Ok(Jwt::parse(token)?)
///     }
/// }
/// ```
pub trait TokenSource: Send + Sync + 'static {
    /// Makes a token for the params of `request`.
    ///
    /// # Errors
    ///
    /// A [`TokenError`], which becomes the [`source`](std::error::Error::source) of the caller's [`AuthError`](crate::AuthError).
    fn token(&self, request: TokenRequest) -> impl Future<Output = Result<Jwt, TokenError>> + Send;
}

impl<T: TokenSource> TokenSource for Arc<T> {
    fn token(&self, request: TokenRequest) -> impl Future<Output = Result<Jwt, TokenError>> + Send {
        (**self).token(request)
    }
}

/// What a [`TokenSource`] is asked for.
///
/// `Debug` shows the params' names, never their values.
#[derive(Clone, Debug)]
pub struct TokenRequest {
    params: AuthParams,
    now: SystemTime,
    must_be_new: bool,
}

impl TokenRequest {
    /// A request for a token, made at `now`. The layer makes these; so do tests of a source, and sources that wrap another.
    #[must_use]
    pub fn new(params: AuthParams, now: SystemTime) -> Self {
        Self { params, now, must_be_new: false }
    }

    /// Says that the last token for these params was refused.
    #[must_use]
    pub fn renewed(self) -> Self {
        Self { must_be_new: true, ..self }
    }

    /// What the token is to be made for, and whom it belongs to.
    #[must_use]
    pub fn params(&self) -> &AuthParams {
        &self.params
    }

    /// The time to use for `iat` and `exp`: by the layer's [`Clock`](crate::Clock), corrected if that was found to be wrong.
    ///
    /// A 401 whose `Date` is more than 5 s away from the clock tells that Aiuta's is another. The layer adopts the difference, at most a day, for
    /// an hour (rule H1). A source that asks another clock instead has to know better.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        self.now
    }

    /// Whether Aiuta refused the last token for these params (401): one out of a cache will not do.
    #[must_use]
    pub fn must_be_new(&self) -> bool {
        self.must_be_new
    }
}

/// A [`TokenSource`] of any type: for a source chosen at run time.
///
/// ```
/// use tower_aiuta_auth::{BoxTokenSource, source_fn};
///
/// fn source(dry_run: bool) -> BoxTokenSource {
///     if dry_run {
///         BoxTokenSource::new(source_fn(|_| async { Err::<String, _>("dry run: no token") }))
///     } else {
///         BoxTokenSource::new(source_fn(|params| async move { fetch(params).await }))
///     }
/// }
/// # async fn fetch(_: tower_aiuta_auth::AuthParams) -> Result<String, std::io::Error> { unimplemented!() }
/// ```
#[derive(Clone)]
pub struct BoxTokenSource(Arc<dyn ErasedSource>);

impl BoxTokenSource {
    /// Wraps a source.
    pub fn new(source: impl TokenSource) -> Self {
        Self(Arc::new(source))
    }

    /// A call of the source that keeps it alive itself. Nothing of the source runs before the first poll.
    pub(crate) fn call(&self, request: TokenRequest) -> SourceCall {
        Arc::clone(&self.0).call(request)
    }
}

impl TokenSource for BoxTokenSource {
    fn token(&self, request: TokenRequest) -> impl Future<Output = Result<Jwt, TokenError>> + Send {
        self.call(request)
    }
}

impl fmt::Debug for BoxTokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoxTokenSource").finish_non_exhaustive()
    }
}

/// A running call of a source.
pub(crate) type SourceCall = Pin<Box<dyn Future<Output = Result<Jwt, TokenError>> + Send>>;

/// [`TokenSource`], but object safe.
trait ErasedSource: Send + Sync {
    fn call(self: Arc<Self>, request: TokenRequest) -> SourceCall;
}

impl<T: TokenSource> ErasedSource for T {
    fn call(self: Arc<Self>, request: TokenRequest) -> SourceCall {
        Box::pin(async move { self.token(request).await })
    }
}

/// Why a [`TokenSource`] has no token.
///
/// ```
/// use std::time::Duration;
/// use tower_aiuta_auth::TokenError;
///
/// // The signing service is busy: nobody should ask again for ten seconds.
/// let busy = TokenError::transient("signing service is busy").with_retry_after(Duration::from_secs(10));
/// assert!(busy.is_transient());
///
/// // This user may not use this image.
/// let denied = TokenError::denied("image belongs to someone else");
/// assert!(denied.is_denied() && !denied.is_transient());
/// ```
#[derive(Debug)]
pub struct TokenError {
    class: Class,
    retry_after: Option<Duration>,
    cause: BoxError,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Permanent,
    Transient,
    Denied,
    InvalidToken,
}

impl TokenError {
    fn of(class: Class, cause: BoxError) -> Self {
        Self { class, retry_after: None, cause }
    }

    /// A failure that will repeat itself: a missing key, params that can't be signed.
    pub fn new(cause: impl Into<BoxError>) -> Self {
        Self::of(Class::Permanent, cause.into())
    }

    /// A failure that may be gone soon: a connection lost, a server that is busy.
    pub fn transient(cause: impl Into<BoxError>) -> Self {
        Self::of(Class::Transient, cause.into())
    }

    /// A refusal: whoever asked may not have this token.
    pub fn denied(cause: impl Into<BoxError>) -> Self {
        Self::of(Class::Denied, cause.into())
    }

    /// Asks not to be called again for `delay`, at most 5 minutes: not for this partition if the params have one, otherwise not at all.
    ///
    /// Until then requests without a cached token fail at once.
    #[must_use]
    pub fn with_retry_after(self, delay: Duration) -> Self {
        Self { retry_after: Some(delay), ..self }
    }

    /// Whether it was made by [`transient`](Self::transient).
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.class == Class::Transient
    }

    /// Whether it was made by [`denied`](Self::denied).
    #[must_use]
    pub fn is_denied(&self) -> bool {
        self.class == Class::Denied
    }

    /// How long the source wants to be left alone.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    pub(crate) fn is_invalid_token(&self) -> bool {
        self.class == Class::InvalidToken
    }
}

impl From<InvalidJwt> for TokenError {
    fn from(error: InvalidJwt) -> Self {
        Self::of(Class::InvalidToken, Box::new(error))
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.class {
            Class::Permanent => "no token could be made",
            Class::Transient => "no token can be made at the moment",
            Class::Denied => "a token was refused",
            Class::InvalidToken => "what was made is no token",
        })
    }
}

impl std::error::Error for TokenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.cause)
    }
}
