//! Stand-ins for tests: [`FakeAiuta`], which behaves as Aiuta's API does, and [`ManualClock`], a clock set by hand.
//!
//! They stand at the far end of a request's path: where an HTTP client would reach Aiuta, it reaches [`FakeAiuta`].
//! It checks credentials strictly, keeps what it is sent, can be told to fail, and remembers every request, so that a
//! test looks at what left the client and not at how the client is built.
//!
//! # What is checked, and by whose word
//!
//! - Which credential is good for which request: the table of what the official SDKs send, put together from their
//!   sources. `x-api-key` and a Bearer token are good for every operation, as Aiuta's OpenAPI files say.
//!   `x-user-id` is good where the SDKs send it, and nowhere else.
//! - Tokens are verified as PyJWT does, the library in Aiuta's documented example, with no leeway.
//! - Shapes of requests and answers: Aiuta's OpenAPI files. Operations that they do not describe (the subscription's
//!   details, size and fit, analytics) answer `{}`.
//!
//! How the API compares a token's claims with the body is not documented. [`FakeAiuta`] takes the strictest reading
//! under which every published way to bind a token works; see [its rules](FakeAiuta#rules).
//!
//! # Example
//!
//! As a Tower service, without a network:
//!
//! ```
//! use bytes::Bytes;
//! use http::Request;
//! use http_body_util::Full;
//! use tower::ServiceExt;
//! use tower_aiuta_auth::testing::{Credential, FakeAiuta};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower_aiuta_auth::BoxError> {
//! let aiuta = FakeAiuta::new();
//! let request = Request::get("https://api.aiuta.com/digital-try-on/v1/predefined_try_on_models")
//!     .header("x-api-key", aiuta.api_key())
//!     .body(Full::<Bytes>::default())?;
//!
//! let response = aiuta.clone().oneshot(request).await?;
//!
//! assert_eq!(response.status(), 200);
//! assert_eq!(aiuta.requests()[0].credential(), Credential::ApiKey);
//! # Ok(())
//! # }
//! ```
//!
//! Over real HTTP it is one line more: `let server = aiuta.serve().await?`, and [`FakeServer::origin`] tells where.

mod auth;
mod dates;
mod fake_aiuta;
mod faults;
mod manual_clock;
mod record;
mod reply;
mod routes;
mod server;
mod service;
mod store;
mod token;
mod upload;
mod validate;

pub use fake_aiuta::FakeAiuta;
pub use faults::{Fault, Hold};
pub use manual_clock::ManualClock;
pub use record::{Credential, Listener, Recorded};
pub use server::FakeServer;
