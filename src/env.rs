//! Settings by environment variables: which scheme, and where to.

use std::env;
use std::mem::take;

use zeroize::Zeroizing;

use crate::builder::AiutaAuthBuilder;
use crate::error::ConfigError;
use crate::layer::AiutaAuthLayer;

const API_KEY: &str = "AIUTA_API_KEY";
const SUBSCRIPTION_ID: &str = "AIUTA_SUBSCRIPTION_ID";
const JWT_ISSUER: &str = "AIUTA_JWT_ISSUER";
const JWT_SECRET: &str = "AIUTA_JWT_SECRET";
const ORIGIN: &str = "AIUTA_ORIGIN";

const JWT: [&str; 3] = [SUBSCRIPTION_ID, JWT_ISSUER, JWT_SECRET];

/// A builder with what the environment says.
pub(crate) fn builder() -> Result<AiutaAuthBuilder, ConfigError> {
    let mut builder = AiutaAuthLayer::builder();
    if let Some(mut origin) = variable(ORIGIN)? {
        builder = builder.origins([take(&mut *origin)]).origins_called(ORIGIN);
    }
    match (variable(API_KEY)?, [variable(JWT[0])?, variable(JWT[1])?, variable(JWT[2])?]) {
        (Some(mut key), [None, None, None]) => Ok(builder.api_key(take(&mut *key)).credential_called(API_KEY)),
        (None, [Some(id), Some(issuer), Some(secret)]) => jwt(builder, id, issuer, secret),
        (None, [None, None, None]) => Err(ConfigError::new(
            API_KEY,
            format!("set it, or all of {SUBSCRIPTION_ID}, {JWT_ISSUER} and {JWT_SECRET}"),
        )),
        (Some(_), values) => Err(ConfigError::new(
            API_KEY,
            format!("it is set together with {}: decide for one scheme and unset the other", named(&values, true)),
        )),
        (None, values) => Err(ConfigError::new(
            named(&values, false),
            format!("missing, although {} is set: the Jwt scheme needs all three", named(&values, true)),
        )),
    }
}

#[cfg(any(feature = "signer", feature = "signer-rust-crypto"))]
fn jwt(
    builder: AiutaAuthBuilder,
    mut id: Value,
    issuer: Value,
    secret: Value,
) -> Result<AiutaAuthBuilder, ConfigError> {
    let signer = crate::JwtSigner::hs256(issuer.as_str(), secret.as_bytes()).map_err(|error| {
        let variable = if error.setting() == "issuer" { JWT_ISSUER } else { JWT_SECRET };
        error.called(variable)
    })?;
    Ok(builder.jwt(take(&mut *id), signer).credential_called(SUBSCRIPTION_ID))
}

#[cfg(not(any(feature = "signer", feature = "signer-rust-crypto")))]
fn jwt(_: AiutaAuthBuilder, _: Value, _: Value, _: Value) -> Result<AiutaAuthBuilder, ConfigError> {
    Err(ConfigError::new(JWT_SECRET, "this program was built without the feature `signer` of tower-aiuta-auth"))
}

/// A variable's value, wiped when dropped.
type Value = Zeroizing<String>;

fn variable(name: &'static str) -> Result<Option<Value>, ConfigError> {
    match env::var(name) {
        Ok(value) if value.is_empty() => {
            Err(ConfigError::new(name, "it is set but empty: give it a value, or unset it"))
        }
        Ok(value) => Ok(Some(Zeroizing::new(value))),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(ConfigError::new(name, "it is not valid UTF-8")),
    }
}

/// The names of the variables of the Jwt scheme that are set, or are not.
fn named(values: &[Option<Value>; 3], set: bool) -> String {
    let names = JWT.iter().zip(values).filter(|(_, value)| value.is_some() == set).map(|(name, _)| *name);
    names.collect::<Vec<_>>().join(", ")
}
