//! [`IssuerError`]: why there is no token, as an HTTP answer.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;

use super::json_response;
use crate::error::TokenError;
use crate::params::json::ParamsError;

/// Why a [`JwtIssuer`](crate::JwtIssuer) gives no token: what its `authorize` answers with when there should be none.
///
/// It becomes the status, and `{"error":"…"}` with a fixed text.
///
/// ```
/// use std::time::Duration;
/// use tower_aiuta_auth::IssuerError;
///
/// fn check(tries_in_the_last_minute: u32) -> Result<(), IssuerError> {
///     if tries_in_the_last_minute > 20 {
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

    /// 401: it is not known who asks. There is no `WWW-Authenticate`: how users log in, your own middleware knows.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "log in first")
    }

    /// 403: whoever asks may not have a token for these params.
    #[must_use]
    pub fn forbidden() -> Self {
        Self::new(StatusCode::FORBIDDEN, "no token for these params")
    }

    /// 429, with `Retry-After`: too many tokens were asked for; ask again after `delay`, rounded up to whole seconds.
    #[must_use]
    pub fn too_many_requests(delay: Duration) -> Self {
        Self { retry_after: Some(delay), ..Self::new(StatusCode::TOO_MANY_REQUESTS, "too many requests") }
    }

    /// 503: whether a token may be given can't be found out at the moment.
    #[must_use]
    pub fn unavailable() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "no token can be made at the moment")
    }

    pub(super) fn bad_request(error: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "ask with GET or POST")
    }

    pub(super) fn too_large() -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is over 16 KiB")
    }

    pub(super) fn unsupported_media_type() -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "a POST has to be application/json")
    }

    /// The params can't be read. Nothing of them is repeated, but the names that would be right.
    pub(super) fn of_params(problem: ParamsError, in_query: bool, fields: &[String]) -> Self {
        match problem {
            ParamsError::NotJson => Self::bad_request("the body is not a JSON object"),
            ParamsError::Duplicate => Self::bad_request("a param is given twice"),
            ParamsError::UnsupportedType if in_query => Self::bad_request("the query is not UTF-8, percent-encoded"),
            ParamsError::UnsupportedType => {
                Self::bad_request("a param is neither a string, a boolean, a 64-bit integer nor a list of strings")
            }
            ParamsError::UnknownField => {
                let error = format!("a param is not one of those that are signed here: {}", fields.join(", "));
                Self::new(StatusCode::BAD_REQUEST, error)
            }
        }
    }

    /// The signer failed; why, is nobody else's business.
    pub(super) fn of_signer(error: &TokenError) -> Self {
        if error.is_denied() {
            Self::forbidden()
        } else if error.is_transient() {
            Self { retry_after: error.retry_after(), ..Self::unavailable() }
        } else {
            Self::new(StatusCode::INTERNAL_SERVER_ERROR, "no token can be made")
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
            let up = u64::from(delay.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, delay.as_secs().saturating_add(up).into());
        }
        response
    }
}
