//! A [Tower](tower_layer) layer that authenticates every request to [Aiuta](https://aiuta.com)'s virtual try-on API.
//!
//! One [`AiutaAuthLayer`] on any Tower HTTP client; after it each request carries exactly the credential that Aiuta expects, and no
//! other host ever sees it.
//!
//! ```
//! use tower::{Service, ServiceBuilder, ServiceExt};
//! use tower_aiuta_auth::{AiutaAuthLayer, BoxError, JwtSigner};
//! # use bytes::Bytes;
//! # use http::{Request, Response};
//! # use http_body_util::Full;
//!
//! # async fn example() -> Result<(), BoxError> {
//! # let http_client = tower::service_fn(|request: Request<Full<Bytes>>| async move {
//! #     assert!(request.headers()["authorization"].to_str()?.starts_with("Bearer ey"));
//! #     Ok::<_, BoxError>(Response::new(()))
//! # });
//! let signer = JwtSigner::hs256("issuer-id", "issuer-secret")?;
//! let layer = AiutaAuthLayer::jwt("65f0c0ffee65f0c0ffee65f0", signer)?;
//! let mut client = ServiceBuilder::new().layer(layer).service(http_client);
//!
//! // The token is made for what this body says, cached, refreshed, and replaced if Aiuta refuses it.
//! let try_on = r#"{"uploaded_image_id":"user_image-06f5948c","sku_id":"dress-1"}"#;
//! let request = Request::post("https://api.aiuta.com/digital-try-on/v1/sku_images_operations")
//!     .header("content-type", "application/json")
//!     .body(Full::from(try_on))?;
//! let response = client.ready().await?.call(request).await?;
//! # Ok(())
//! # }
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(example()).unwrap();
//! ```
//!
//! # A request's path
//!
//! ```text
//! request ─▶ trusted origin? ──no──▶ inner service, untouched
//!               │yes
//!               ▼
//!         ApiKey ────────────────────────────────────▶ x-api-key ───────────┐
//!         Jwt ─▶ access? ── SubscriptionId ──────────────▶ x-user-id ───────────┤
//!                  └─ Jwt ─▶ params ─▶ token cache ── hit ─▶ Bearer ────┤
//!                                              └─ miss ─▶ flight ─▶ source  ▼
//!                                                                      inner service
//!                       forget that token, make another, replay once ◀── 401 │
//!                                                                            ▼
//!                                                                         response
//! ```
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | credential | what the caller holds: an API key, or a subscription id with a token source |
//! | [access](Access) | what one request needs: `Jwt` (a JWT), `SubscriptionId` (the subscription id), `Anonymous` (nothing) |
//! | [params](AuthParams) | the key–value pairs a JWT is made for; also the cache key |
//! | [partition](AuthParams#params-are-no-authorization) | whom the params belong to: part of the key and seen by the source, never signed |
//! | [token](Jwt) | the compact string and the lifetime read from it |
//! | [source](TokenSource) | makes a token for params; the official SDKs' `getJwt` |
//! | flight | one running call of the source, awaited by every request that needs its result |
//! | signer | makes JWTs in-process: [`JwtSigner`] |
//! | issuer | the server-side component that hands them out over HTTP: [`JwtIssuer`], asked by [`RemoteTokenSource`] |
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `signer` | yes | [`JwtSigner`], by `jsonwebtoken` on `aws-lc-rs` (needs a C compiler) |
//! | `signer-rust-crypto` | | [`JwtSigner`] by RustCrypto instead (needs none) |
//! | `tokio` | yes | fetches that outlive their callers, and timers; brings `tokio` (`rt`, `time`) |
//! | `tracing` | yes | a span for each fetch, events for replays, failed refreshes, wrong clocks and withheld credentials; brings `tracing` |
//! | `retry` | | [`AiutaRetryPolicy`], a policy for tower's `Retry`; brings `tower` (`retry`) |
//! | `remote` | | [`RemoteTokenSource`], tokens from your backend |
//! | `issuer` | | [`JwtIssuer`], the server-side component that hands out tokens |
//! | `axum` | | [`RequestBody`] for axum's `Body`; brings `axum-core` |
//! | `reqwest-middleware` | | [`AiutaAuthMiddleware`], [`same_origin_redirects`], [`RequestBody`] for reqwest's `Body`, with `remote` also `AIUTA_TOKEN_URL`; brings `reqwest` (without TLS), `reqwest-middleware` and `tokio` |
//! | `testing` | | [`testing::FakeAiuta`], a strict stand-in for the API, and [`testing::ManualClock`]; brings `hyper` |
//!
//! Without `tokio` no runtime is needed at all: a fetch is driven by the requests that wait for it.
//!
//! # What it is not for
//!
//! It does not call Aiuta's operations for you, retry failed requests, or follow redirects; it goes with the Tower layers that do. It
//! does not decide who may try on what: see [`AuthParams`] for what has to be checked before params are signed.

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

#[cfg(feature = "reqwest-middleware")]
pub use self::reqwest_middleware::{AiutaAuthMiddleware, same_origin_redirects};
pub use cache::{TokenCache, TokenCacheStats};
pub use clock::{Clock, SystemClock};
pub use error::{AuthError, AuthErrorKind, BoxError, ConfigError, TokenError};
#[cfg(feature = "issuer")]
pub use issuer::{IssuerError, JwtIssuer};
pub use jwt::{InvalidJwt, Jwt};
pub use layer::{AiutaAuth, AiutaAuthBuilder, AiutaAuthLayer, ResponseFuture};
pub use params::{AuthParams, ParamValue};
pub use request::access::{Access, NoReplay};
pub use request::body::RequestBody;
#[cfg(feature = "retry")]
pub use retry::AiutaRetryPolicy;
#[cfg(any(feature = "signer", feature = "signer-rust-crypto"))]
pub use source::JwtSigner;
#[cfg(feature = "remote")]
pub use source::RemoteTokenSource;
pub use source::{BoxTokenSource, FetchReason, SourceFn, TokenRequest, TokenSource, source_fn};

/// The README's code, compiled and run as doc tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
