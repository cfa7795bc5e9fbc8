//! [`Jwt`]: a token that is known to be sendable, with the lifetime read from it.
//!
//! The signature is not checked: only Aiuta can refuse a token. What is checked is that it is a JWT at all (RFC 7519), and legal in
//! a header, so that nothing else ever follows `Bearer`.

use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::HeaderValue;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use zeroize::Zeroizing;

/// The longest token that is accepted, in bytes.
const MAX_LEN: usize = 8 * 1024;

/// The scheme of the header that carries a token (RFC 6750 §2.1), with its space.
pub(crate) const SCHEME: &str = "Bearer ";

/// The last second of the year 9999: RFC 3339's last, and within every platform's `SystemTime`.
const LATEST: f64 = 253_402_300_799.0;

/// A JSON Web Token in compact form (RFC 7519, RFC 7515 §7.1), and the lifetime it claims.
///
/// Cloning shares the one copy of the token; it is wiped from memory when the last clone is dropped. `Debug` does not show it.
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
    /// `Bearer <token>`, sensitive: the only copy, ready to be sent.
    authorization: HeaderValue,
    expires_at: Option<SystemTime>,
    issued_at: Option<SystemTime>,
}

impl Jwt {
    /// Takes a token in compact form. The string given is wiped.
    ///
    /// # Errors
    ///
    /// [`InvalidJwt`] unless it has three parts that are base64url, a header with a known `alg`, a JSON object as payload whose
    /// `exp` and `iat` are numbers where present, and at most 8 KiB.
    pub fn parse(compact: impl Into<String>) -> Result<Self, InvalidJwt> {
        let compact = Zeroizing::new(compact.into());
        check_form(&compact)?;
        // Errors of the parser quote what they found, so none is passed on.
        jsonwebtoken::decode_header(compact.as_bytes()).map_err(|_| InvalidJwt("its header is not a JWT's"))?;
        let Claims(claims) = jsonwebtoken::dangerous::insecure_decode_claims(compact.as_bytes())
            .map_err(|_| InvalidJwt("its payload is no JSON object, or has an `exp` or `iat` that is no number"))?;

        let mut value = Zeroizing::new(String::with_capacity(SCHEME.len() + compact.len()));
        value.push_str(SCHEME);
        value.push_str(&compact);
        Self::from_header(value, claims.exp, claims.iat)
    }

    /// A token that was made in this process, behind [`SCHEME`]: it need not be taken apart again.
    ///
    /// # Errors
    ///
    /// [`InvalidJwt`] if it is over 8 KiB.
    #[cfg(any(feature = "signer", feature = "signer-rust-crypto"))]
    pub(crate) fn made_here(value: Zeroizing<String>, iat: u64, exp: u64) -> Result<Self, InvalidJwt> {
        check_len(&value[SCHEME.len()..])?;
        #[allow(clippy::cast_precision_loss, reason = "as if read from the token's JSON")]
        Self::from_header(value, Some(exp as f64), Some(iat as f64))
    }

    fn from_header(value: Zeroizing<String>, exp: Option<f64>, iat: Option<f64>) -> Result<Self, InvalidJwt> {
        let mut authorization = HeaderValue::from_maybe_shared(Bytes::from_owner(value))
            .map_err(|_| InvalidJwt("it has a character that is illegal in a header"))?;
        authorization.set_sensitive(true);
        Ok(Self { authorization, expires_at: exp.map(numeric_date), issued_at: iat.map(numeric_date) })
    }

    /// The token itself, in compact form. It is a secret: whoever has it can use it until it expires.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.authorization.to_str().ok().and_then(|value| value.strip_prefix(SCHEME)).unwrap_or_default()
    }

    /// When it expires: its `exp`, or `None` without one. What lies outside the years 1970 to 9999 is moved to their edge.
    #[must_use]
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.expires_at
    }

    /// When it was issued: its `iat`, or `None` without one; bounded as [`expires_at`](Self::expires_at).
    #[must_use]
    pub fn issued_at(&self) -> Option<SystemTime> {
        self.issued_at
    }

    /// The value of an `authorization` header with this token, marked sensitive (RFC 6750 §2.1).
    pub(crate) fn authorization(&self) -> HeaderValue {
        self.authorization.clone()
    }

    /// Whether both are the same token, byte for byte.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        self.authorization == other.authorization
    }
}

/// As [`Jwt::parse`].
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
            .finish_non_exhaustive()
    }
}

/// Three parts of base64url, none empty. (An empty signature is RFC 7519's unsecured JWT: nobody should send one.)
fn check_form(compact: &str) -> Result<(), InvalidJwt> {
    if compact.trim().is_empty() {
        return Err(InvalidJwt("it is empty"));
    }
    check_len(compact)?;
    let is_base64url = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let mut parts = 0;
    for part in compact.split('.') {
        parts += 1;
        if part.is_empty() || !part.bytes().all(is_base64url) {
            return Err(InvalidJwt("it is not three parts of base64url, joined by dots"));
        }
    }
    if parts != 3 {
        return Err(InvalidJwt("it is not three parts of base64url, joined by dots"));
    }
    Ok(())
}

fn check_len(compact: &str) -> Result<(), InvalidJwt> {
    if compact.len() > MAX_LEN { Err(InvalidJwt("it is over 8 KiB")) } else { Ok(()) }
}

/// RFC 7519's NumericDate: seconds since the epoch, possibly fractional.
fn numeric_date(seconds: f64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds.clamp(0.0, LATEST))
}

/// The claims that the layer reads.
#[derive(Deserialize)]
struct Lifetime {
    exp: Option<f64>,
    iat: Option<f64>,
}

/// [`Lifetime`] from a JSON object only; a derived struct would take an array as well.
struct Claims(Lifetime);

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Claims;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of claims")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Claims, A::Error> {
                Lifetime::deserialize(MapAccessDeserializer::new(map)).map(Claims)
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// Why a string is no token; it does not repeat the string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidJwt(&'static str);

impl fmt::Display for InvalidJwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a JWT that can be sent: {}", self.0)
    }
}

impl std::error::Error for InvalidJwt {}
