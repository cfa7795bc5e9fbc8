//! A [Tower](tower_layer) layer that authenticates every request to [Aiuta](https://aiuta.com)'s virtual try-on API.
//!
//! Put one [`AiutaAuthLayer`] on any HTTP client that is a Tower service. Each request then carries the credential that
//! Aiuta expects for it. No credential is sent to another host.
//!
//! ```
//! use bytes::Bytes;
//! use http::Request;
//! use http_body_util::Full;
//! use tower::{ServiceBuilder, ServiceExt};
//! use tower_aiuta_auth::{AiutaAuthLayer, BoxError, JwtSigner, testing::FakeAiuta};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! // A stand-in for Aiuta's API, in the place of an HTTP client.
//! let aiuta = FakeAiuta::new();
//! aiuta.add_image("user_image-06f5948c");
//!
//! let signer = JwtSigner::hs256(aiuta.issuer(), aiuta.secret())?;
//! let layer = AiutaAuthLayer::jwt(aiuta.subscription_id(), signer)?;
//! let client = ServiceBuilder::new().layer(layer).service(aiuta.clone());
//!
//! // The token is made for the params in this body. It is cached, refreshed, and replaced if Aiuta rejects it.
//! let body = r#"{"uploaded_image_id":"user_image-06f5948c","sku_id":"dress-1"}"#;
//! let try_on = Request::post("https://api.aiuta.com/digital-try-on/v1/sku_images_operations")
//!     .header("content-type", "application/json")
//!     .body(Full::<Bytes>::from(body))?;
//! let response = client.oneshot(try_on).await?;
//! assert_eq!(response.status(), 200);
//! # Ok(())
//! # }
//! ```
//!
//! # A request's path
//!
//! ```text
//! request ─▶ trusted origin? ── no ──▶ inner service, unchanged
//!               │ yes
//!               ▼
//!         API key ───────────────────────────────────▶ x-api-key ──────┐
//!         JWT ─▶ access? ─┬─ Anonymous ───────────▶ no credential ─────┤
//!                         ├─ SubscriptionId ─────────▶ x-user-id ──────┤
//!                         └─ Jwt ─▶ params ─▶ token cache ─▶ Bearer ───┤
//!                                              │ miss        ▲         ▼
//!                                              └─▶ fetch ────┘   inner service
//!                                                                      │
//!         forget the token, fetch another, send once more ◀── 401 ─────┤
//!                                                                      ▼
//!                                                                  response
//! ```
//!
//! The layer asks which credential a request needs ([`Access`]) only where it has JWTs. With an API key, every request
//! gets the key unless [`Access::Anonymous`] is in its extensions.
//!
//! # Terms
//!
//! | term | meaning |
//! |---|---|
//! | credential | the secret or id that a request carries: an API key, a subscription id or a JWT |
//! | [access](Access) | the credential that one request needs: a JWT, the subscription id, or none |
//! | [params](AuthParams) | the key–value pairs that a JWT is made for; together with the partition, the cache key |
//! | [partition](AuthParams::with_partition) | the end user or tenant of params; visible to the source, never signed |
//! | [token](Jwt) | a JWT with the lifetime read from it |
//! | [token source](TokenSource) | makes a token for params, as `getJwt` does in the official SDKs |
//! | fetch | one call of the token source, shared by all requests that need its result |
//! | signer | [`JwtSigner`], a token source that signs JWTs in this process |
//! | issuer | [`JwtIssuer`], the server-side component that answers [`RemoteTokenSource`] with tokens over HTTP |
//! | rejected | Aiuta answered 401 to a token |
//! | denied | the token source refused to make a token |
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `signer` | yes | [`JwtSigner`], with `jsonwebtoken` on `aws-lc-rs` (needs a C compiler) |
//! | `signer-rust-crypto` | | [`JwtSigner`], with RustCrypto (needs no C compiler) |
//! | `tokio` | yes | fetches that outlive callers, refreshes ahead of expiry, timers; brings `tokio` (`rt`, `time`) |
//! | `tracing` | yes | a span for each fetch, and events for failures and other rare cases; brings `tracing` |
//! | `retry` | | [`AiutaRetryPolicy`], a policy for tower's `Retry`; brings `tower` (`retry`) |
//! | `remote` | | [`RemoteTokenSource`], which fetches tokens from your backend |
//! | `issuer` | | [`JwtIssuer`], the server-side component that issues tokens |
//! | `axum` | | [`RequestBody`] for axum's `Body`; brings `axum-core` |
//! | `reqwest-middleware` | | [`AiutaAuthMiddleware`], [`same_origin_redirects`], [`RequestBody`] for `reqwest::Body` |
//! | `reqwest-retry` | | [`AiutaRetryableStrategy`] for the crate `reqwest-retry`; needs `reqwest-middleware` |
//! | `testing` | | [`testing::FakeAiuta`], a strict stand-in for the API; [`testing::ManualClock`]; brings `hyper` |
//!
//! With `tracing`, the events report replays, failed refreshes, wrong clocks and withheld credentials. With
//! `reqwest-middleware`, the crate depends on `reqwest` (without TLS), `reqwest-middleware` and `tokio`. Together with
//! `remote`, that feature also adds `RemoteTokenSource::reqwest` and the variable `AIUTA_TOKEN_URL`.
//!
//! With `tokio`, runtimes need timers enabled, as for tower's own `Timeout`.
//!
//! Without `tokio`, no runtime is needed. The requests that wait for a fetch drive it, and a token is fetched again
//! when it has expired instead of being refreshed ahead of that.
//!
//! # What it is not for
//!
//! This crate does not call Aiuta's operations for you, retry failed requests or follow redirects. It works together
//! with the Tower layers that do. It does not decide who may try on what: see [`AuthParams`] for the checks to make
//! before params are signed.

#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr))]

mod cache;
mod clock;
mod error;
#[cfg(feature = "issuer")]
mod issuer;
mod jwt;
mod layer;
mod metrics;
mod params;
mod request;
#[cfg(feature = "reqwest-middleware")]
mod reqwest_middleware;
#[cfg(feature = "retry")]
mod retry;
mod source;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
mod trace;

#[cfg(feature = "reqwest-retry")]
pub use self::reqwest_middleware::AiutaRetryableStrategy;
#[cfg(feature = "reqwest-middleware")]
pub use self::reqwest_middleware::{AiutaAuthMiddleware, same_origin_redirects};
pub use cache::{TokenCache, TokenCacheStats};
pub use clock::{Clock, SystemClock};
pub use error::{AuthError, AuthErrorKind, BoxError, ConfigError, TokenError};
#[cfg(feature = "issuer")]
pub use issuer::{IssuerError, JwtIssuer};
pub use jwt::{InvalidJwt, Jwt};
pub use layer::{AiutaAuth, AiutaAuthBuilder, AiutaAuthLayer, AuthStats, ResponseFuture};
pub use params::{AuthParams, ParamValue};
pub use request::access::{Access, NoReplay};
pub use request::body::RequestBody;
#[cfg(feature = "retry")]
pub use retry::AiutaRetryPolicy;
#[cfg(any(feature = "signer", feature = "signer-rust-crypto"))]
pub use source::JwtSigner;
#[cfg(all(feature = "remote", feature = "reqwest-middleware"))]
pub use source::RemoteClient;
#[cfg(feature = "remote")]
pub use source::RemoteTokenSource;
pub use source::{BoxTokenSource, FetchReason, SourceFn, TokenRequest, TokenSource, source_fn};
