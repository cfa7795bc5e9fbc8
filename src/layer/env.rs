//! Reads the credential and the trusted origin from environment variables, when a layer is built.

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
const TOKEN_URL: &str = "AIUTA_TOKEN_URL";
const ORIGIN: &str = "AIUTA_ORIGIN";

/// The variables of a layer that authenticates with JWTs.
const JWT: [&str; 4] = [SUBSCRIPTION_ID, JWT_ISSUER, JWT_SECRET, TOKEN_URL];

impl AiutaAuthLayer {
    /// Creates a layer with the credential and the origin from environment variables.
    ///
    /// | variables | the layer |
    /// |---|---|
    /// | `AIUTA_API_KEY` | authenticates with this API key |
    /// | `AIUTA_SUBSCRIPTION_ID`, `AIUTA_JWT_ISSUER`, `AIUTA_JWT_SECRET` | has a [`JwtSigner`] as its token source |
    /// | `AIUTA_SUBSCRIPTION_ID`, `AIUTA_TOKEN_URL` | has a [`RemoteTokenSource`] for this URL as its token source |
    /// | `AIUTA_ORIGIN` (optional) | trusts this origin instead of `https://api.aiuta.com` |
    ///
    /// Exactly one of the first three rows must be set. The second row needs the feature `signer` or
    /// `signer-rust-crypto`. The third row needs the features `remote` and `reqwest-middleware`, and requests must be
    /// sent on a tokio runtime.
    ///
    /// All other settings have their defaults. Use [`AiutaAuthBuilder::from_env`] to change them.
    ///
    /// # The token URL
    ///
    /// `AIUTA_TOKEN_URL` is an `https` URL, or an `http` URL of a loopback host. Tokens are fetched from it by `POST`
    /// with a reqwest client, which uses the system's proxies for `https` only. Redirects are not followed.
    ///
    /// The client uses the TLS backend that the program's reqwest is built with. If reqwest has none, each fetch from
    /// an `https` URL fails, with an error that names reqwest's features `rustls` and `native-tls`.
    ///
    /// For another method, or for headers such as a session cookie or the partition, build the [`RemoteTokenSource`]
    /// yourself and pass it to [`jwt`](Self::jwt).
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] that names the variables in these cases:
    ///
    /// - None of the first three rows is set, one is set only in part, or variables of different rows are mixed.
    /// - A variable is empty, is not valid UTF-8 or has an invalid value.
    /// - The program was built without a feature that a variable needs.
    ///
    /// [`JwtSigner`]: crate::JwtSigner
    /// [`RemoteTokenSource`]: crate::RemoteTokenSource
    pub fn from_env() -> Result<Self, ConfigError> {
        AiutaAuthBuilder::from_env()?.build()
    }
}

impl AiutaAuthBuilder {
    /// Creates a builder with the credential and the origin from environment variables, and the default for every other
    /// setting.
    ///
    /// [`AiutaAuthLayer::from_env`] describes the variables. The setters replace the values of the variables. Only the
    /// kind of credential can't be replaced. If both an API key and a token source are set, [`build`](Self::build)
    /// fails.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use tower_aiuta_auth::AiutaAuthBuilder;
    ///
    /// let layer = AiutaAuthBuilder::from_env()?.fetch_timeout(Duration::from_secs(3)).build()?;
    /// # Ok::<(), tower_aiuta_auth::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] in the cases that [`AiutaAuthLayer::from_env`] lists. Invalid characters in an API key
    /// or subscription id, and an invalid origin, are only reported by [`build`](Self::build).
    pub fn from_env() -> Result<Self, ConfigError> {
        let mut builder = Self::new();
        if let Some(mut origin) = variable(ORIGIN)? {
            builder = builder.origins([take(&mut *origin)]).with_origins_name(ORIGIN);
        }
        let jwt = [variable(JWT[0])?, variable(JWT[1])?, variable(JWT[2])?, variable(JWT[3])?];
        match (variable(API_KEY)?, jwt) {
            (Some(mut key), [None, None, None, None]) => {
                Ok(builder.api_key(take(&mut *key)).with_credential_name(API_KEY))
            }
            (None, [Some(id), Some(issuer), Some(secret), None]) => with_signer(builder, id, issuer, secret),
            (None, [Some(id), None, None, Some(url)]) => with_token_url(builder, id, url),
            (None, [None, None, None, None]) => Err(ConfigError::new(
                API_KEY,
                format!(
                    "it is missing; set it, or {SUBSCRIPTION_ID} with {JWT_ISSUER} and {JWT_SECRET}, \
                     or {SUBSCRIPTION_ID} with {TOKEN_URL}"
                ),
            )),
            (Some(_), values) => Err(ConfigError::new(
                API_KEY,
                format!(
                    "it is set together with {}; choose an API key or JWTs, and unset the other",
                    names(&values, Option::is_some)
                ),
            )),
            (None, [_, issuer, secret, Some(_)]) if issuer.is_some() || secret.is_some() => Err(ConfigError::new(
                TOKEN_URL,
                format!(
                    "it is set together with {}; choose one: your backend makes the tokens, or this program does",
                    names(&[None, issuer, secret, None], Option::is_some)
                ),
            )),
            (None, values @ [.., Some(_)]) => Err(ConfigError::new(
                SUBSCRIPTION_ID,
                format!("it is missing, although {} is set; set both", names(&values, Option::is_some)),
            )),
            (None, [id, issuer, secret, None]) => {
                let values = [id, issuer, secret];
                Err(ConfigError::new(
                    names(&values, Option::is_none),
                    format!(
                        "missing, although {} is set; set {SUBSCRIPTION_ID}, {JWT_ISSUER} and {JWT_SECRET}, \
                         or {SUBSCRIPTION_ID} and {TOKEN_URL}",
                        names(&values, Option::is_some)
                    ),
                ))
            }
        }
    }
}

#[cfg(any(feature = "signer", feature = "signer-rust-crypto"))]
fn with_signer(
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
fn with_signer(_: AiutaAuthBuilder, _: Value, _: Value, _: Value) -> Result<AiutaAuthBuilder, ConfigError> {
    Err(ConfigError::new(JWT_SECRET, "this program was built without the feature `signer` of tower-aiuta-auth"))
}

#[cfg(all(feature = "remote", feature = "reqwest-middleware"))]
fn with_token_url(builder: AiutaAuthBuilder, mut id: Value, url: Value) -> Result<AiutaAuthBuilder, ConfigError> {
    let source = crate::RemoteTokenSource::reqwest(url.as_str(), reqwest::Client::builder())
        .map_err(|error| error.with_setting_name(TOKEN_URL))?;
    Ok(builder.jwt(take(&mut *id), source).with_credential_name(SUBSCRIPTION_ID))
}

#[cfg(not(all(feature = "remote", feature = "reqwest-middleware")))]
fn with_token_url(_: AiutaAuthBuilder, _: Value, _: Value) -> Result<AiutaAuthBuilder, ConfigError> {
    let missing = match (cfg!(feature = "remote"), cfg!(feature = "reqwest-middleware")) {
        (true, _) => "the feature `reqwest-middleware`",
        (false, true) => "the feature `remote`",
        (false, false) => "the features `remote` and `reqwest-middleware`",
    };
    Err(ConfigError::new(TOKEN_URL, format!("this program was built without {missing} of tower-aiuta-auth")))
}

/// The value of a variable. It is wiped from memory when it is dropped.
type Value = Zeroizing<String>;

fn variable(name: &'static str) -> Result<Option<Value>, ConfigError> {
    match env::var(name) {
        Ok(value) if value.is_empty() => {
            Err(ConfigError::new(name, "it is set but empty; set it to a value, or unset it"))
        }
        Ok(value) => Ok(Some(Zeroizing::new(value))),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(ConfigError::new(name, "it is not valid UTF-8")),
    }
}

/// Joins the names of the variables in [`JWT`] whose values are `included`.
fn names(values: &[Option<Value>], included: impl Fn(&Option<Value>) -> bool) -> String {
    let names = JWT.iter().zip(values).filter(|(_, value)| included(value)).map(|(name, _)| *name);
    names.collect::<Vec<_>>().join(", ")
}
