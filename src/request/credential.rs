//! Writes the credential headers. No other module writes `authorization`, `x-api-key` or `x-user-id`.

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use crate::error::ConfigError;
use crate::jwt::Jwt;

static X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
static X_USER_ID: HeaderName = HeaderName::from_static("x-user-id");

/// Maximum number of names that are compared to find other credentials.
const MAX_SCANNED: usize = 16;

/// The credential that one request carries.
#[derive(Clone, Copy)]
pub(crate) enum Credential<'a> {
    ApiKey(&'a HeaderValue),
    UserId(&'a HeaderValue),
    Bearer(&'a Jwt),
}

impl Credential<'_> {
    /// Makes this the only credential in `headers`. Credentials that the caller has set are removed (rule A1).
    pub(crate) fn put_into(self, headers: &mut HeaderMap) {
        let (name, value, others) = match self {
            Self::ApiKey(key) => (&X_API_KEY, key.clone(), [&AUTHORIZATION, &X_USER_ID]),
            Self::UserId(id) => (&X_USER_ID, id.clone(), [&AUTHORIZATION, &X_API_KEY]),
            Self::Bearer(jwt) => (&AUTHORIZATION, jwt.authorization(), [&X_API_KEY, &X_USER_ID]),
        };
        // Few requests have another credential. Comparing a few names costs less than two removals.
        let has_other = |headers: &HeaderMap| headers.keys().any(|name| others.contains(&name));
        if headers.keys_len() > MAX_SCANNED || has_other(headers) {
            for other in others {
                headers.remove(other);
            }
        }
        headers.insert(name, value);
    }
}

/// Converts a secret into a header value that is marked sensitive (rule A4). Its memory is wiped when the last clone is
/// dropped.
pub(crate) fn secret_value(setting: &'static str, secret: String) -> Result<HeaderValue, ConfigError> {
    let secret = Zeroizing::new(secret);
    check_secret(setting, &secret)?;
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(secret))
        .map_err(|_| ConfigError::new(setting, "it contains a character that is not allowed in a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Checks that a secret is not empty and fits into a header. Aiuta documents no other constraint on its credentials.
pub(crate) fn check_secret(setting: &'static str, value: &str) -> Result<(), ConfigError> {
    let problem = if value.is_empty() {
        "it must not be empty"
    } else if value.contains(char::is_control) {
        "it must not contain a control character or line break; if it was read from a file, strip the final newline"
    } else if value.trim() != value {
        "it must not begin or end with whitespace"
    } else {
        return Ok(());
    };
    Err(ConfigError::new(setting, problem))
}
