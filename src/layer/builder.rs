//! [`AiutaAuthBuilder`]: collects the settings of a layer. [`build`](AiutaAuthBuilder::build) checks all of them, so
//! that no request fails because of a setting.

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
use crate::layer::stats::AuthCounters;
use crate::params::{DEFAULT_SIGNED_FIELDS, check_fields};
use crate::request::access::{Access, AccessRule, AccessTable};
use crate::request::credential::secret_value;
use crate::request::origin::Origins;
use crate::source::{BoxTokenSource, TokenSource};

const DEFAULT_ORIGIN: &str = "https://api.aiuta.com";

/// Upper limit of `fetch_timeout`, so that adding it to a time does not overflow.
const MAX_FETCH_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Upper limit of `fallback_lifetime`, so that adding it to a time does not overflow. Larger values are reduced to it.
const MAX_LIFETIME: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Builds an [`AiutaAuthLayer`].
///
/// Exactly one credential is required: [`api_key`](Self::api_key) or [`jwt`](Self::jwt). Everything else has a default.
/// If a setter is called more than once, the last call counts. Settings that concern access or tokens have no effect
/// with an API key, except for [`Access::Anonymous`].
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
    reject_on_forbidden: bool,
    allow_unbound_tokens: bool,
    clock: Arc<dyn Clock>,
}

/// The credentials that were set.
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
            reject_on_forbidden: false,
            allow_unbound_tokens: false,
            clock: Arc::new(SystemClock),
        }
    }

    /// Sets the API key, which every request carries as `x-api-key`.
    ///
    /// It must not be empty, contain a control character, or begin or end with whitespace.
    pub fn api_key(self, key: impl Into<String>) -> Self {
        let key = Zeroizing::new(key.into());
        let credential = match self.credential {
            CredentialInput::Nothing | CredentialInput::ApiKey(_) => CredentialInput::ApiKey(key),
            CredentialInput::Jwt { .. } | CredentialInput::Both => CredentialInput::Both,
        };
        Self { credential, credential_name: None, ..self }
    }

    /// Sets the subscription id and the token source of a layer that authenticates with JWTs.
    ///
    /// A request that needs a JWT carries a token from `source` as `Authorization: Bearer …`. The other requests carry
    /// the subscription id as `x-user-id`. [`Access`] explains which credential a request needs.
    ///
    /// The subscription id must not be empty, contain a control character, or begin or end with whitespace.
    pub fn jwt(self, subscription_id: impl Into<String>, source: impl TokenSource) -> Self {
        let subscription_id = Zeroizing::new(subscription_id.into());
        let credential = match self.credential {
            CredentialInput::Nothing | CredentialInput::Jwt { .. } => {
                CredentialInput::Jwt { subscription_id, source: BoxTokenSource::new(source) }
            }
            CredentialInput::ApiKey(_) | CredentialInput::Both => CredentialInput::Both,
        };
        Self { credential, credential_name: None, ..self }
    }

    /// Sets the trusted origins, as `https://host` or `https://host:port`. Defaults to `https://api.aiuta.com`.
    ///
    /// Only requests to these origins are authenticated. At least one is required. Plain `http` is accepted for
    /// loopback hosts only, unless [`danger_allow_plaintext_origins`](Self::danger_allow_plaintext_origins) is set. Use
    /// [`base_path`](Self::base_path) for the path prefix of a gateway.
    pub fn origins<I>(self, origins: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self { origins: origins.into_iter().map(Into::into).collect(), origins_name: "origins", ..self }
    }

    /// Sets whether `http` origins on other machines are accepted. Defaults to false.
    ///
    /// This is dangerous, because credentials are sent over the network unencrypted. Use it only if a proxy on the same
    /// machine adds TLS, such as the sidecar of a service mesh.
    pub fn danger_allow_plaintext_origins(self, allow: bool) -> Self {
        Self { plaintext_origins: allow, ..self }
    }

    /// Sets whether requests with a relative URI such as `/v1/…` are authenticated. Defaults to false.
    ///
    /// Use it for clients that add the origin to a request after it has passed this layer. If such a request has a
    /// `Host` header, the header must name a trusted origin. Otherwise the request is sent without credentials, and
    /// does not fail.
    pub fn trust_origin_form(self, trust: bool) -> Self {
        Self { origin_form: trust, ..self }
    }

    /// Sets the path prefix that a gateway puts before Aiuta's paths, such as `/aiuta`. Defaults to none.
    ///
    /// It must begin with a slash, and have no query or fragment.
    pub fn base_path(self, prefix: impl Into<String>) -> Self {
        Self { base_path: prefix.into(), ..self }
    }

    /// Sets a function that decides which credential a request needs. Defaults to none.
    ///
    /// The function takes precedence over the table of Aiuta's operations. If it returns `None`, the table decides. An
    /// [`Access`] in the request's extensions takes precedence over both. With an API key, only [`Access::Anonymous`]
    /// has an effect.
    ///
    /// The layer calls the function for every request to a trusted origin that has no [`Access`] in its extensions, so
    /// the function must not block.
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

    /// Sets the fields of a try-on's JSON body that are its params. A token is valid only for the values of these
    /// fields. Defaults to `uploaded_image_id`, `sku_id`, `sku_ids`, `sku_catalog_name` and `product_id`.
    ///
    /// At least one is required. A name must not be empty or a registered claim: `iss`, `sub`, `aud`, `exp`, `nbf`,
    /// `iat` or `jti`. The body is not read if the request's extensions contain [`AuthParams`](crate::AuthParams).
    pub fn signed_fields<I>(self, fields: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self { signed_fields: fields.into_iter().map(Into::into).collect(), ..self }
    }

    /// Sets the maximum size in bytes of a body that is buffered to read its params or to replay the request. Defaults
    /// to 64 KiB. Must be at least 1.
    ///
    /// If the params are in a larger body, the request fails with [`BodyTooLarge`](crate::AuthErrorKind::BodyTooLarge).
    /// Any other larger body is sent without being buffered, and its request is not replayed.
    pub fn body_limit(self, bytes: usize) -> Self {
        Self { body_limit: bytes, ..self }
    }

    /// Sets the maximum number of cached tokens. Defaults to 10,000. Must be at least 1.
    ///
    /// If the cache is full, tokens that are rarely used are evicted. The effective limit can be lower by up to 15,
    /// because the cache has shards of equal size.
    pub fn max_tokens(self, tokens: usize) -> Self {
        Self { max_tokens: tokens, ..self }
    }

    /// Sets the maximum number of concurrent calls of the token source. Defaults to 4,096. Must be at least 1.
    ///
    /// A request that needs one more call fails with [`Overloaded`](crate::AuthErrorKind::Overloaded). Once half of the
    /// calls are running, each [partition](crate::AuthParams::with_partition) gets at most a quarter of them, and at
    /// least one. So one user or tenant whose fetches hang does not stop the others.
    pub fn max_concurrent_fetches(self, fetches: usize) -> Self {
        Self { max_concurrent_fetches: fetches, ..self }
    }

    /// Sets the fraction of a token's lifetime, at its end, during which it is refreshed in the background while still
    /// being served. Defaults to 0.25. Must be from 0.0 to 0.9; 0.0 turns refreshing off.
    ///
    /// That period is at most 5 minutes long. A refresh starts in the first half of the period, at a different time for
    /// each token. So tokens that were fetched together are not refreshed together.
    ///
    /// Refreshing needs the feature `tokio` and a tokio runtime. Without them, a token is fetched again after it has
    /// expired.
    pub fn refresh_ahead(self, fraction: f64) -> Self {
        Self { refresh_ahead: fraction, ..self }
    }

    /// Sets the lifetime of tokens without an `exp` claim, from the start of their fetch. Defaults to 60 seconds.
    pub fn fallback_lifetime(self, lifetime: Duration) -> Self {
        Self { fallback_lifetime: lifetime, ..self }
    }

    /// Sets the maximum duration of one call of the token source. Defaults to 10 seconds. Must be more than zero, and
    /// at most one day.
    ///
    /// When it has passed, the call is dropped and the requests that wait for it fail with
    /// [`FetchTimeout`](crate::AuthErrorKind::FetchTimeout). If the first token can't be used and the source is asked a
    /// second time, both calls share this duration.
    ///
    /// A token source must not need a token of the layer that calls it. The layer detects this and fails at once, with
    /// [`Recursive`](crate::AuthErrorKind::Recursive). It can't detect a request that the source sends in a task of its
    /// own. That one waits for itself until this timeout.
    ///
    /// With the feature `tokio`, the runtime must have timers enabled. Without a runtime there is no timer. Instead,
    /// the [`clock`](Self::clock) is checked when a waiting request is polled, or when another request needs the token.
    pub fn fetch_timeout(self, timeout: Duration) -> Self {
        Self { fetch_timeout: timeout, ..self }
    }

    /// Sets whether a request is sent a second time, with a new token, if its token is rejected with a 401. Defaults to
    /// true.
    ///
    /// A request is replayed only if a new token can help. This is the case if the rejected token came from the layer's
    /// cache or [from a cache of the source](crate::Jwt::out_of_cache), has expired, or was made with the time of a
    /// wrong clock. If several tokens for the same params are rejected in a row, the next one is fetched after a wait
    /// of 1 to 30 seconds. Until then requests carry the last token, and are not replayed.
    ///
    /// Aiuta does not start any work for a request that it answers with 401. The body is buffered for the replay, up to
    /// [`body_limit`](Self::body_limit). A larger body, or one of unknown length that need not be read for its params,
    /// is sent only once. Use the extension [`NoReplay`](crate::NoReplay) to turn replays off for a single request.
    ///
    /// # What a replay costs
    ///
    /// - If the replay fails on the wire, the caller gets that error, and the 401 is lost. The request may have been
    ///   accepted, so treat the error as after any lost connection.
    /// - The response with the 401 is kept until there is a new token, and dropped before the replay is sent. While it
    ///   is kept, it may occupy a connection. If the token source sends its requests through a pool of a single
    ///   connection that it shares with the layer, it waits until [`fetch_timeout`](Self::fetch_timeout), and the
    ///   caller gets the 401. Give the source a client of its own, or a pool with more connections.
    /// - Redirects that are followed inside the layer are not seen. If the target of a redirect answers 401, the
    ///   request is sent again although the first one may have been accepted. Follow redirects outside the layer.
    pub fn replay_unauthorized(self, replay: bool) -> Self {
        Self { replay_unauthorized: replay, ..self }
    }

    /// Sets whether a 403 to a JWT is treated as a 401. Defaults to false.
    ///
    /// Use it with a gateway that answers 403 to a token that has expired or was revoked. The layer then forgets the
    /// token, and replays the request in the same cases as after a 401. Aiuta itself answers 401 to such a token.
    pub fn reject_on_forbidden(self, reject: bool) -> Self {
        Self { reject_on_forbidden: reject, ..self }
    }

    /// Sets whether a request that needs a JWT but has no params gets a token without params. Defaults to false: the
    /// request fails with [`MissingParams`](crate::AuthErrorKind::MissingParams).
    ///
    /// A token without params is valid for any request of its subscription, so never give one to a browser or an app.
    /// The layer needs one for operations that no official SDK uses with JWTs, such as listing SKU items. A request
    /// that starts a try-on never gets one, and neither does a request that a server may take for the start of a
    /// try-on.
    ///
    /// Instead of this setting, you can insert [`AuthParams`](crate::AuthParams) into the extensions of the requests.
    pub fn allow_unbound_tokens(self, allow: bool) -> Self {
        Self { allow_unbound_tokens: allow, ..self }
    }

    /// Sets the clock that tells token sources the time and measures how long tokens are used. Defaults to
    /// [`SystemClock`].
    ///
    /// If the clock is wrong by up to a day, the `Date` of Aiuta's next 401 shows this. The request is then replayed
    /// with a token that is made with the corrected time. If Aiuta accepts that token, sources get the corrected time
    /// for an hour, or until a `Date` agrees with the clock. See
    /// [`TokenCacheStats::clock_offset`](crate::TokenCacheStats::clock_offset).
    pub fn clock(self, clock: impl Clock) -> Self {
        Self { clock: Arc::new(clock), ..self }
    }

    /// Sets the name that errors use for the API key or the subscription id, instead of the name of the setter.
    ///
    /// A later call of the setter resets this name, because the value then no longer comes from the environment.
    pub(crate) fn with_credential_name(self, name: &'static str) -> Self {
        Self { credential_name: Some(name), ..self }
    }

    /// Sets the name that errors use for the origins. A later call of the setter resets this name.
    pub(crate) fn with_origins_name(self, name: &'static str) -> Self {
        Self { origins_name: name, ..self }
    }

    /// Checks all settings, and builds the layer.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] that names the first setting that is missing or invalid. The settings of the token
    /// source are checked, too, with [`TokenSource::check`].
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
        if let CredentialInput::Jwt { source, .. } = &self.credential {
            source.check()?;
        }
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
                reject_on_forbidden: self.reject_on_forbidden,
                allow_unbound_tokens: self.allow_unbound_tokens,
            })),
            CredentialInput::Nothing => {
                return Err(ConfigError::new("credential", "it is missing; set it with `api_key` or `jwt`"));
            }
            CredentialInput::Both => {
                return Err(ConfigError::new("credential", "both `api_key` and `jwt` are set; choose one"));
            }
        };
        Ok(AiutaAuthLayer::new(Config { origins, access, scheme, counters: AuthCounters::default() }))
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
        if !(0.0..=0.9).contains(&self.refresh_ahead) {
            return Err(ConfigError::new("refresh_ahead", "it must be a number from 0.0 to 0.9"));
        }
        if self.fetch_timeout.is_zero() || self.fetch_timeout > MAX_FETCH_TIMEOUT {
            return Err(ConfigError::new("fetch_timeout", "it must be more than zero, and at most one day"));
        }
        Ok(())
    }
}

impl AiutaAuthLayer {
    /// Creates a layer that authenticates with an API key, with the default settings.
    ///
    /// Every request to `https://api.aiuta.com` carries the key as `x-api-key`.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] if the key is empty, contains a control character, or begins or ends with whitespace.
    pub fn api_key(key: impl Into<String>) -> Result<Self, ConfigError> {
        Self::builder().api_key(key).build()
    }

    /// Creates a layer that authenticates with JWTs, with the default settings.
    ///
    /// Requests to `https://api.aiuta.com` that need a JWT, such as those that start a try-on, carry a token from
    /// `source` as `Authorization: Bearer …`. The others carry the subscription id as `x-user-id`.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] if the subscription id is empty, contains a control character, or begins or ends with
    /// whitespace.
    pub fn jwt(subscription_id: impl Into<String>, source: impl TokenSource) -> Result<Self, ConfigError> {
        Self::builder().jwt(subscription_id, source).build()
    }

    /// Creates a builder with the default settings and no credential.
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
            .field("reject_on_forbidden", &self.reject_on_forbidden)
            .field("allow_unbound_tokens", &self.allow_unbound_tokens)
            .finish_non_exhaustive()
    }
}
