//! Authentication for Aiuta's virtual try-on API, as a Tower layer.
mod clock;
mod credential;
mod error;
mod jwt;
mod params;
mod source;
mod tokens;
mod trace;

pub use clock::{Clock, SystemClock};
pub use error::{AuthError, AuthErrorKind, BoxError, ConfigError};
pub use jwt::{InvalidJwt, Jwt};
pub use params::{AuthParams, ParamValue};
#[cfg(any(feature = "signer", feature = "signer-rust-crypto"))]
pub use source::JwtSigner;
pub use source::{BoxTokenSource, SourceFn, TokenError, TokenRequest, TokenSource, source_fn};
pub use tokens::{TokenStats, Tokens};
