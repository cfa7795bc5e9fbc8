//! Secrets as header values, and the only code that writes the three headers.

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use crate::error::ConfigError;
use crate::jwt::Jwt;

static X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
static X_USER_ID: HeaderName = HeaderName::from_static("x-user-id");

/// What one request carries.
#[derive(Clone, Copy)]
pub(crate) enum Credential<'a> {
    ApiKey(&'a HeaderValue),
    UserId(&'a HeaderValue),
    Bearer(&'a Jwt),
}

impl Credential<'_> {
    /// Makes this the only credential in `headers`: what the caller had put there is replaced, never joined (rule A1).
    pub(crate) fn put_into(self, headers: &mut HeaderMap) {
        let (name, value, others) = match self {
            Self::ApiKey(key) => (&X_API_KEY, key.clone(), [&AUTHORIZATION, &X_USER_ID]),
            Self::UserId(id) => (&X_USER_ID, id.clone(), [&AUTHORIZATION, &X_API_KEY]),
            Self::Bearer(jwt) => (&AUTHORIZATION, jwt.authorization(), [&X_API_KEY, &X_USER_ID]),
        };
        for other in others {
            headers.remove(other);
        }
        headers.insert(name, value);
    }
}

/// A secret as a header value: sensitive (rule A4), its memory wiped when the last copy is dropped.
pub(crate) fn secret_value(setting: &'static str, secret: String) -> Result<HeaderValue, ConfigError> {
    let secret = Zeroizing::new(secret);
    check_secret(setting, &secret)?;
    // A string may leave stale copies behind when it grows; this one does not grow.
    let bytes = Zeroizing::new(secret.as_bytes().to_vec());
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(bytes))
        .map_err(|_| ConfigError::new(setting, "it has a character that is illegal in a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Not empty, and legal in a header; nothing more is known of the shape of Aiuta's credentials.
pub(crate) fn check_secret(setting: &'static str, value: &str) -> Result<(), ConfigError> {
    let problem = if value.is_empty() {
        "it must not be empty"
    } else if value.contains(char::is_control) {
        "it must not have a control character or line break; was it read from a file with its newline?"
    } else if value.trim() != value {
        "it must not begin or end with a blank"
    } else {
        return Ok(());
    };
    Err(ConfigError::new(setting, problem))
}
