//! What can go wrong: [`ConfigError`] when a layer is built, [`AuthError`] when a request is made.
//!
//! Neither ever shows a credential, a token, a param's value or a body.

use std::borrow::Cow;
use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::jwt::InvalidJwt;

/// Any error of a service: the inner service's own, passed through as it is, or an [`AuthError`].
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A setting that can't work, found when the layer is built.
///
/// Its text names the setting and says what would be right; a secret's value is not in it.
///
/// ```
/// use tower_aiuta_auth::AiutaAuthLayer;
///
/// let error = AiutaAuthLayer::api_key("").unwrap_err();
/// assert_eq!(error.setting(), "api_key");
/// assert_eq!(error.to_string(), "api_key: it must not be empty");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    setting: Cow<'static, str>,
    problem: Cow<'static, str>,
}

impl ConfigError {
    pub(crate) fn new(setting: impl Into<Cow<'static, str>>, problem: impl Into<Cow<'static, str>>) -> Self {
        Self { setting: setting.into(), problem: problem.into() }
    }

    /// The same problem under the name by which the user gave the value, an environment variable's for example.
    pub(crate) fn with_setting_name(self, setting: impl Into<Cow<'static, str>>) -> Self {
        Self { setting: setting.into(), ..self }
    }

    /// The setting's name: that of the builder's method, or of the environment variable.
    #[must_use]
    pub fn setting(&self) -> &str {
        &self.setting
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.problem)
    }
}

impl Error for ConfigError {}

/// Why a request could not be authenticated. It was not sent.
///
/// Opaque, so that causes can be added; [`kind`](Self::kind) tells what to do about it. The cause, where there is one, is
/// [`source`](Error::source): a [`TokenError`] with the source's own error below it, or the body's error.
///
/// The layer's service answers errors boxed, its own beside those of the inner service; downcasting tells them apart:
///
/// ```
/// use tower_aiuta_auth::{AuthError, AuthErrorKind, BoxError};
///
/// fn status(error: &BoxError) -> u16 {
///     match error.downcast_ref::<AuthError>() {
///         Some(error) if error.kind() == AuthErrorKind::BodyTooLarge => 413,
///         Some(error) if error.is_transient() => 503, // error.retry_after() may say when to come back
///         Some(_) => 500,
///         None => 502, // the inner service's
///     }
/// }
/// ```
#[derive(Clone)]
pub struct AuthError {
    kind: AuthErrorKind,
    message: &'static str,
    transient: bool,
    retry_after: Option<Duration>,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

/// What kind of trouble an [`AuthError`] is.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuthErrorKind {
    /// The [`TokenSource`](crate::TokenSource) returned an error, panicked, or asked to be left alone for a while.
    TokenSource,
    /// The source returned something that can't be sent as a token: not a JWT, or over 8 KiB.
    InvalidToken,
    /// The source did not answer within [`fetch_timeout`](crate::AiutaAuthBuilder::fetch_timeout). Transient.
    FetchTimeout,
    /// [`max_concurrent_fetches`](crate::AiutaAuthBuilder::max_concurrent_fetches) calls of the source are running. Transient.
    Overloaded,
    /// A request that starts a try-on, without any param: put [`AuthParams`](crate::AuthParams) into its extensions, or
    /// send a JSON body that has a signed field.
    MissingParams,
    /// The body is no JSON object, has a signed field twice or with a value that can't be signed, carries trailers, or failed
    /// while it was read; or the params are over 4 KiB.
    InvalidBody,
    /// The body is over [`body_limit`](crate::AiutaAuthBuilder::body_limit).
    BodyTooLarge,
}

impl AuthError {
    fn new(kind: AuthErrorKind, message: &'static str) -> Self {
        Self { kind, message, transient: false, retry_after: None, source: None }
    }

    pub(crate) fn invalid_body(message: &'static str) -> Self {
        Self::new(AuthErrorKind::InvalidBody, message)
    }

    pub(crate) fn body_failed(cause: BoxError) -> Self {
        Self { source: Some(Arc::from(cause)), ..Self::invalid_body("the request's body failed while it was read") }
    }

    pub(crate) fn body_too_large() -> Self {
        Self::new(
            AuthErrorKind::BodyTooLarge,
            "the body is over `body_limit`, so its params can't be read: raise the limit, \
             or put `AuthParams` into the request's extensions",
        )
    }

    pub(crate) fn missing_params() -> Self {
        Self::new(
            AuthErrorKind::MissingParams,
            "a request that starts a try-on has no params to make a token for: put `AuthParams` into its extensions, \
             or send a JSON body with a signed field",
        )
    }

    pub(crate) fn fetch_timeout() -> Self {
        let message = "the token source did not answer within `fetch_timeout`";
        Self { transient: true, ..Self::new(AuthErrorKind::FetchTimeout, message) }
    }

    pub(crate) fn overloaded() -> Self {
        let message = "as many tokens as `max_concurrent_fetches` allows are being fetched already";
        Self { transient: true, ..Self::new(AuthErrorKind::Overloaded, message) }
    }

    pub(crate) fn source_panicked() -> Self {
        Self::new(AuthErrorKind::TokenSource, "the token source panicked")
    }

    /// The fetch was cut off twice by runtimes that shut down.
    pub(crate) fn runtime_gone() -> Self {
        let message = "the runtime that fetched the token was shut down";
        Self { transient: true, ..Self::new(AuthErrorKind::TokenSource, message) }
    }

    /// The source asked for a pause (`cause`'s `retry_after`) that has `left` to go.
    pub(crate) fn cooling_down(cause: Arc<TokenError>, left: Duration) -> Self {
        let message = "the token source asked not to be called again yet";
        Self { message, retry_after: Some(left), ..Self::from_source(cause) }
    }

    pub(crate) fn from_source(error: Arc<TokenError>) -> Self {
        let (kind, message) = if error.is_invalid_token() {
            (AuthErrorKind::InvalidToken, "the token source returned something that can't be sent as a token")
        } else if error.is_denied() {
            (AuthErrorKind::TokenSource, "the token source refused a token for these params")
        } else {
            (AuthErrorKind::TokenSource, "the token source failed")
        };
        Self {
            transient: error.is_transient(),
            retry_after: error.retry_after(),
            source: Some(error),
            ..Self::new(kind, message)
        }
    }

    /// What kind of trouble it is.
    #[must_use]
    pub fn kind(&self) -> AuthErrorKind {
        self.kind
    }

    /// Whether the same request may well succeed a little later.
    ///
    /// True for [`FetchTimeout`](AuthErrorKind::FetchTimeout), [`Overloaded`](AuthErrorKind::Overloaded), and what the source
    /// itself called [transient](TokenError::transient).
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.transient
    }

    /// Returns whether the token source refused a token for these params ([`TokenError::denied`]).
    #[must_use]
    pub fn is_denied(&self) -> bool {
        self.source.as_ref().and_then(|source| source.downcast_ref::<TokenError>()).is_some_and(TokenError::is_denied)
    }

    /// How long to wait before the next try, if the source said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message)
    }
}

impl fmt::Debug for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthError")
            .field("kind", &self.kind)
            .field("message", &self.message)
            .field("transient", &self.transient)
            .field("retry_after", &self.retry_after)
            .field("source", &self.source)
            .finish()
    }
}

impl Error for AuthError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

/// Why a [`TokenSource`](crate::TokenSource) has no token.
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
    kind: TokenErrorKind,
    retry_after: Option<Duration>,
    cause: BoxError,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenErrorKind {
    Permanent,
    Transient,
    Denied,
    InvalidToken,
}

impl TokenError {
    pub(crate) fn of(kind: TokenErrorKind, cause: BoxError) -> Self {
        Self { kind, retry_after: None, cause }
    }

    /// A failure that will repeat itself: a missing key, params that can't be signed.
    pub fn new(cause: impl Into<BoxError>) -> Self {
        Self::of(TokenErrorKind::Permanent, cause.into())
    }

    /// A failure that may be gone soon: a connection lost, a server that is busy.
    pub fn transient(cause: impl Into<BoxError>) -> Self {
        Self::of(TokenErrorKind::Transient, cause.into())
    }

    /// A refusal: whoever asked may not have this token.
    pub fn denied(cause: impl Into<BoxError>) -> Self {
        Self::of(TokenErrorKind::Denied, cause.into())
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
        self.kind == TokenErrorKind::Transient
    }

    /// Whether it was made by [`denied`](Self::denied).
    #[must_use]
    pub fn is_denied(&self) -> bool {
        self.kind == TokenErrorKind::Denied
    }

    /// How long the source wants to be left alone.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    pub(crate) fn is_invalid_token(&self) -> bool {
        self.kind == TokenErrorKind::InvalidToken
    }
}

/// For a conversion that can't fail, such as that of a [`Jwt`](crate::Jwt) into itself in [`source_fn`](crate::source_fn).
impl From<Infallible> for TokenError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl From<InvalidJwt> for TokenError {
    fn from(error: InvalidJwt) -> Self {
        Self::of(TokenErrorKind::InvalidToken, Box::new(error))
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            TokenErrorKind::Permanent => "no token could be made",
            TokenErrorKind::Transient => "no token can be made at the moment",
            TokenErrorKind::Denied => "a token was refused",
            TokenErrorKind::InvalidToken => "what was made is no token",
        })
    }
}

impl Error for TokenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.cause)
    }
}
