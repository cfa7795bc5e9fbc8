//! Tools for tests: [`FakeAiuta`], a fake of Aiuta's API, and [`ManualClock`], a clock that is set by hand.
//!
//! [`FakeAiuta`] stands at the far end of a request's path, in the place of Aiuta's servers. It checks credentials
//! strictly, stores uploaded images, can be told to fail, and records every request. A test can therefore check the
//! requests that a client really sends.
//!
//! # What is checked
//!
//! - **Which credential each operation accepts.** The table lists what the official SDKs send, according to their
//!   source code. `x-api-key` and a Bearer token are accepted for every operation, as in Aiuta's OpenAPI files.
//!   `x-user-id` is accepted only where the SDKs send it.
//! - **Tokens.** They are verified as by PyJWT, the library in Aiuta's documented example, without leeway.
//! - **Requests and responses.** They have the shapes of Aiuta's OpenAPI files. Operations that are not described there
//!   (the subscription's details, size and fit, analytics) answer `{}`.
//!
//! Aiuta does not document how the API compares a token's claims with the body. [`FakeAiuta`] is as strict as possible
//! while it accepts every published way to bind a token to a body; see [its rules](FakeAiuta#rules).
//!
//! # Example
//!
//! [`FakeAiuta`] is a Tower service, so that a test needs no network:
//!
//! ```
//! use bytes::Bytes;
//! use http::Request;
//! use http_body_util::Full;
//! use tower::{Layer, ServiceExt};
//! use tower_aiuta_auth::AiutaAuthLayer;
//! use tower_aiuta_auth::testing::{Credential, FakeAiuta};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower_aiuta_auth::BoxError> {
//! let aiuta = FakeAiuta::new();
//! let client = AiutaAuthLayer::api_key(aiuta.api_key())?.layer(aiuta.clone());
//!
//! let request = Request::get("https://api.aiuta.com/digital-try-on/v1/predefined_try_on_models")
//!     .body(Full::<Bytes>::default())?;
//! let response = client.oneshot(request).await?;
//!
//! assert_eq!(response.status(), 200);
//! assert_eq!(aiuta.requests()[0].credential(), Credential::ApiKey);
//! # Ok(())
//! # }
//! ```
//!
//! To test a client over real HTTP, call [`FakeAiuta::serve`] and send the requests to [`FakeServer::origin`].

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
pub use record::{Credential, Listener, RecordedRequest};
pub use server::FakeServer;
