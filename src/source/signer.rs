//! [`JwtSigner`]: a token source that signs tokens in this process.

mod forced;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
#[cfg(feature = "signer")]
use jsonwebtoken::crypto::aws_lc as backend;
#[cfg(not(feature = "signer"))]
use jsonwebtoken::crypto::rust_crypto as backend;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde::ser::{Serialize, SerializeMap, Serializer};
use zeroize::Zeroizing;

use self::forced::ForcedTokens;
use super::{TokenError, TokenRequest, TokenSource, check_names};
use crate::error::ConfigError;
use crate::jwt::{BEARER, Jwt};
use crate::params::AuthParams;
use crate::request::credential::check_secret;

/// `{"alg":"HS256","typ":"JWT"}` in base64url.
const HEADER: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9";

/// A [`TokenSource`] that signs tokens in this process, with HS256 (RFC 7518 §3.2) and the secret that Aiuta gave the
/// issuer.
///
/// It creates the same tokens as the server-side component that Aiuta documents. The payload has the claims `iss`,
/// `iat` and `exp`, and the params under their own names and with their own JSON types. A param with the name of a
/// registered claim (`iss`, `sub`, `aud`, `exp`, `nbf`, `iat`, `jti`) is an error.
///
/// Anyone who has the secret can start try-ons at the issuer's cost, so use a signer only on a server. The secret is
/// wiped from memory when the signer and all its clones are dropped. `Debug` does not show it. Clones are cheap. They
/// share the issuer id, the secret, and the count of forced tokens (see below).
///
/// ```
/// use std::time::Duration;
/// use tower_aiuta_auth::{AiutaAuthLayer, JwtSigner};
///
/// let signer = JwtSigner::hs256("issuer-id", "issuer-secret")?.lifetime(Duration::from_secs(120));
/// let layer = AiutaAuthLayer::jwt("65f0c0ffee65f0c0ffee65f0", signer)?;
/// # Ok::<(), tower_aiuta_auth::ConfigError>(())
/// ```
///
/// # Clocks
///
/// Many verifiers, such as PyJWT, reject a token whose `iat` is in the future by their clock. Therefore `iat` is set 5
/// seconds back (see [`backdate`](Self::backdate)); `exp` is not. The layer corrects larger differences between the
/// clocks by [`TokenRequest::now`].
///
/// The signer sets the [age](Jwt::with_age) of its tokens to the time from `iat` to [`TokenRequest::now`]. The layer
/// then measures how long a token is valid from the moment of its creation.
///
/// # Forced tokens
///
/// HS256 is deterministic, so the same params in the same second yield the same token. If
/// [`TokenRequest::force_refresh`] is set, `iat` is set back by one more second, so that the new token differs from the
/// rejected one. Each further forced token for the same params within the same second has an `iat` that is one second
/// earlier still. Tokens for other params can set it back too, if many are forced in the same second. `exp` does not
/// change.
#[derive(Clone)]
pub struct JwtSigner {
    shared: Arc<Shared>,
    lifetime: Duration,
    backdate: Duration,
}

/// The state that all clones share. It outlives a rotation of the secret, which may end with the old one again.
struct Shared {
    issuer: ArcSwap<Issuer>,
    forced: ForcedTokens,
}

struct Issuer {
    id: String,
    /// Wiped from memory when it is dropped.
    key: EncodingKey,
}

impl Issuer {
    fn new(id: impl Into<String>, secret: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        let id = id.into();
        check_secret("issuer", &id)?;
        let secret = secret.as_ref();
        if secret.is_empty() {
            return Err(ConfigError::new("secret", "it must not be empty"));
        }
        // A secret may be any bytes. If it is text, a line break at its end comes from a file or an editor.
        if std::str::from_utf8(secret).is_ok_and(|text| text.trim() != text) {
            return Err(ConfigError::new(
                "secret",
                "it must not begin or end with whitespace or a line break; if it was read from a file, strip the final \
                 newline",
            ));
        }
        Ok(Self { id, key: EncodingKey::from_secret(secret) })
    }
}

impl JwtSigner {
    /// Creates a signer from the issuer id and the secret that Aiuta has given you.
    ///
    /// The bytes of the secret are the key. It is not base64-decoded.
    ///
    /// # Errors
    ///
    /// Returns [`ConfigError`] if the issuer id or the secret is empty, if one of them is text that begins or ends with
    /// whitespace or a line break, or if the issuer id contains a control character.
    pub fn hs256(issuer: impl Into<String>, secret: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        let issuer = ArcSwap::from_pointee(Issuer::new(issuer, secret)?);
        Ok(Self {
            shared: Arc::new(Shared { issuer, forced: ForcedTokens::default() }),
            lifetime: Duration::from_secs(60),
            backdate: Duration::from_secs(5),
        })
    }

    /// Sets the lifetime of the tokens, from their creation to `exp`. Fractions of a second are dropped. Defaults to 60
    /// seconds. With less than one second, building the layer fails.
    #[must_use]
    pub fn lifetime(self, lifetime: Duration) -> Self {
        Self { lifetime, ..self }
    }

    /// Sets how far `iat` lies before the creation of a token. Fractions of a second are dropped. Defaults to 5
    /// seconds.
    #[must_use]
    pub fn backdate(self, by: Duration) -> Self {
        Self { backdate: by, ..self }
    }

    /// Replaces the issuer id and the secret in this signer and all its clones. The next token is signed with the new
    /// secret.
    ///
    /// Requests do not wait for the change. Tokens signed with the old secret stay in the cache, so call
    /// [`TokenCache::clear`](crate::TokenCache::clear) afterwards.
    ///
    /// ```
    /// use tower_aiuta_auth::{AiutaAuthLayer, JwtSigner};
    ///
    /// let signer = JwtSigner::hs256("issuer-id", "old-secret")?;
    /// let layer = AiutaAuthLayer::jwt("65f0c0ffee65f0c0ffee65f0", signer.clone())?;
    ///
    /// signer.rotate("issuer-id", "new-secret")?;
    /// layer.token_cache().expect("a layer with a token source has a cache").clear();
    /// # Ok::<(), tower_aiuta_auth::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`ConfigError`] for the values that [`hs256`](Self::hs256) does not accept. The signer then keeps the
    /// old ones.
    pub fn rotate(&self, issuer: impl Into<String>, secret: impl AsRef<[u8]>) -> Result<(), ConfigError> {
        self.shared.issuer.store(Arc::new(Issuer::new(issuer, secret)?));
        Ok(())
    }

    fn sign(&self, request: &TokenRequest) -> Result<Jwt, TokenError> {
        let since_epoch = request.now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = since_epoch.as_secs();
        let backdate = self.backdate.as_secs();
        let set_back = match request.force_refresh() {
            true => self.shared.forced.set_back(request.params(), now, backdate),
            false => backdate,
        };
        let issuer = self.shared.issuer.load();
        let claims = Claims {
            iss: &issuer.id,
            iat: now.saturating_sub(set_back),
            exp: now.saturating_add(self.lifetime.as_secs()),
            params: request.params(),
        };
        let mut payload = Vec::with_capacity(256);
        serde_json::to_writer(&mut payload, &claims).map_err(TokenError::new)?;

        // `jsonwebtoken::encode` would use the process-wide default backend, and panics if the build contains both
        // backends.
        let signer =
            (backend::DEFAULT_PROVIDER.signer_factory)(&Algorithm::HS256, &issuer.key).map_err(TokenError::new)?;
        // The buffer must not grow: that would leave copies of the token in freed memory. 50 bytes are enough for the
        // dots, the signature and rounding.
        let mut token = Zeroizing::new(String::with_capacity(BEARER.len() + HEADER.len() + payload.len() * 4 / 3 + 50));
        token.push_str(BEARER);
        token.push_str(HEADER);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(payload, &mut token);
        let signed = &token.as_bytes()[BEARER.len()..];
        let signature = Zeroizing::new(signer.try_sign(signed).map_err(TokenError::new)?);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(&*signature, &mut token);
        // Rule D1: includes the fraction of a second that `iat` lacks.
        let age = since_epoch.saturating_sub(Duration::from_secs(claims.iat));
        Ok(Jwt::from_signed(token, claims.iat, claims.exp)?.with_age(age))
    }
}

impl TokenSource for JwtSigner {
    async fn token(&self, request: TokenRequest) -> Result<Jwt, TokenError> {
        check_names(request.params())?;
        self.sign(&request)
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.lifetime < Duration::from_secs(1) {
            return Err(ConfigError::new("lifetime", "it must be at least one second, which is the unit of `exp`"));
        }
        Ok(())
    }
}

impl fmt::Debug for JwtSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtSigner")
            .field("lifetime", &self.lifetime)
            .field("backdate", &self.backdate)
            .finish_non_exhaustive()
    }
}

/// The payload of a token.
struct Claims<'a> {
    iss: &'a str,
    iat: u64,
    exp: u64,
    params: &'a AuthParams,
}

impl Serialize for Claims<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("iss", self.iss)?;
        map.serialize_entry("iat", &self.iat)?;
        map.serialize_entry("exp", &self.exp)?;
        for (key, value) in self.params.iter() {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}
