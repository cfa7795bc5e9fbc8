//! [`AiutaAuthBuilder`]: every setting, checked once in [`build`](AiutaAuthBuilder::build).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{Method, Uri};
use zeroize::Zeroizing;

use crate::cache::{CacheConfig, ExpiryPolicy, TokenCache};
use crate::clock::{Clock, SystemClock};
use crate::error::ConfigError;
use crate::layer::AiutaAuthLayer;
use crate::layer::config::{Config, JwtScheme, Scheme};
use crate::params::{DEFAULT_SIGNED_FIELDS, check_fields};
use crate::request::access::{Access, AccessRule, AccessTable};
use crate::request::credential::secret_value;
use crate::request::origin::Origins;
use crate::source::{BoxTokenSource, TokenSource};

const DEFAULT_ORIGIN: &str = "https://api.aiuta.com";

/// The longest that a fetch may be given, so that no sum of times overflows.
const MAX_FETCH_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// As good as for ever, and still a time that can be added to another.
const MAX_LIFETIME: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Collects the settings of an [`AiutaAuthLayer`]; one credential is needed, everything else has a default.
///
/// ```
/// use std::time::Duration;
/// use tower_aiuta_auth::{AiutaAuthLayer, source_fn};
/// # async fn sign(_: tower_aiuta_auth::TokenRequest) -> Result<String, std::io::Error> { unimplemented!() }
///
/// let layer = AiutaAuthLayer::builder()
///     .jwt("65f0c0ffee65f0c0ffee65f0", source_fn(sign))
///     .origins(["https://aiuta.gateway.example"])
///     .base_path("/aiuta")
///     .fetch_timeout(Duration::from_secs(3))
///     .build()?;
/// # Ok::<(), tower_aiuta_auth::ConfigError>(())
/// ```
#[must_use = "a builder does nothing until `build`"]
pub struct AiutaAuthBuilder {
    credential: CredentialInput,
    credential_name: Option<&'static str>,
    origins: Vec<String>,
    origins_name: &'static str,
    plaintext_origins: bool,
    origin_form: bool,
    base_path: String,
    access_rule: Option<AccessRule>,
    signed_fields: Vec<String>,
    body_limit: usize,
    max_tokens: usize,
    max_concurrent_fetches: usize,
    refresh_ahead: f64,
    fallback_lifetime: Duration,
    fetch_timeout: Duration,
    replay_unauthorized: bool,
    clock: Arc<dyn Clock>,
}

/// The credentials given so far.
enum CredentialInput {
    Nothing,
    ApiKey(Zeroizing<String>),
    Jwt { subscription_id: Zeroizing<String>, source: BoxTokenSource },
    Both,
}

impl AiutaAuthBuilder {
    pub(crate) fn new() -> Self {
        Self {
            credential: CredentialInput::Nothing,
            credential_name: None,
            origins: vec![DEFAULT_ORIGIN.to_owned()],
            origins_name: "origins",
            plaintext_origins: false,
            origin_form: false,
            base_path: String::new(),
            access_rule: None,
            signed_fields: DEFAULT_SIGNED_FIELDS.map(str::to_owned).to_vec(),
            body_limit: 64 * 1024,
            max_tokens: 10_000,
            max_concurrent_fetches: 4_096,
            refresh_ahead: 0.25,
            fallback_lifetime: Duration::from_secs(60),
            fetch_timeout: Duration::from_secs(10),
            replay_unauthorized: true,
            clock: Arc::new(SystemClock),
        }
    }

    /// The ApiKey scheme: `x-api-key` with this key on every request.
    pub fn api_key(self, key: impl Into<String>) -> Self {
        let key = Zeroizing::new(key.into());
        let credential = match self.credential {
            CredentialInput::Nothing | CredentialInput::ApiKey(_) => CredentialInput::ApiKey(key),
            CredentialInput::Jwt { .. } | CredentialInput::Both => CredentialInput::Both,
        };
        Self { credential, ..self }
    }

    /// The Jwt scheme: a token from `source` where one is needed, otherwise `x-user-id` with the subscription id.
    pub fn jwt(self, subscription_id: impl Into<String>, source: impl TokenSource) -> Self {
        let subscription_id = Zeroizing::new(subscription_id.into());
        let credential = match self.credential {
            CredentialInput::Nothing | CredentialInput::Jwt { .. } => {
                CredentialInput::Jwt { subscription_id, source: BoxTokenSource::new(source) }
            }
            CredentialInput::ApiKey(_) | CredentialInput::Both => CredentialInput::Both,
        };
        Self { credential, ..self }
    }

    /// The origins that get credentials, instead of `https://api.aiuta.com`: `https://host` or `https://host:port`.
    ///
    /// Plain `http` is for loopback hosts only.
    pub fn origins<I>(self, origins: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self { origins: origins.into_iter().map(Into::into).collect(), ..self }
    }

    /// Whether `http` origins may be on other machines. Default: no.
    ///
    /// Dangerous: credentials go over the network in the clear, unless something below adds TLS, such as a mesh's sidecar.
    pub fn danger_allow_plaintext_origins(self, yes: bool) -> Self {
        Self { plaintext_origins: yes, ..self }
    }

    /// Whether requests with a relative URI (`/v1/…`), which name no origin, get credentials. Default: no.
    ///
    /// For clients that add the origin below this layer. A `Host` header, if there is one, must name a trusted origin.
    pub fn trust_origin_form(self, yes: bool) -> Self {
        Self { origin_form: yes, ..self }
    }

    /// What a gateway puts before Aiuta's paths, such as `/aiuta`. Default: nothing.
    pub fn base_path(self, prefix: impl Into<String>) -> Self {
        Self { base_path: prefix.into(), ..self }
    }

    /// Decides which credential a request needs before the table of Aiuta's operations is asked; `None` leaves it to the table.
    ///
    /// An [`Access`] in the request's extensions comes before it. It is called for every request to a trusted origin: it must be quick.
    ///
    /// ```
    /// use tower_aiuta_auth::{Access, AiutaAuthLayer};
    ///
    /// let builder = AiutaAuthLayer::builder()
    ///     .access_rule(|_method, uri| uri.path().starts_with("/healthz").then_some(Access::Anonymous));
    /// ```
    pub fn access_rule<F>(self, rule: F) -> Self
    where
        F: Fn(&Method, &Uri) -> Option<Access> + Send + Sync + 'static,
    {
        Self { access_rule: Some(Arc::new(rule)), ..self }
    }

    /// The fields of a try-on's JSON body that become params, so that the token is good for these values only. Default:
    /// `uploaded_image_id`, `sku_id`, `sku_ids`, `sku_catalog_name`, `product_id`.
    pub fn signed_fields<I>(self, fields: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self { signed_fields: fields.into_iter().map(Into::into).collect(), ..self }
    }

    /// How large a body may be that is read for its params, or kept to be sent again, in bytes. Default: 64 KiB.
    pub fn body_limit(self, bytes: usize) -> Self {
        Self { body_limit: bytes, ..self }
    }

    /// How many tokens the cache holds at most. Default: 10,000.
    ///
    /// It may hold up to 15 fewer, and evicts what was used least.
    pub fn max_tokens(self, tokens: usize) -> Self {
        Self { max_tokens: tokens, ..self }
    }

    /// How many calls of the source may run at once; more fail as [`Overloaded`](crate::AuthErrorKind::Overloaded). Default: 4,096.
    pub fn max_concurrent_fetches(self, flights: usize) -> Self {
        Self { max_concurrent_fetches: flights, ..self }
    }

    /// In which last part of its lifetime a token is refreshed while it is still used, from 0 to 1. Default: 0.25; 0.0 turns it off.
    ///
    /// A refresh never begins more than 5 minutes ahead.
    pub fn refresh_ahead(self, fraction: f64) -> Self {
        Self { refresh_ahead: fraction, ..self }
    }

    /// How long a token without `exp` is used. Default: 60 s.
    pub fn fallback_lifetime(self, lifetime: Duration) -> Self {
        Self { fallback_lifetime: lifetime, ..self }
    }

    /// How long one call of the source may take, up to a day. Default: 10 s.
    pub fn fetch_timeout(self, timeout: Duration) -> Self {
        Self { fetch_timeout: timeout, ..self }
    }

    /// Whether a request is sent once more, with a new token, after a 401 to a token that was out of the cache, or made by a wrong
    /// clock. Default: yes.
    ///
    /// A 401 means that nothing was started. For one request, [`NoReplay`](crate::NoReplay) does the same.
    pub fn replay_unauthorized(self, yes: bool) -> Self {
        Self { replay_unauthorized: yes, ..self }
    }

    /// The clock by which tokens are made and judged. Default: [`SystemClock`].
    ///
    /// If it is wrong by up to a day, the `Date` of Aiuta's next 401 tells, and the difference is made up for (rule H1).
    pub fn clock(self, clock: impl Clock) -> Self {
        Self { clock: Arc::new(clock), ..self }
    }

    /// Names the credential as the user gave it, in errors.
    pub(crate) fn with_credential_name(self, name: &'static str) -> Self {
        Self { credential_name: Some(name), ..self }
    }

    /// Names the origins as the user gave them, in errors.
    pub(crate) fn with_origins_name(self, name: &'static str) -> Self {
        Self { origins_name: name, ..self }
    }

    /// Checks all settings.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for the first that can't work; it names the setting.
    pub fn build(self) -> Result<AiutaAuthLayer, ConfigError> {
        self.check_numbers()?;
        check_fields("signed_fields", &self.signed_fields)?;
        let origins = Origins::new(&self.origins, self.origin_form, self.plaintext_origins)
            .map_err(|error| error.with_setting_name(self.origins_name))?;
        let access = AccessTable::new(&self.base_path, self.access_rule)?;
        let secret = |setting, mut secret: Zeroizing<String>| {
            secret_value(setting, std::mem::take(&mut *secret))
                .map_err(|error| error.with_setting_name(self.credential_name.unwrap_or(setting)))
        };
        let scheme = match self.credential {
            CredentialInput::ApiKey(key) => Scheme::ApiKey(ArcSwap::from_pointee(secret("api_key", key)?)),
            CredentialInput::Jwt { subscription_id, source } => Scheme::Jwt(Arc::new(JwtScheme {
                subscription_id: secret("subscription_id", subscription_id)?,
                token_cache: TokenCache::new(CacheConfig {
                    source,
                    clock: self.clock,
                    expiry: ExpiryPolicy {
                        refresh_ahead: self.refresh_ahead,
                        fallback_lifetime: self.fallback_lifetime.min(MAX_LIFETIME),
                    },
                    fetch_timeout: self.fetch_timeout,
                    max_tokens: self.max_tokens,
                    max_concurrent_fetches: self.max_concurrent_fetches,
                }),
                signed_fields: self.signed_fields,
                body_limit: self.body_limit,
                replay_unauthorized: self.replay_unauthorized,
            })),
            CredentialInput::Nothing => return Err(ConfigError::new("credential", "give one with `api_key` or `jwt`")),
            CredentialInput::Both => {
                return Err(ConfigError::new(
                    "credential",
                    "both `api_key` and `jwt` were given: decide for one scheme",
                ));
            }
        };
        Ok(AiutaAuthLayer::new(Config { origins, access, scheme }))
    }

    fn check_numbers(&self) -> Result<(), ConfigError> {
        let counts = [
            ("body_limit", self.body_limit),
            ("max_tokens", self.max_tokens),
            ("max_concurrent_fetches", self.max_concurrent_fetches),
        ];
        if let Some((setting, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return Err(ConfigError::new(setting, "it must be at least 1"));
        }
        if !(0.0..=1.0).contains(&self.refresh_ahead) {
            return Err(ConfigError::new("refresh_ahead", "it must be a number from 0.0 to 1.0"));
        }
        if self.fetch_timeout.is_zero() || self.fetch_timeout > MAX_FETCH_TIMEOUT {
            return Err(ConfigError::new("fetch_timeout", "it must be over zero and at most a day"));
        }
        Ok(())
    }
}

impl AiutaAuthLayer {
    /// A layer for the ApiKey scheme, with the defaults: `x-api-key` on every request to `https://api.aiuta.com`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if the key is empty or illegal in a header.
    pub fn api_key(key: impl Into<String>) -> Result<Self, ConfigError> {
        Self::builder().api_key(key).build()
    }

    /// A layer for the Jwt scheme, with the defaults: a token from `source` on requests that start a try-on, `x-user-id` on those that
    /// need no more.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if the subscription id is empty or illegal in a header.
    pub fn jwt(subscription_id: impl Into<String>, source: impl TokenSource) -> Result<Self, ConfigError> {
        Self::builder().jwt(subscription_id, source).build()
    }

    /// A builder, for everything else.
    pub fn builder() -> AiutaAuthBuilder {
        AiutaAuthBuilder::new()
    }
}

impl fmt::Debug for AiutaAuthBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AiutaAuthBuilder")
            .field("base_path", &self.base_path)
            .field("signed_fields", &self.signed_fields)
            .field("body_limit", &self.body_limit)
            .field("max_tokens", &self.max_tokens)
            .field("max_concurrent_fetches", &self.max_concurrent_fetches)
            .field("refresh_ahead", &self.refresh_ahead)
            .field("fallback_lifetime", &self.fallback_lifetime)
            .field("fetch_timeout", &self.fetch_timeout)
            .field("replay_unauthorized", &self.replay_unauthorized)
            .finish_non_exhaustive()
    }
}
