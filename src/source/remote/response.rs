//! Reads the backend's response to a [`RemoteTokenSource`](super::RemoteTokenSource): a token or an error. Errors never
//! contain any part of the response's body.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::error::{TokenError, TokenErrorKind};
use crate::jwt::Jwt;
use crate::params::json::Text;
use crate::request::headers::{origin_date, retry_after, time_in_caches};
use crate::request::media::Content;
use crate::source::TokenRequest;

/// Time in HTTP caches above which a token counts as cached (rule E2).
const MAX_TIME_IN_CACHES: Duration = Duration::from_secs(1);

/// Age above which a token must come from a cache of the backend (rule E2).
const MAX_NEW_AGE: Duration = Duration::from_secs(10);

/// Returns an error unless the status is a success.
pub(super) fn check(status: StatusCode, headers: &HeaderMap, request: &TokenRequest) -> Result<(), TokenError> {
    if status.is_success() {
        return Ok(());
    }
    let now = request.now();
    let cause = format!("the backend responded with status {}", status.as_u16());
    Err(match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => TokenError::denied(cause),
        // Without a partition, the limit that was reached is probably that of one user (rule G2).
        StatusCode::TOO_MANY_REQUESTS if request.params().partition().is_none() => {
            busy(cause, headers, now).for_this_key()
        }
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
    match retry_after(headers, now) {
        Some(delay) => error.with_retry_after(delay),
        None => error,
    }
}

pub(super) fn too_large() -> TokenError {
    invalid_token("the backend's response is larger than 16 KiB; check the URL")
}

/// Returns an error if the body has a content encoding. Most HTTP clients do not decode one unless they are told to.
pub(super) fn check_encoding(headers: &HeaderMap) -> Result<(), TokenError> {
    if Content::of(headers).is_encoded {
        return Err(invalid_token(
            "the backend's response has a content encoding; switch off compression for this URL, or add a layer that \
             decompresses it",
        ));
    }
    Ok(())
}

/// Parses the token in the body of a successful response. The content type is ignored, because the component that Aiuta
/// documents sends JSON as `text/html`.
pub(super) fn token(body: &[u8]) -> Result<Jwt, TokenError> {
    let Ok(text) = std::str::from_utf8(body) else {
        return Err(invalid_token("the backend's response is not UTF-8; check that it is not compressed"));
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim();
    match text.as_bytes() {
        [] => Err(invalid_token("the backend's response is empty")),
        [b'<', ..] => Err(invalid_token(
            "the backend's response is an HTML page; check the URL, and that the request is authenticated",
        )),
        [b'{', ..] => in_object(text),
        [b'"', ..] => match serde_json::from_str(text) {
            Ok(Text(token)) => Ok(Jwt::parse(token)?),
            // The parser's error is dropped, because it may quote the token.
            Err(_) => Err(invalid_token("the backend's response begins with a quote and is not a JSON string")),
        },
        _ => Ok(Jwt::parse(text)?),
    }
}

/// Parses the token in a JSON object.
fn in_object(text: &str) -> Result<Jwt, TokenError> {
    // The parser's error is dropped, because it may quote the token.
    let Ok(TokenResponse { token, access_token }) = serde_json::from_str(text) else {
        return Err(invalid_token(
            "the backend's response begins with a brace, and is not a JSON object or has a `token` twice",
        ));
    };
    match (string(token)?, string(access_token)?) {
        (Some(token), Some(access_token)) if token != access_token => Err(invalid_token(
            "the backend's response has different values for `token` and `access_token`; leave one out",
        )),
        (Some(mut token), _) | (None, Some(mut token)) => Ok(Jwt::parse(std::mem::take(&mut *token))?),
        (None, None) => {
            Err(invalid_token("the backend's response is a JSON object without a `token` or `access_token`"))
        }
    }
}

/// Returns the string in a field. A field that is null counts as missing.
fn string(field: Option<&RawValue>) -> Result<Option<Zeroizing<String>>, TokenError> {
    match field.map(RawValue::get) {
        None | Some("null") => Ok(None),
        Some(json) => match serde_json::from_str(json) {
            Ok(text) => Ok(Some(Zeroizing::new(text))),
            Err(_) => Err(invalid_token("the backend's response has a `token` or `access_token` that is not a string")),
        },
    }
}

/// Sets the token's age by the backend's clock (rule D1). Marks a token that came from a cache (rule E2).
///
/// Without `iat` or `Date`, only a marked token has an age. If `Age` is unreadable, no token has one.
pub(super) fn with_age(token: Jwt, headers: &HeaderMap, now: SystemTime) -> Jwt {
    let Some(in_caches) = time_in_caches(headers) else { return token };
    let age_at = |time: SystemTime| Some(time.duration_since(token.issued_at()?).unwrap_or_default());
    let is_cached = in_caches > MAX_TIME_IN_CACHES;
    match origin_date(headers).and_then(age_at) {
        Some(age) if is_cached || age > MAX_NEW_AGE => token.out_of_cache(age + in_caches),
        Some(age) => token.with_age(age + in_caches),
        // The mark needs an age. This one is the best guess, and at least what the caches say.
        None if is_cached => {
            let age = age_at(now).unwrap_or_default().max(in_caches);
            token.out_of_cache(age)
        }
        None => token,
    }
}

fn invalid_token(cause: &'static str) -> TokenError {
    TokenError::with_kind(TokenErrorKind::InvalidToken, cause.into())
}

/// The documented response, and that of OAuth servers (RFC 6749 §5.1). Other fields are ignored.
#[derive(Deserialize)]
struct TokenResponse<'a> {
    #[serde(borrow, default)]
    token: Option<&'a RawValue>,
    #[serde(borrow, default)]
    access_token: Option<&'a RawValue>,
}
