//! Skeleton.
mod access;
mod body;
mod builder;
mod clock;
mod credential;
mod env;
mod error;
mod future;
mod jwt;
mod layer;
mod origin;
mod params;
mod secured;
mod service;
mod source;
#[cfg(feature = "testing")]
pub mod testing;
mod tokens;
mod trace;

pub use access::{Access, NoReplay};
pub use body::RequestBody;
pub use builder::AiutaAuthBuilder;
pub use clock::{Clock, SystemClock};
pub use error::{AuthError, AuthErrorKind, BoxError, ConfigError};
pub use future::ResponseFuture;
pub use jwt::{InvalidJwt, Jwt};
pub use layer::AiutaAuthLayer;
pub use params::{AuthParams, ParamValue};
pub use service::AiutaAuth;
#[cfg(any(feature = "signer", feature = "signer-rust-crypto"))]
pub use source::JwtSigner;
pub use source::{BoxTokenSource, SourceFn, TokenError, TokenRequest, TokenSource, source_fn};
pub use tokens::{TokenStats, Tokens};
