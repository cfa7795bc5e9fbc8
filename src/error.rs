//! The crate's errors: [`ConfigError`] when a layer or a source is built, [`TokenError`] from a token source, and
//! [`AuthError`] for a request that could not be authenticated.
//!
//! None of them contains a credential, a token, the value of a param or a part of a body.

use std::borrow::Cow;
use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::jwt::InvalidJwt;

/// The error type of [`AiutaAuth`](crate::AiutaAuth): an [`AuthError`], or the inner service's error, which is passed
/// through unchanged.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Returned when a setting is missing or invalid.
///
/// Settings are checked when the layer, source or issuer is built, so that no request fails because of them. The
/// message names the setting and says how to correct it. It never contains the value of a secret.
///
/// `Debug` shows the same text as `Display`, because a `main` that returns an error prints it with `Debug`.
///
/// ```
/// use tower_aiuta_auth::AiutaAuthLayer;
///
/// let error = AiutaAuthLayer::api_key("").unwrap_err();
/// assert_eq!(error.setting(), "api_key");
/// assert_eq!(error.to_string(), "api_key: it must not be empty");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigError {
    setting: Cow<'static, str>,
    message: Cow<'static, str>,
}

impl ConfigError {
    pub(crate) fn new(setting: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self { setting: setting.into(), message: message.into() }
    }

    /// Replaces the setting's name with a name that the user knows, such as that of an environment variable.
    pub(crate) fn with_setting_name(self, setting: impl Into<Cow<'static, str>>) -> Self {
        Self { setting: setting.into(), ..self }
    }

    /// Returns the name of the setting: the name of the method or parameter, or of the environment variable.
    #[must_use]
    pub fn setting(&self) -> &str {
        &self.setting
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.message)
    }
}

impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error for ConfigError {}

/// Returned for a request that could not be authenticated.
///
/// The error is opaque, so that details can be added without a breaking change. Use [`kind`](Self::kind),
/// [`is_transient`](Self::is_transient) and [`retry_after`](Self::retry_after) to decide what to do.
/// [`source`](Error::source) returns the cause, if there is one: a [`TokenError`], or the error of the request's body.
///
/// An `AuthError` proves that this pass through the layer sent nothing to the inner service. If a token is rejected
/// with a 401 and no other can be fetched, the caller receives the 401 response and no error. A retry outside the layer
/// may have sent the request in an earlier pass.
///
/// # Examples
///
/// The service's error is a [`BoxError`]: an `AuthError` or the inner service's error. Use `downcast_ref` to
/// distinguish them.
///
/// ```
/// use tower_aiuta_auth::{AuthError, AuthErrorKind, BoxError};
///
/// /// Returns the status with which a server answers a request of its own client.
/// fn status(error: &BoxError) -> u16 {
///     let Some(error) = error.downcast_ref::<AuthError>() else {
///         return 502; // the inner service's error
///     };
///     match error.kind() {
///         // The client has sent a body that can't be used.
///         AuthErrorKind::MissingParams | AuthErrorKind::InvalidBody => 400,
///         AuthErrorKind::BodyTooLarge => 413,
///         // The client's user may not have a token for these params.
///         _ if error.is_denied() => 403,
///         _ if error.is_transient() => 503, // with `error.retry_after()` as Retry-After
///         _ => 500,
///     }
/// }
/// ```
#[derive(Clone)]
pub struct AuthError {
    kind: AuthErrorKind,
    message: Cow<'static, str>,
    transient: bool,
    retry_after: Option<Duration>,
    source: Option<Arc<dyn Error + Send + Sync>>,
    /// Fingerprint of the request that the layer did not send, for the retry policy (rule F6). `None` if no request is
    /// known, or if it was sent in an earlier attempt.
    #[cfg(feature = "retry")]
    unsent_request: Option<u64>,
}

/// The kind of an [`AuthError`].
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuthErrorKind {
    /// The [`TokenSource`](crate::TokenSource) returned an error or panicked, or the pause that it asked for by
    /// [`TokenError::with_retry_after`] is not over. Transient if the source's error is.
    TokenSource,
    /// The token source returned an invalid token: not a JWT, or larger than 8 KiB. Fix the source.
    InvalidToken,
    /// The token source did not return within [`fetch_timeout`](crate::AiutaAuthBuilder::fetch_timeout), or within the
    /// request's own timeout if the request was sent by `AiutaAuthMiddleware`. Transient.
    FetchTimeout,
    /// A fetch is needed, but [`max_concurrent_fetches`](crate::AiutaAuthBuilder::max_concurrent_fetches) are running,
    /// or too many of the request's partition. Transient.
    Overloaded,
    /// A request that needs a JWT has no params. Insert [`AuthParams`](crate::AuthParams) into its extensions. For the
    /// start of a try-on, a JSON body with at least one of the
    /// [`signed_fields`](crate::AiutaAuthBuilder::signed_fields) is enough. For other requests,
    /// [`allow_unbound_tokens`](crate::AiutaAuthBuilder::allow_unbound_tokens) permits a token without params.
    MissingParams,
    /// The params or the body can't be used:
    ///
    /// - The body of a request that starts a try-on is not a JSON object in UTF-8, or its headers say so: a
    ///   `content-type` other than `application/json` or `+json`, another charset, or a `content-encoding`.
    /// - A signed field occurs twice, or has a value that is not a [`ParamValue`](crate::ParamValue).
    /// - The params are larger than 4 KiB, or would take more than 8 KiB in a token.
    /// - The body has to be buffered, but has trailers or failed.
    InvalidBody,
    /// The body of a request that starts a try-on is larger than [`body_limit`](crate::AiutaAuthBuilder::body_limit).
    /// Raise the limit, or insert [`AuthParams`](crate::AuthParams) into the request's extensions.
    BodyTooLarge,
    /// The URI of the request has a trusted [origin](crate::AiutaAuthBuilder::origins), but its `Host` header names
    /// another host. Proxies that forward a request often leave the old header in place. Remove it.
    HostMismatch,
    /// The token source needs a token of the layer that calls it, for example because it sends its own requests through
    /// that layer. Let the source use [`Access::Anonymous`](crate::Access::Anonymous), or a client without the layer.
    Recursive,
}

impl AuthError {
    fn new(kind: AuthErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            message: message.into(),
            transient: false,
            retry_after: None,
            source: None,
            #[cfg(feature = "retry")]
            unsent_request: None,
        }
    }

    pub(crate) fn invalid_body(message: &'static str) -> Self {
        Self::new(AuthErrorKind::InvalidBody, message)
    }

    pub(crate) fn body_failed(cause: BoxError) -> Self {
        Self {
            source: Some(Arc::from(cause)),
            ..Self::invalid_body("the request's body failed while it was being read")
        }
    }

    pub(crate) fn body_too_large() -> Self {
        Self::new(
            AuthErrorKind::BodyTooLarge,
            "the body is larger than `body_limit`, so its params can't be read; raise the limit, \
             or insert `AuthParams` into the request's extensions",
        )
    }

    /// The body of a request that starts a try-on has none of `fields`.
    pub(crate) fn missing_fields(fields: &[String]) -> Self {
        Self::new(
            AuthErrorKind::MissingParams,
            format!(
                "the body of a request that starts a try-on has none of the fields {}; send one of them, set the names \
                 with `signed_fields`, or insert `AuthParams` into the request's extensions",
                fields.iter().map(|field| format!("`{field}`")).collect::<Vec<_>>().join(", ")
            ),
        )
    }

    /// The request needs a JWT and is not one whose params the layer can read.
    pub(crate) fn missing_params() -> Self {
        Self::new(
            AuthErrorKind::MissingParams,
            "the request needs a JWT but has no params; its method and path are not those of a try-on, so its body was \
             not read; correct them, insert `AuthParams` into the request's extensions, or use \
             `allow_unbound_tokens(true)` to permit a token that is valid for any request",
        )
    }

    /// The URI of the request is trusted, but its `Host` header names another host (rule A2).
    pub(crate) fn host_mismatch() -> Self {
        Self::new(
            AuthErrorKind::HostMismatch,
            "the request's URI has a trusted origin, but its `Host` header names another host; remove the header, \
             which a proxy may have copied from the request that it forwards",
        )
    }

    /// A token source needs a token from the cache that is polling it (rule C7).
    pub(crate) fn recursive() -> Self {
        Self::new(
            AuthErrorKind::Recursive,
            "the token source needs a token of the layer that calls it; the source must send its requests with \
             `Access::Anonymous`, or with a client without this layer",
        )
    }

    pub(crate) fn fetch_timeout() -> Self {
        let message = "the token source did not return within `fetch_timeout`";
        Self { transient: true, ..Self::new(AuthErrorKind::FetchTimeout, message) }
    }

    /// The caller gave the request less time than the fetch takes (rule G6).
    #[cfg(feature = "reqwest-middleware")]
    pub(crate) fn request_timeout() -> Self {
        let message = "the timeout of the request passed before its token arrived; the request was not sent";
        Self { transient: true, ..Self::new(AuthErrorKind::FetchTimeout, message) }
    }

    pub(crate) fn overloaded() -> Self {
        let message = "too many tokens are being fetched, of this partition or of all; the limit is \
                       `max_concurrent_fetches`";
        Self { transient: true, ..Self::new(AuthErrorKind::Overloaded, message) }
    }

    pub(crate) fn source_panicked() -> Self {
        Self::new(AuthErrorKind::TokenSource, "the token source panicked")
    }

    /// The fetch was cancelled twice because the runtime that drove it was shut down.
    pub(crate) fn runtime_gone() -> Self {
        let message = "the runtime was shut down while it fetched the token";
        Self { transient: true, ..Self::new(AuthErrorKind::TokenSource, message) }
    }

    /// The source failed earlier with this error and asked for a pause, of which `remaining` is left.
    pub(crate) fn cooling_down(&self, remaining: Duration) -> Self {
        let message = "the token source failed earlier and asked not to be called yet";
        Self { message: message.into(), retry_after: Some(remaining), ..self.clone() }
    }

    pub(crate) fn from_source(error: TokenError) -> Self {
        let (kind, message) = if error.is_invalid_token() {
            (AuthErrorKind::InvalidToken, "the token source returned an invalid token")
        } else if error.is_denied() {
            (AuthErrorKind::TokenSource, "the token source denied a token for these params")
        } else {
            (AuthErrorKind::TokenSource, "the token source failed")
        };
        let failed = if is_recursive(&error) {
            Self::recursive()
        } else {
            Self { transient: error.is_transient(), retry_after: error.retry_after(), ..Self::new(kind, message) }
        };
        Self { source: Some(Arc::new(error)), ..failed }
    }

    #[cfg(feature = "retry")]
    pub(crate) fn with_unsent_request(self, fingerprint: u64) -> Self {
        Self { unsent_request: Some(fingerprint), ..self }
    }

    #[cfg(feature = "retry")]
    pub(crate) fn unsent_request(&self) -> Option<u64> {
        self.unsent_request
    }

    /// Called if an earlier attempt was sent.
    #[cfg(feature = "retry")]
    pub(crate) fn clear_unsent_request(&mut self) {
        self.unsent_request = None;
    }

    /// Returns the kind of this error.
    #[must_use]
    pub fn kind(&self) -> AuthErrorKind {
        self.kind
    }

    /// Returns whether the same request may succeed if it is repeated later.
    ///
    /// This is the case for [`FetchTimeout`](AuthErrorKind::FetchTimeout) and
    /// [`Overloaded`](AuthErrorKind::Overloaded), if the token source returned a [transient](TokenError::transient)
    /// error, and if the runtime that fetched the token was shut down.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_aiuta_auth::AuthError;
    /// /// Returns how long to wait before the next attempt, or `None` if another attempt is pointless.
    /// fn backoff(error: &AuthError) -> Option<Duration> {
    ///     error.is_transient().then(|| error.retry_after().unwrap_or(Duration::from_secs(1)))
    /// }
    /// ```
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.transient
    }

    /// Returns whether the token source denied a token for these params, by [`TokenError::denied`].
    ///
    /// A server that makes the request on behalf of a user should answer with 403 then.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        self.source.as_ref().and_then(|source| source.downcast_ref::<TokenError>()).is_some_and(TokenError::is_denied)
    }

    /// Returns how long to wait before the next attempt, if the token source set a
    /// [delay](TokenError::with_retry_after). It is at most 5 minutes.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
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

/// Returns whether an error was caused by a source that needs a token of its own layer. The source may have wrapped the
/// layer's error, and made it transient.
fn is_recursive(error: &(dyn Error + 'static)) -> bool {
    let mut chain = std::iter::successors(Some(error), |&error| error.source());
    chain.any(|error| error.downcast_ref::<AuthError>().is_some_and(|error| error.kind == AuthErrorKind::Recursive))
}

/// Returned by a [`TokenSource`](crate::TokenSource) that has no token.
///
/// It becomes the [`source`](Error::source) of the [`AuthError`] that the caller of the service receives. A request
/// that still has a valid token in the cache is not affected.
///
/// `Debug` and the error chain show the cause, so it must not contain secrets.
///
/// ```
/// use std::time::Duration;
/// use tower_aiuta_auth::TokenError;
///
/// // The signing service is busy, and should not be called again for ten seconds.
/// let busy = TokenError::transient("signing service is busy").with_retry_after(Duration::from_secs(10));
/// assert!(busy.is_transient());
///
/// // This user may not use this image.
/// let denied = TokenError::denied("image belongs to another user");
/// assert!(denied.is_denied() && !denied.is_transient());
/// ```
#[derive(Debug)]
pub struct TokenError {
    kind: TokenErrorKind,
    retry_after: Option<Duration>,
    for_this_key: bool,
    cause: BoxError,
}

/// Maximum pause that a source can ask for. If it asks for a longer one, it is called after this time.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(5 * 60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenErrorKind {
    Permanent,
    Transient,
    Denied,
    InvalidToken,
}

impl TokenError {
    pub(crate) fn with_kind(kind: TokenErrorKind, cause: BoxError) -> Self {
        Self { kind, retry_after: None, for_this_key: false, cause }
    }

    /// Creates an error for a failure that will not go away by itself, such as a missing key or params that can't be
    /// signed.
    ///
    /// `cause` is an error or a string.
    pub fn new(cause: impl Into<BoxError>) -> Self {
        Self::with_kind(TokenErrorKind::Permanent, cause.into())
    }

    /// Creates an error for a failure that may go away soon, such as a lost connection or a busy server.
    pub fn transient(cause: impl Into<BoxError>) -> Self {
        Self::with_kind(TokenErrorKind::Transient, cause.into())
    }

    /// Creates an error that denies the token: the user that the params belong to may not have it.
    pub fn denied(cause: impl Into<BoxError>) -> Self {
        Self::with_kind(TokenErrorKind::Denied, cause.into())
    }

    /// Asks the layer not to call the source again for `delay`. A delay of more than 5 minutes is reduced to 5 minutes.
    ///
    /// If the params have a [partition](crate::AuthParams::partition), this applies to that partition only, otherwise
    /// to all fetches. Use [`for_this_key`](Self::for_this_key) to narrow it. During that time, requests without a
    /// cached token fail at once. If another error asks for a shorter delay meanwhile, the longer one is kept.
    #[must_use]
    pub fn with_retry_after(self, delay: Duration) -> Self {
        Self { retry_after: Some(delay.min(MAX_RETRY_AFTER)), ..self }
    }

    /// Limits the delay of [`with_retry_after`](Self::with_retry_after) to the params of this fetch, so that one user
    /// can't stop the fetches of others.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_aiuta_auth::TokenError;
    ///
    /// let busy = TokenError::transient("too many tokens for this image");
    /// let busy = busy.with_retry_after(Duration::from_secs(10)).for_this_key();
    /// ```
    #[must_use]
    pub fn for_this_key(self) -> Self {
        Self { for_this_key: true, ..self }
    }

    /// Returns whether the error was created by [`transient`](Self::transient).
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.kind == TokenErrorKind::Transient
    }

    /// Returns whether the error was created by [`denied`](Self::denied).
    #[must_use]
    pub fn is_denied(&self) -> bool {
        self.kind == TokenErrorKind::Denied
    }

    /// Returns the delay that was set by [`with_retry_after`](Self::with_retry_after), which is at most 5 minutes.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    pub(crate) fn is_for_this_key(&self) -> bool {
        self.for_this_key
    }

    pub(crate) fn is_invalid_token(&self) -> bool {
        self.kind == TokenErrorKind::InvalidToken
    }
}

/// Used by [`source_fn`](crate::source_fn) for a function that returns a [`Jwt`](crate::Jwt), whose conversion can't
/// fail.
impl From<Infallible> for TokenError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl From<InvalidJwt> for TokenError {
    fn from(error: InvalidJwt) -> Self {
        Self::with_kind(TokenErrorKind::InvalidToken, Box::new(error))
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            TokenErrorKind::Permanent => "no token could be created",
            TokenErrorKind::Transient => "no token can be created at the moment",
            TokenErrorKind::Denied => "the token was denied",
            TokenErrorKind::InvalidToken => "the token is invalid",
        })
    }
}

impl Error for TokenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.cause)
    }
}
