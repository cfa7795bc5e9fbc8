//! [`TokenSource`]: who makes tokens. What the official SDKs call `getJwt`.
//!
//! The layer calls it from a flight (one for all who need the same token) and never sees its type: that is erased once, when the layer
//! is built.

mod function;
#[cfg(feature = "remote")]
mod remote;
mod shared;
#[cfg(any(feature = "signer", feature = "signer-rust-crypto"))]
mod signer;

use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

pub use self::function::{SourceFn, source_fn};
#[cfg(all(feature = "remote", feature = "reqwest-middleware"))]
pub(crate) use self::remote::Client as RemoteClient;
#[cfg(feature = "remote")]
pub use self::remote::RemoteTokenSource;
pub use self::shared::BoxTokenSource;
pub(crate) use self::shared::SourceCall;
#[cfg(any(feature = "signer", feature = "signer-rust-crypto"))]
pub use self::signer::JwtSigner;
use crate::error::TokenError;
use crate::jwt::Jwt;
use crate::params::AuthParams;

/// Makes a token for params.
///
/// Implemented by [`JwtSigner`](crate::JwtSigner) (in-process), by [`RemoteTokenSource`](crate::RemoteTokenSource) (your backend) and, for an
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
/// - With a cache of its own it skips it when [`TokenRequest::force_refresh`] is set.
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

/// Why the layer asks a [`TokenSource`] for a token.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FetchReason {
    /// There was no usable token in the cache.
    Miss,
    /// The token in the cache is near its end. It is still served meanwhile.
    RefreshAhead,
    /// The last token was answered with 401.
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

/// What a [`TokenSource`] is asked for.
///
/// `Debug` shows the params' names, never their values.
#[derive(Clone, Debug)]
pub struct TokenRequest {
    params: AuthParams,
    now: SystemTime,
    force_refresh: bool,
}

impl TokenRequest {
    /// A request for a token, made at `now`. The layer makes these; so do tests of a source, and sources that wrap another.
    #[must_use]
    pub fn new(params: AuthParams, now: SystemTime) -> Self {
        Self { params, now, force_refresh: false }
    }

    /// Says that the last token for these params was refused.
    #[must_use]
    pub fn with_force_refresh(self) -> Self {
        Self { force_refresh: true, ..self }
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
    pub fn force_refresh(&self) -> bool {
        self.force_refresh
    }
}
