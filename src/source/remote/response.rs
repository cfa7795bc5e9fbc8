//! What the backend answered: a token, or why not. Nothing of the answer's body gets into an error.

use std::time::SystemTime;

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use crate::error::{BoxError, TokenError, TokenErrorKind};
use crate::jwt::Jwt;
use crate::params::json::Text;
use crate::request::body::ReadError;
use crate::request::headers::delay;

/// Sorts out what is no success.
pub(super) fn check(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Result<(), TokenError> {
    if status.is_success() {
        return Ok(());
    }
    let cause = format!("the backend answered with {}", status.as_u16());
    Err(match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => TokenError::denied(cause),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => busy(cause, headers, now),
        _ if status.is_server_error() => busy(cause, headers, now),
        _ if status.is_redirection() => TokenError::new(format!(
            "{cause}; redirects are not followed: give the URL that it leads to, and look whether it wants a login"
        )),
        _ => TokenError::new(cause),
    })
}

fn busy(cause: String, headers: &HeaderMap, now: SystemTime) -> TokenError {
    let error = TokenError::transient(cause);
    match headers.get(RETRY_AFTER).and_then(|value| delay(value.to_str().ok()?, now)) {
        Some(delay) => error.with_retry_after(delay),
        None => error,
    }
}

/// The answer's body was not read to its end.
pub(super) fn unreadable<E: Into<BoxError>>(error: ReadError<E>) -> TokenError {
    match error {
        ReadError::TooLarge => no_token("the backend's answer is over 16 KiB: is the URL right?"),
        ReadError::Failed(error) => TokenError::transient(error),
    }
}

/// The token in the body of a success. Its content type says nothing: the documented component answers JSON as `text/html`.
pub(super) fn token(body: &[u8]) -> Result<Jwt, TokenError> {
    let Ok(text) = std::str::from_utf8(body) else {
        return Err(no_token("the backend's answer is not UTF-8: is it compressed?"));
    };
    let text = text.trim();
    match text.as_bytes() {
        [] => Err(no_token("the backend's answer is empty")),
        [b'<', ..] => Err(no_token("the backend answered with a page: is the URL right, and did it know who asked?")),
        [b'{', ..] => match serde_json::from_str(text) {
            // The parser's error may quote the token.
            Err(_) => Err(no_token(NO_FIELD)),
            Ok(Answer { token: None }) => Err(no_token(NO_FIELD)),
            Ok(Answer { token: Some(Text(token)) }) => Ok(Jwt::parse(token)?),
        },
        _ => Ok(Jwt::parse(text)?),
    }
}

const NO_FIELD: &str = "the backend's answer is not a JSON object with one string named `token`";

fn no_token(cause: &'static str) -> TokenError {
    TokenError::of(TokenErrorKind::InvalidToken, cause.into())
}

/// The documented answer. Its `type` says nothing that the token itself does not.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow, default)]
    token: Option<Text<'a>>,
}
