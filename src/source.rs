//! [`TokenSource`]: creates tokens, as `getJwt` does in Aiuta's official SDKs.
//!
//! The token cache calls the source when a request needs a token that is not cached. The source's type is erased when
//! the layer is built, so that the layer has no type parameter for it.

mod function;
#[cfg(feature = "remote")]
mod remote;
mod shared;
#[cfg(any(feature = "signer", feature = "signer-rust-crypto"))]
mod signer;

use std::future::Future;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

pub use self::function::{SourceFn, source_fn};
#[cfg(all(feature = "remote", feature = "reqwest-middleware"))]
pub use self::remote::RemoteClient;
#[cfg(feature = "remote")]
pub use self::remote::RemoteTokenSource;
pub use self::shared::BoxTokenSource;
pub(crate) use self::shared::SourceCall;
#[cfg(any(feature = "signer", feature = "signer-rust-crypto"))]
pub use self::signer::JwtSigner;
use crate::error::{ConfigError, TokenError};
use crate::jwt::Jwt;
use crate::params::AuthParams;
#[cfg(any(feature = "signer", feature = "signer-rust-crypto", feature = "remote"))]
use crate::params::REGISTERED_CLAIMS;

/// Creates tokens for params.
///
/// Implementations in this crate:
///
/// - [`JwtSigner`](crate::JwtSigner) signs tokens in this process.
/// - [`RemoteTokenSource`](crate::RemoteTokenSource) requests them from your backend.
/// - [`source_fn`] calls an async closure.
/// - [`BoxTokenSource`] holds a source that is chosen at run time.
///
/// An `Arc` of a source is a source, too.
///
/// # What the layer does
///
/// - It calls the source if no valid token is cached, or to refresh a token before it expires. All requests that wait
///   for the same token share one call.
/// - It cancels a fetch that takes longer than [`fetch_timeout`](crate::AiutaAuthBuilder::fetch_timeout).
/// - If the source returns an error or panics, only the requests that wait for this fetch fail. The next request calls
///   the source again.
/// - It does not call the source during the delay that an error set by [`TokenError::with_retry_after`].
///
/// # What a source must do
///
/// - Create the token for exactly the given params. A token that is valid for other params too can be misused for them.
/// - Set `exp`, and keep the lifetime short. One minute is usual.
/// - Check that the owner of the params, named by [`AuthParams::partition`], may use the image.
/// - Not return the token that [`TokenRequest::replaces`] returns.
/// - Not need a token of the layer that calls it. A source that sends requests through that layer must mark them as
///   [`Access::Anonymous`](crate::Access::Anonymous). Otherwise they fail with
///   [`Recursive`](crate::AuthErrorKind::Recursive).
/// - Not block the thread.
///
/// # A source with a cache
///
/// The layer caches tokens, so a source needs a cache of its own only to share tokens with other processes. A source
/// that returns a token from such a cache, or from a backend that has one, must:
///
/// - Mark the token with [`Jwt::out_of_cache`], and give its age. A token from a cache may have been revoked. If Aiuta
///   rejects it, the layer replays the request with a new token, but only if it is marked. The layer computes from the
///   age how long the token is valid.
/// - Not return a token that has expired or is about to expire. The layer would have to ask again at once.
/// - Not return the token that [`TokenRequest::replaces`] returns. Another process may have replaced it already: if the
///   cache contains another token, that one may be returned, even if [`TokenRequest::force_refresh`] returns `true`.
/// - Create a new token if [`TokenRequest::force_refresh`] returns `true` and [`TokenRequest::replaces`] returns
///   `None`.
/// - Stop waiting, for example for the process that creates the token, before [`TokenRequest::deadline`].
///
/// The example `custom_source` in the repository is such a source.
///
/// # Examples
///
/// ```
/// use tower_aiuta_auth::{Jwt, TokenError, TokenRequest, TokenSource};
/// # struct Vault;
/// # use std::io::Error;
/// # impl Vault { async fn sign(&self, _: &str) -> Result<String, Error> { Err(Error::other("sealed")) } }
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
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a token source",
    note = "wrap an async closure in `source_fn`",
    note = "use `BoxTokenSource` instead of `Box<dyn TokenSource>`",
    note = "a source must be `Send`, `Sync` and `'static`"
)]
pub trait TokenSource: Send + Sync + 'static {
    /// Creates a token for the params of `request`.
    ///
    /// # Errors
    ///
    /// Returns a [`TokenError`] if there is no token. It becomes the [`source`](std::error::Error::source) of the
    /// [`AuthError`](crate::AuthError) that the caller of the service receives.
    fn token(&self, request: TokenRequest) -> impl Future<Output = Result<Jwt, TokenError>> + Send;

    /// Checks the settings of the source. [`AiutaAuthBuilder::build`](crate::AiutaAuthBuilder::build) calls this, so
    /// that no request fails because of a setting that can't work. The default implementation accepts everything.
    ///
    /// A source that wraps another one should pass the call on.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`](crate::ConfigError) that names the setting.
    fn check(&self) -> Result<(), ConfigError> {
        Ok(())
    }
}

impl<T: TokenSource> TokenSource for Arc<T> {
    fn token(&self, request: TokenRequest) -> impl Future<Output = Result<Jwt, TokenError>> + Send {
        (**self).token(request)
    }

    fn check(&self) -> Result<(), ConfigError> {
        (**self).check()
    }
}

/// Checks that no param has the name of a registered claim. It would set that claim of the token (rule G3).
#[cfg(any(feature = "signer", feature = "signer-rust-crypto", feature = "remote"))]
fn check_names(params: &AuthParams) -> Result<(), TokenError> {
    match params.iter().find(|(name, _)| REGISTERED_CLAIMS.contains(name)) {
        Some((name, _)) => {
            Err(TokenError::new(format!("a param is named `{name}`, which is a registered claim of JWTs; rename it")))
        }
        None => Ok(()),
    }
}

/// The reason why the layer calls a [`TokenSource`]. Returned by [`TokenRequest::reason`].
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FetchReason {
    /// The layer's cache has no valid token. Requests wait for the new one.
    Miss,
    /// The cached token is about to expire. It is still served, so no request waits for the new one.
    RefreshAhead,
    /// Aiuta rejected the last token with a 401, or the token was [invalidated](crate::TokenCache::invalidate).
    Rejected,
}

impl FetchReason {
    /// The name in spans.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Miss => "miss",
            Self::RefreshAhead => "refresh",
            Self::Rejected => "rejected",
        }
    }
}

/// The argument of [`TokenSource::token`]: the params, and the circumstances of the fetch.
///
/// The layer creates it. Create one yourself to test a source, or to call one source from another.
///
/// It contains all that a source may know of a request. A fetch is shared by many requests, and goes on in a task of
/// its own. So a task-local of the caller is there until the first `await` of the source at most, and which caller
/// started the fetch is chance. Use the [partition](AuthParams::partition) to tell callers apart.
///
/// `Debug` shows the names of the params, never their values.
///
/// ```
/// use std::time::{Instant, SystemTime};
/// use tower_aiuta_auth::{AuthParams, TokenRequest};
///
/// let request = TokenRequest::new(AuthParams::new().with("sku_id", "dress-1"), SystemTime::now());
/// assert!(!request.force_refresh());
/// assert!(request.with_force_refresh().force_refresh());
/// ```
#[derive(Clone, Debug)]
pub struct TokenRequest {
    params: AuthParams,
    now: SystemTime,
    force_refresh: bool,
    reason: FetchReason,
    replaces: Option<Jwt>,
    deadline: Option<Instant>,
}

impl TokenRequest {
    /// Creates a request for a token. `now` is the current time, from which the source computes `iat` and `exp`.
    #[must_use]
    pub fn new(params: AuthParams, now: SystemTime) -> Self {
        Self { params, now, force_refresh: false, reason: FetchReason::Miss, replaces: None, deadline: None }
    }

    pub(crate) fn with_reason(self, reason: FetchReason) -> Self {
        Self { reason, ..self }
    }

    pub(crate) fn with_deadline(self, deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..self }
    }

    /// Sets the token that the new one [replaces](Self::replaces).
    #[must_use]
    pub fn replacing(self, token: Jwt) -> Self {
        Self { replaces: Some(token), ..self }
    }

    /// Makes [`force_refresh`](Self::force_refresh) return `true`.
    #[must_use]
    pub fn with_force_refresh(self) -> Self {
        Self { force_refresh: true, ..self }
    }

    /// Returns the params to create the token for, with their [partition](AuthParams::partition).
    #[must_use]
    pub fn params(&self) -> &AuthParams {
        &self.params
    }

    /// Returns the time from which to compute `iat` and `exp`.
    ///
    /// This is the time of the layer's [`Clock`](crate::Clock), corrected if that clock differs from Aiuta's clock. The
    /// layer detects a difference when Aiuta rejects a token with a 401 whose `Date` header is between 5 seconds and
    /// one day away from the clock. The layer first tries the correction on one request. If Aiuta accepts the new
    /// token, the layer corrects the time for the next hour. A source that uses another clock does not benefit from
    /// this.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        self.now
    }

    /// Returns whether the source must create a new token: because Aiuta rejected the last one for these params with a
    /// 401, because it was [invalidated](crate::TokenCache::invalidate), or because it arrived expired.
    ///
    /// A source with a cache must not return a token from it then, unless [`replaces`](Self::replaces) returns a token
    /// and the cached one is another.
    #[must_use]
    pub fn force_refresh(&self) -> bool {
        self.force_refresh
    }

    /// Returns why the layer calls the source. A source can give priority to fetches that block requests.
    #[must_use]
    pub fn reason(&self) -> FetchReason {
        self.reason
    }

    /// Returns the token that the new one replaces. The old token is about to expire, was rejected or invalidated, or
    /// arrived expired. The source must return another token.
    ///
    /// A source that shares a cache with other processes can compare it with the cached token. If they differ, another
    /// process has replaced the token already.
    #[must_use]
    pub fn replaces(&self) -> Option<&Jwt> {
        self.replaces.as_ref()
    }

    /// Returns the time at which the layer's [`fetch_timeout`](crate::AiutaAuthBuilder::fetch_timeout) ends the fetch.
    /// A token that is returned later is not used. Returns `None` if the fetch has no deadline, because it runs without
    /// a runtime or the request was created by [`new`](Self::new).
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}
