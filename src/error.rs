//! What can go wrong: [`ConfigError`] when a layer is built, [`AuthError`] when a request is made.
//!
//! Neither ever shows a credential, a token, a param's value or a body.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::source::TokenError;

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
    pub(crate) fn called(self, setting: impl Into<Cow<'static, str>>) -> Self {
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
    /// [`max_flights`](crate::AiutaAuthBuilder::max_flights) calls of the source are running. Transient.
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
        let message = "as many tokens as `max_flights` allows are being fetched already";
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
    pub(crate) fn held_off(cause: Arc<TokenError>, left: Duration) -> Self {
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
