//! Reads the backend's response to a [`RemoteTokenSource`](super::RemoteTokenSource): a token or an error. Errors never
//! contain any part of the response's body.

use std::time::SystemTime;

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use crate::error::{BoxError, TokenError, TokenErrorKind};
use crate::jwt::Jwt;
use crate::params::json::Text;
use crate::request::body::ReadError;
use crate::request::headers::parse_retry_after;

/// Returns an error unless the status is a success.
pub(super) fn check(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Result<(), TokenError> {
    if status.is_success() {
        return Ok(());
    }
    let cause = format!("the backend responded with status {}", status.as_u16());
    Err(match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => TokenError::denied(cause),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => busy(cause, headers, now),
        _ if status.is_server_error() => busy(cause, headers, now),
        _ if status.is_redirection() => TokenError::new(format!(
            "{cause}; redirects are not followed: use the target's URL, or authenticate if the target is a login page"
        )),
        _ => TokenError::new(cause),
    })
}

fn busy(cause: String, headers: &HeaderMap, now: SystemTime) -> TokenError {
    let error = TokenError::transient(cause);
    match headers.get(RETRY_AFTER).and_then(|value| parse_retry_after(value.to_str().ok()?, now)) {
        Some(delay) => error.with_retry_after(delay),
        None => error,
    }
}

/// Converts the error of a body that could not be read completely.
pub(super) fn unreadable<E: Into<BoxError>>(error: ReadError<E>) -> TokenError {
    match error {
        ReadError::TooLarge => invalid_token("the backend's response is larger than 16 KiB; check the URL"),
        ReadError::Failed(error) => TokenError::transient(error),
    }
}

/// Parses the token in the body of a successful response. The content type is ignored, because the component that Aiuta
/// documents sends JSON as `text/html`.
pub(super) fn token(body: &[u8]) -> Result<Jwt, TokenError> {
    let Ok(text) = std::str::from_utf8(body) else {
        return Err(invalid_token("the backend's response is not UTF-8; check that it is not compressed"));
    };
    let text = text.trim();
    match text.as_bytes() {
        [] => Err(invalid_token("the backend's response is empty")),
        [b'<', ..] => Err(invalid_token(
            "the backend's response is an HTML page; check the URL, and that the request is authenticated",
        )),
        [b'{', ..] => match serde_json::from_str(text) {
            // The parser's error is dropped, because it may quote the token.
            Err(_) => Err(invalid_token(NO_FIELD)),
            Ok(TokenResponse { token: None }) => Err(invalid_token(NO_FIELD)),
            Ok(TokenResponse { token: Some(Text(token)) }) => Ok(Jwt::parse(token)?),
        },
        _ => Ok(Jwt::parse(text)?),
    }
}

const NO_FIELD: &str = "the backend's response is not a JSON object with a string `token`";

fn invalid_token(cause: &'static str) -> TokenError {
    TokenError::with_kind(TokenErrorKind::InvalidToken, cause.into())
}

/// The documented response. Its other field, `type`, is always `jwt`.
#[derive(Deserialize)]
struct TokenResponse<'a> {
    #[serde(borrow, default)]
    token: Option<Text<'a>>,
}
