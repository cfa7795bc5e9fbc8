//! [`JwtSigner`]: tokens made in this process, for integrators whose server is the client.

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

use super::{TokenError, TokenRequest, TokenSource};
use crate::error::ConfigError;
use crate::jwt::{Jwt, SCHEME};
use crate::params::{AuthParams, REGISTERED_CLAIMS};
use crate::request::credential::check_secret;

/// `{"alg":"HS256","typ":"JWT"}` in base64url.
const HEADER: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9";

/// Signs tokens in-process: HS256 (RFC 7518 §3.2) with the issuer's secret, as the server-side component that Aiuta documents.
///
/// The payload is `iss`, `iat`, `exp` and the params under their own names and with their own JSON types (rule G3).
///
/// Whoever holds the secret can start try-ons at the issuer's cost. It belongs on a server, and is wiped from memory when the signer is
/// dropped; `Debug` does not show it. Clones are cheap and share the issuer and its secret.
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
/// PyJWT and others refuse a token whose `iat` is in their future, so `iat` is set back a little
/// ([`backdate`](Self::backdate)); `exp` is not. A clock that is wrong by more is corrected by the layer, with
/// [`TokenRequest::now`].
///
/// HS256 is deterministic: the same params in the same second make the same token. When the last one was refused
/// ([`TokenRequest::force_refresh`]), `iat` is set back by one second more, so that the new token is a different one.
#[derive(Clone)]
pub struct JwtSigner {
    /// Shared by all clones.
    issuer: Arc<ArcSwap<Issuer>>,
    lifetime: Duration,
    backdate: Duration,
}

struct Issuer {
    id: String,
    /// Wipes itself when dropped.
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
        Ok(Self { id, key: EncodingKey::from_secret(secret) })
    }
}

impl JwtSigner {
    /// A signer for the issuer id and secret that Aiuta gave out. The secret is used as raw bytes.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if either is empty, or the issuer has a control character.
    pub fn hs256(issuer: impl Into<String>, secret: impl AsRef<[u8]>) -> Result<Self, ConfigError> {
        Ok(Self {
            issuer: Arc::new(ArcSwap::from_pointee(Issuer::new(issuer, secret)?)),
            lifetime: Duration::from_secs(60),
            backdate: Duration::from_secs(5),
        })
    }

    /// How long tokens are good for, in whole seconds from when they are made. Default: 60 s.
    #[must_use]
    pub fn lifetime(self, lifetime: Duration) -> Self {
        Self { lifetime, ..self }
    }

    /// How far `iat` is set back, in whole seconds. Default: 5 s.
    #[must_use]
    pub fn backdate(self, by: Duration) -> Self {
        Self { backdate: by, ..self }
    }

    /// Changes the issuer id and secret: this signer and all its clones use them from the next token on.
    ///
    /// Tokens that the old secret has signed stay in caches until they are forgotten: call [`TokenCache::clear`](crate::TokenCache::clear) afterwards, as
    /// [`AiutaAuthLayer::set_api_key`](crate::AiutaAuthLayer::set_api_key) shows. No request waits for the change.
    ///
    /// # Errors
    ///
    /// As [`hs256`](Self::hs256). Nothing is changed then.
    pub fn rotate(&self, issuer: impl Into<String>, secret: impl AsRef<[u8]>) -> Result<(), ConfigError> {
        self.issuer.store(Arc::new(Issuer::new(issuer, secret)?));
        Ok(())
    }

    fn sign(&self, request: &TokenRequest) -> Result<Jwt, TokenError> {
        let now = request.now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let earlier = self.backdate.as_secs().saturating_add(u64::from(request.force_refresh()));
        let issuer = self.issuer.load();
        let claims = Claims {
            iss: &issuer.id,
            iat: now.saturating_sub(earlier),
            exp: now.saturating_add(self.lifetime.as_secs()),
            params: request.params(),
        };
        let mut payload = Vec::with_capacity(256);
        serde_json::to_writer(&mut payload, &claims).map_err(TokenError::new)?;

        // `jsonwebtoken::encode` asks for a process-wide choice of backend and panics when a build has both; this one is ours.
        let signer =
            (backend::DEFAULT_PROVIDER.signer_factory)(&Algorithm::HS256, &issuer.key).map_err(TokenError::new)?;
        // `Bearer `, header, payload, signature: all of it in one buffer that does not grow, since it is the token's only copy.
        let mut token = Zeroizing::new(String::with_capacity(SCHEME.len() + HEADER.len() + payload.len() * 4 / 3 + 50));
        token.push_str(SCHEME);
        token.push_str(HEADER);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(payload, &mut token);
        let signed = &token.as_bytes()[SCHEME.len()..];
        let signature = Zeroizing::new(signer.try_sign(signed).map_err(TokenError::new)?);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(&*signature, &mut token);
        Ok(Jwt::made_here(token, claims.iat, claims.exp)?)
    }
}

impl TokenSource for JwtSigner {
    async fn token(&self, request: TokenRequest) -> Result<Jwt, TokenError> {
        if let Some((name, _)) = request.params().iter().find(|(name, _)| REGISTERED_CLAIMS.contains(name)) {
            return Err(TokenError::new(format!("a param is named `{name}`, which is a claim of the JWT itself")));
        }
        self.sign(&request)
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

/// The payload: `iss`, `iat`, `exp`, then the params.
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
