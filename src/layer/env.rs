//! Settings by environment variables: which scheme, where tokens come from, and where to.

use std::env;
use std::mem::take;

use zeroize::Zeroizing;

use crate::error::ConfigError;
use crate::layer::AiutaAuthBuilder;
use crate::layer::AiutaAuthLayer;

const API_KEY: &str = "AIUTA_API_KEY";
const SUBSCRIPTION_ID: &str = "AIUTA_SUBSCRIPTION_ID";
const JWT_ISSUER: &str = "AIUTA_JWT_ISSUER";
const JWT_SECRET: &str = "AIUTA_JWT_SECRET";
const ORIGIN: &str = "AIUTA_ORIGIN";

const TOKEN_URL: &str = "AIUTA_TOKEN_URL";

const JWT: [&str; 4] = [SUBSCRIPTION_ID, JWT_ISSUER, JWT_SECRET, TOKEN_URL];

impl AiutaAuthLayer {
    /// A layer by the environment:
    ///
    /// | variable | meaning |
    /// |---|---|
    /// | `AIUTA_API_KEY` | the ApiKey scheme with this key |
    /// | `AIUTA_SUBSCRIPTION_ID`, `AIUTA_JWT_ISSUER`, `AIUTA_JWT_SECRET` | the Jwt scheme, tokens made by a `JwtSigner` (feature `signer`) |
    /// | `AIUTA_SUBSCRIPTION_ID`, `AIUTA_TOKEN_URL` | the Jwt scheme, tokens from your backend at this URL: a `RemoteTokenSource` (feature `remote`) over reqwest (feature `reqwest-middleware`) |
    /// | `AIUTA_ORIGIN` | instead of `https://api.aiuta.com` |
    ///
    /// The token URL is `https`, or `http` for a loopback host. It is asked by `POST`, through the system's proxy if it is `https`, and within
    /// the default [`fetch_timeout`](AiutaAuthBuilder::fetch_timeout); redirects are not followed. Requests then have to be sent
    /// on a tokio runtime. **TLS** is what the program's reqwest is built with (its feature `rustls` or `native-tls`): without any, an `https`
    /// URL fails when the first token is fetched, with "scheme is not http".
    ///
    /// There is no variable for a session by which the backend knows this program: who needs one, another method or the partition's header
    /// builds the `RemoteTokenSource` by hand and gives it to [`jwt`](Self::jwt).
    ///
    /// # Errors
    ///
    /// [`ConfigError`], naming the variables, if none is set, both schemes are, half of one, or both ways to a token; for a value that can't
    /// work, an empty one for example; and if the program was built without a feature that a variable needs.
    pub fn from_env() -> Result<Self, ConfigError> {
        builder()?.build()
    }
}

/// A builder with what the environment says.
pub(crate) fn builder() -> Result<AiutaAuthBuilder, ConfigError> {
    let mut builder = AiutaAuthLayer::builder();
    if let Some(mut origin) = variable(ORIGIN)? {
        builder = builder.origins([take(&mut *origin)]).with_origins_name(ORIGIN);
    }
    let jwt = [variable(JWT[0])?, variable(JWT[1])?, variable(JWT[2])?, variable(JWT[3])?];
    match (variable(API_KEY)?, jwt) {
        (Some(mut key), [None, None, None, None]) => Ok(builder.api_key(take(&mut *key)).with_credential_name(API_KEY)),
        (None, [Some(id), Some(issuer), Some(secret), None]) => signed(builder, id, issuer, secret),
        (None, [Some(id), None, None, Some(url)]) => fetched(builder, id, url),
        (None, [None, None, None, None]) => Err(ConfigError::new(
            API_KEY,
            format!("set it, or {SUBSCRIPTION_ID} with {JWT_ISSUER} and {JWT_SECRET}, or with {TOKEN_URL}"),
        )),
        (Some(_), values) => Err(ConfigError::new(
            API_KEY,
            format!("it is set together with {}: decide for one scheme and unset the other", named(&values, true)),
        )),
        (None, [_, issuer, secret, Some(_)]) if issuer.is_some() || secret.is_some() => Err(ConfigError::new(
            TOKEN_URL,
            format!(
                "it is set together with {}: decide who makes the tokens, your backend or this program, and unset the other",
                named(&[None, issuer, secret, None], true)
            ),
        )),
        (None, values @ [.., Some(_)]) => Err(ConfigError::new(
            SUBSCRIPTION_ID,
            format!("missing, although {} is set: the Jwt scheme needs both", named(&values, true)),
        )),
        (None, [id, issuer, secret, None]) => {
            let values = [id, issuer, secret];
            Err(ConfigError::new(
                named(&values, false),
                format!(
                    "missing, although {} is set: the Jwt scheme needs all three, or {SUBSCRIPTION_ID} with {TOKEN_URL}",
                    named(&values, true)
                ),
            ))
        }
    }
}

#[cfg(any(feature = "signer", feature = "signer-rust-crypto"))]
fn signed(
    builder: AiutaAuthBuilder,
    mut id: Value,
    issuer: Value,
    secret: Value,
) -> Result<AiutaAuthBuilder, ConfigError> {
    let signer = crate::JwtSigner::hs256(issuer.as_str(), secret.as_bytes()).map_err(|error| {
        let variable = if error.setting() == "issuer" { JWT_ISSUER } else { JWT_SECRET };
        error.with_setting_name(variable)
    })?;
    Ok(builder.jwt(take(&mut *id), signer).with_credential_name(SUBSCRIPTION_ID))
}

#[cfg(not(any(feature = "signer", feature = "signer-rust-crypto")))]
fn signed(_: AiutaAuthBuilder, _: Value, _: Value, _: Value) -> Result<AiutaAuthBuilder, ConfigError> {
    Err(ConfigError::new(JWT_SECRET, "this program was built without the feature `signer` of tower-aiuta-auth"))
}

#[cfg(all(feature = "remote", feature = "reqwest-middleware"))]
fn fetched(builder: AiutaAuthBuilder, mut id: Value, url: Value) -> Result<AiutaAuthBuilder, ConfigError> {
    use crate::source::{RemoteClient, RemoteTokenSource};

    let client = RemoteClient::new(&url)
        .map_err(|error| ConfigError::new(TOKEN_URL, format!("reqwest can't make a client for it: {error}")))?;
    let issuer = RemoteTokenSource::new(url.as_str(), client).map_err(|error| error.with_setting_name(TOKEN_URL))?;
    Ok(builder.jwt(take(&mut *id), issuer).with_credential_name(SUBSCRIPTION_ID))
}

#[cfg(not(all(feature = "remote", feature = "reqwest-middleware")))]
fn fetched(_: AiutaAuthBuilder, _: Value, _: Value) -> Result<AiutaAuthBuilder, ConfigError> {
    let missing = match (cfg!(feature = "remote"), cfg!(feature = "reqwest-middleware")) {
        (true, _) => "the feature `reqwest-middleware`",
        (false, true) => "the feature `remote`",
        (false, false) => "the features `remote` and `reqwest-middleware`",
    };
    Err(ConfigError::new(TOKEN_URL, format!("this program was built without {missing} of tower-aiuta-auth")))
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

/// The names of those of [`JWT`] that are set, or are not.
fn named(values: &[Option<Value>], set: bool) -> String {
    let names = JWT.iter().zip(values).filter(|(_, value)| value.is_some() == set).map(|(name, _)| *name);
    names.collect::<Vec<_>>().join(", ")
}
