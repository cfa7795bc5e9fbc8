//! [`Jwt`]: a token as it is returned by a token source, cached, and sent in the `authorization` header.
//!
//! Parsing checks that the string is a JWT (RFC 7519) and reads its lifetime. It does not verify the signature, because
//! only the issuer and Aiuta know the secret.

use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::HeaderValue;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use zeroize::Zeroizing;

/// Maximum size in bytes of a token.
const MAX_LEN: usize = 8 * 1024;

/// The prefix of a token in an `authorization` header (RFC 6750 §2.1).
pub(crate) const BEARER: &str = "Bearer ";

/// The last second of the year 9999. It is the latest time of RFC 3339, and every platform's `SystemTime` can represent
/// it.
const LATEST: f64 = 253_402_300_799.0;

/// A JSON Web Token (RFC 7519) in compact form, with its claimed lifetime.
///
/// A [`TokenSource`](crate::TokenSource) returns one. Use [`parse`](Self::parse) to convert a string. The signature is
/// not verified.
///
/// Clones share one copy of the token. It is wiped from memory when the last clone is dropped. `Debug` does not show
/// the token.
///
/// ```
/// use tower_aiuta_auth::Jwt;
///
/// // {"alg":"HS256"} . {"exp":1767225600} . a signature
/// let token = Jwt::parse("eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjE3NjcyMjU2MDB9.c2ln")?;
/// assert!(token.expires_at().is_some());
/// assert!(token.issued_at().is_none());
/// assert!(!format!("{token:?}").contains("eyJ"));
/// # Ok::<(), tower_aiuta_auth::InvalidJwt>(())
/// ```
#[derive(Clone)]
pub struct Jwt {
    /// `Bearer <token>`, marked sensitive. This is the only copy of the token.
    authorization: HeaderValue,
    expires_at: Option<SystemTime>,
    issued_at: Option<SystemTime>,
    age: Option<Duration>,
    out_of_cache: bool,
}

impl Jwt {
    /// Parses a token in compact form: three parts in base64url, joined by dots (RFC 7515 §7.1).
    ///
    /// The memory of `compact` is wiped.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidJwt`] if
    ///
    /// - the string is not in compact form, begins with `Bearer `, or is larger than 8 KiB;
    /// - the token is not signed (`alg: none`), or its header is not a JSON object with a known `alg`;
    /// - the payload is not a JSON object, or its `exp` or `iat` is present but not a number.
    pub fn parse(compact: impl Into<String>) -> Result<Self, InvalidJwt> {
        let compact = Zeroizing::new(compact.into());
        check_compact_form(&compact)?;
        // The parser's errors may quote the token, so they are dropped.
        jsonwebtoken::decode_header(compact.as_bytes()).map_err(|_| {
            InvalidJwt("its header is not a JSON object whose `alg` is a signature algorithm; `none` is not one")
        })?;
        let Claims(claims) = jsonwebtoken::dangerous::insecure_decode_claims(compact.as_bytes())
            .map_err(|_| InvalidJwt("its payload is not a JSON object, or its `exp` or `iat` is not a number"))?;

        let mut value = Zeroizing::new(String::with_capacity(BEARER.len() + compact.len()));
        value.push_str(BEARER);
        value.push_str(&compact);
        Self::from_header(value, claims.exp, claims.iat)
    }

    /// Creates a token from `value`, which is [`BEARER`] and a token that was signed in this process. It is not parsed
    /// again.
    ///
    /// # Errors
    ///
    /// Returns [`InvalidJwt`] if the token is larger than 8 KiB.
    #[cfg(any(feature = "signer", feature = "signer-rust-crypto"))]
    pub(crate) fn from_signed(value: Zeroizing<String>, iat: u64, exp: u64) -> Result<Self, InvalidJwt> {
        check_len(&value[BEARER.len()..])?;
        #[allow(clippy::cast_precision_loss, reason = "the same conversion as in parsing the token's JSON")]
        Self::from_header(value, Some(exp as f64), Some(iat as f64))
    }

    fn from_header(value: Zeroizing<String>, exp: Option<f64>, iat: Option<f64>) -> Result<Self, InvalidJwt> {
        let mut authorization = HeaderValue::from_maybe_shared(Bytes::from_owner(value))
            .map_err(|_| InvalidJwt("it contains a character that is not allowed in a header"))?;
        authorization.set_sensitive(true);
        Ok(Self {
            authorization,
            expires_at: exp.map(numeric_date),
            issued_at: iat.map(numeric_date),
            age: None,
            out_of_cache: false,
        })
    }

    /// Returns the token in compact form.
    ///
    /// The token is a secret. Anyone who obtains it can use it until it expires.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.authorization.to_str().ok().and_then(|value| value.strip_prefix(BEARER)).unwrap_or_default()
    }

    /// Returns the time at which the token expires: its `exp` claim, or `None` if it has none.
    ///
    /// A time outside the years 1970 to 9999 is clamped to that range.
    #[must_use]
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.expires_at
    }

    /// Returns the time at which the token was issued: its `iat` claim, or `None` if it has none.
    ///
    /// A time outside the years 1970 to 9999 is clamped to that range.
    #[must_use]
    pub fn issued_at(&self) -> Option<SystemTime> {
        self.issued_at
    }

    /// Sets the token's age: the time between its `iat` and the moment when its maker handed it over, on the maker's
    /// clock.
    ///
    /// With an age, the layer uses the token for `exp − iat − age` from the start of the fetch, and does not compare
    /// its claims with this machine's clock. Without an age, it trusts the clock, so a clock that is ahead shortens the
    /// time.
    #[must_use]
    pub fn with_age(self, age: Duration) -> Self {
        Self { age: Some(age), ..self }
    }

    /// Returns the token's age, if its source knows it.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.age
    }

    /// Marks a token that the source took from a cache of its own, `age` after it was issued. Implies
    /// [`with_age`](Self::with_age).
    ///
    /// If Aiuta rejects such a token, the token may have been revoked. So the request is replayed with a new token, as
    /// after a 401 to a token from the layer's cache.
    #[must_use]
    pub fn out_of_cache(self, age: Duration) -> Self {
        Self { out_of_cache: true, ..self.with_age(age) }
    }

    /// Returns whether the source took the token from a cache of its own.
    #[must_use]
    pub fn is_out_of_cache(&self) -> bool {
        self.out_of_cache
    }

    /// Returns the value of an `authorization` header with this token, marked sensitive.
    pub(crate) fn authorization(&self) -> HeaderValue {
        self.authorization.clone()
    }

    /// Returns whether both tokens are the same, byte for byte.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        self.authorization == other.authorization
    }
}

/// Parses the token with [`Jwt::parse`].
impl TryFrom<String> for Jwt {
    type Error = InvalidJwt;

    fn try_from(compact: String) -> Result<Self, InvalidJwt> {
        Self::parse(compact)
    }
}

impl fmt::Debug for Jwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwt")
            .field("expires_at", &self.expires_at)
            .field("issued_at", &self.issued_at)
            .field("age", &self.age)
            .field("out_of_cache", &self.out_of_cache)
            .finish_non_exhaustive()
    }
}

const TOO_LARGE: &str = "it is larger than 8 KiB";

const NOT_COMPACT: &str = "it does not consist of three base64url parts joined by dots";

/// Checks that `compact` has three parts in base64url. None may be empty: an empty signature makes an unsecured JWT
/// (RFC 7519 §6), which Aiuta would reject.
fn check_compact_form(compact: &str) -> Result<(), InvalidJwt> {
    if compact.trim().is_empty() {
        return Err(InvalidJwt("it is empty"));
    }
    check_len(compact)?;
    if has_bearer_prefix(compact) {
        return Err(InvalidJwt("it begins with `Bearer `; return the token alone, the layer adds the prefix"));
    }
    if compact.ends_with('.') {
        return Err(InvalidJwt("it has no signature, as with `alg: none`; Aiuta accepts only signed tokens"));
    }
    let is_base64url = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let mut parts = 0;
    for part in compact.split('.') {
        parts += 1;
        if part.is_empty() || !part.bytes().all(is_base64url) {
            return Err(InvalidJwt(NOT_COMPACT));
        }
    }
    if parts != 3 {
        return Err(InvalidJwt(NOT_COMPACT));
    }
    Ok(())
}

/// Returns whether a string begins with the scheme of an `authorization` header, in any case (RFC 9110 §11.1).
fn has_bearer_prefix(text: &str) -> bool {
    text.trim_start().get(..BEARER.len()).is_some_and(|start| start.eq_ignore_ascii_case(BEARER))
}

fn check_len(compact: &str) -> Result<(), InvalidJwt> {
    if compact.len() > MAX_LEN { Err(InvalidJwt(TOO_LARGE)) } else { Ok(()) }
}

/// Converts a NumericDate (RFC 7519 §2): seconds since the epoch, possibly fractional.
fn numeric_date(seconds: f64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds.clamp(0.0, LATEST))
}

/// The registered claims that the layer reads.
#[derive(Deserialize)]
struct Lifetime {
    exp: Option<f64>,
    iat: Option<f64>,
}

/// A [`Lifetime`] that is deserialized from an object only. The derived implementation also accepts an array.
struct Claims(Lifetime);

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Claims;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object of claims")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Claims, A::Error> {
                Lifetime::deserialize(MapAccessDeserializer::new(map)).map(Claims)
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// Returned when a string is not a valid JWT. The message never contains the string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidJwt(&'static str);

impl InvalidJwt {
    /// Returns whether the token is larger than 8 KiB.
    #[cfg(feature = "issuer")]
    pub(crate) fn is_too_large(&self) -> bool {
        self.0 == TOO_LARGE
    }
}

impl fmt::Display for InvalidJwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a valid JWT: {}", self.0)
    }
}

impl std::error::Error for InvalidJwt {}
