//! Verifies a token's signature, issuer and times as PyJWT does, without leeway.

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

/// The claims of a token.
pub(super) type Claims = Map<String, Value>;

/// Verifies a token and returns its claims. The error is the reason for the rejection and never contains the token.
///
/// Only HS256 with the raw bytes of the secret is accepted, and `iss` must be the issuer. Like PyJWT, this checks
/// `exp`, `iat` and `nbf` only if they are present, and drops the fraction of a number. Unlike PyJWT, it rejects times
/// that are strings of digits, and accepts any `aud`.
pub(super) fn verify(token: &str, issuer: &str, secret: &str, now: SystemTime) -> Result<Claims, &'static str> {
    let (message, signature) = token.rsplit_once('.').ok_or("the token has no signature")?;
    let (header, payload) = message.split_once('.').ok_or("the token has no payload")?;
    let header = object(header).ok_or("the token's header is not a JSON object in base64url")?;
    if header.get("alg").and_then(Value::as_str) != Some("HS256") {
        return Err("the token is not signed by HS256");
    }
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| "the token's signature is not base64url")?;
    if !is_signed_by(secret, message, &signature) {
        return Err("the token is not signed by the issuer's secret");
    }
    let claims = object(payload).ok_or("the token's payload is not a JSON object in base64url")?;
    if claims.get("iss").and_then(Value::as_str) != Some(issuer) {
        return Err("the token's `iss` is not the issuer");
    }
    let now = nanos(now);
    if time(&claims, "exp", "the token's `exp` is not a number")?.is_some_and(|exp| exp <= now) {
        return Err("the token has expired");
    }
    if time(&claims, "iat", "the token's `iat` is not a number")?.is_some_and(|iat| iat > now) {
        return Err("the token's `iat` is in the future");
    }
    if time(&claims, "nbf", "the token's `nbf` is not a number")?.is_some_and(|nbf| nbf > now) {
        return Err("the token's `nbf` is in the future");
    }
    Ok(claims)
}

/// Uses one backend explicitly. If a build has both backends of jsonwebtoken, `jsonwebtoken::decode` panics until the
/// program selects one for the whole process.
fn is_signed_by(secret: &str, message: &str, signature: &Vec<u8>) -> bool {
    let key = DecodingKey::from_secret(secret.as_bytes());
    (DEFAULT_PROVIDER.verifier_factory)(&Algorithm::HS256, &key)
        .is_ok_and(|verifier| verifier.verify(message.as_bytes(), signature).is_ok())
}

fn object(part: &str) -> Option<Claims> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// Returns a claim with a time in seconds as whole seconds, in nanoseconds since the Unix epoch.
fn time(claims: &Claims, name: &str, error: &'static str) -> Result<Option<i128>, &'static str> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let whole = value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
    let seconds = whole.or_else(|| value.as_f64().map(truncated)).ok_or(error)?;
    Ok(Some(seconds.saturating_mul(1_000_000_000)))
}

#[expect(clippy::cast_possible_truncation, reason = "the cast saturates at times that no clock reaches")]
fn truncated(seconds: f64) -> i128 {
    seconds as i128
}

fn nanos(time: SystemTime) -> i128 {
    let signed = |duration: std::time::Duration| i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX);
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => signed(since),
        Err(before) => -signed(before.duration()),
    }
}
