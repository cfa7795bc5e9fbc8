//! [`IssuerError`]: the HTTP response of [`JwtIssuer`](crate::JwtIssuer) if it issues no token.

use std::borrow::Cow;
use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;

use super::json_response;
use crate::error::TokenError;
use crate::jwt::InvalidJwt;
use crate::params::json::ParamsError;

/// The reason why a [`JwtIssuer`](crate::JwtIssuer) issues no token. Return it from `authorize` to deny one.
///
/// The client receives the status and the body `{"error":"…"}` with a fixed text.
///
/// ```
/// use std::time::Duration;
/// use tower_aiuta_auth::IssuerError;
///
/// fn check(requests_in_last_minute: u32) -> Result<(), IssuerError> {
///     if requests_in_last_minute > 20 {
///         return Err(IssuerError::too_many_requests(Duration::from_secs(60)));
///     }
///     Ok(())
/// }
/// # assert!(check(21).is_err() && check(20).is_ok());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerError {
    status: StatusCode,
    error: Cow<'static, str>,
    retry_after: Option<Duration>,
}

impl IssuerError {
    fn new(status: StatusCode, error: impl Into<Cow<'static, str>>) -> Self {
        Self { status, error: error.into(), retry_after: None }
    }

    /// Creates a 401: the user is not logged in.
    ///
    /// The response has no `WWW-Authenticate`, because your own middleware handles logins.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "log in first")
    }

    /// Creates a 403: the user may not have a token for these params.
    #[must_use]
    pub fn forbidden() -> Self {
        Self::new(StatusCode::FORBIDDEN, "you may not have a token for these params")
    }

    /// Creates a 429: the user requested too many tokens. `Retry-After` is `delay`, rounded up to whole seconds.
    #[must_use]
    pub fn too_many_requests(delay: Duration) -> Self {
        Self { retry_after: Some(delay), ..Self::new(StatusCode::TOO_MANY_REQUESTS, "too many requests") }
    }

    /// Creates a 503: a dependency, such as the database, is unavailable, so the user's rights can't be checked.
    #[must_use]
    pub fn unavailable() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "no token can be issued at the moment; try again later")
    }

    pub(super) fn bad_request(error: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "the method must be GET or POST")
    }

    pub(super) fn too_large() -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 16 KiB")
    }

    pub(super) fn unsupported_media_type() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the content type of a POST must be application/json in UTF-8, without a content encoding",
        )
    }

    /// Creates a 400. The text contains the names of the allowed params, but nothing from the request.
    pub(super) fn invalid_params(error: ParamsError, in_query: bool, fields: &[String]) -> Self {
        match error {
            ParamsError::NotJson => Self::bad_request("the body is not a JSON object"),
            ParamsError::Duplicate => Self::bad_request("a param occurs twice"),
            ParamsError::UnsupportedType if in_query => {
                Self::bad_request("the query is not valid percent-encoded UTF-8")
            }
            ParamsError::UnsupportedType => Self::bad_request(
                "the value of a param is neither a string, a boolean, a 64-bit integer nor a list of strings",
            ),
            ParamsError::UnknownField => {
                let error = format!("unknown param: the allowed params are {}", fields.join(", "));
                Self::new(StatusCode::BAD_REQUEST, error)
            }
        }
    }

    /// Creates a 400: the token would be too large (rule B4).
    pub(super) fn too_large_for_token() -> Self {
        Self::bad_request(
            "the params do not fit into a token: they are larger than 4 KiB, or many characters must be escaped",
        )
    }

    /// Creates the response to an error of the signer. The text contains no details, since they are internal.
    pub(super) fn from_token_error(error: &TokenError) -> Self {
        let invalid = error.source().and_then(|cause| cause.downcast_ref::<InvalidJwt>());
        if error.is_denied() {
            Self::forbidden()
        } else if invalid.is_some_and(InvalidJwt::is_too_large) {
            // With a long issuer id or claims of the signer's own, less is left for the params.
            Self::too_large_for_token()
        } else if error.is_transient() {
            Self { retry_after: error.retry_after(), ..Self::unavailable() }
        } else {
            Self::new(StatusCode::INTERNAL_SERVER_ERROR, "no token can be issued")
        }
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let body = serde_json::json!({ "error": self.error }).to_string();
        let mut response = json_response(self.status, body.into());
        let headers = response.headers_mut();
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("GET, POST"));
        }
        if let Some(delay) = self.retry_after {
            let round_up = u64::from(delay.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, delay.as_secs().saturating_add(round_up).into());
        }
        response
    }
}
