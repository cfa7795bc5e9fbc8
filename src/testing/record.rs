//! The records of the requests that a [`FakeAiuta`](super::FakeAiuta) received.

use std::fmt;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, Method, Uri, Version};

pub(super) const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
pub(super) const USER_ID: HeaderName = HeaderName::from_static("x-user-id");

/// The three headers that carry a credential.
pub(super) const CREDENTIALS: [HeaderName; 3] = [API_KEY, USER_ID, AUTHORIZATION];

/// A request that a [`FakeAiuta`](super::FakeAiuta) received, with the status of its response.
///
/// [`FakeAiuta::requests`](super::FakeAiuta::requests) returns these records. The `Debug` output contains neither the
/// query, nor the body, nor the values of headers.
#[derive(Clone)]
#[non_exhaustive]
pub struct RecordedRequest {
    /// The host that received the request: the API or the storage host.
    pub listener: Listener,
    /// The method.
    pub method: Method,
    /// The request target. Over HTTP/1 it consists of path and query; otherwise it includes the scheme and host.
    pub uri: Uri,
    /// The HTTP version.
    pub version: Version,
    /// The headers. Without a network, they also show which values are
    /// [marked as sensitive](http::HeaderValue::is_sensitive).
    pub headers: HeaderMap,
    /// The complete body.
    pub body: Bytes,
    /// The status of the response. `None` if there is no response yet, or if the connection was closed without one.
    pub status: Option<u16>,
    /// The reason why the credentials were rejected, `None` if they were accepted. It is never sent to the client
    /// and contains no secret.
    pub refusal: Option<String>,
}

impl RecordedRequest {
    /// Returns the kind of credential that the request carried, valid or not.
    #[must_use]
    pub fn credential(&self) -> Credential {
        Credential::of(&self.headers)
    }
}

impl fmt::Debug for RecordedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordedRequest")
            .field("listener", &self.listener)
            .field("method", &self.method)
            .field("path", &self.uri.path())
            .field("version", &self.version)
            .field("headers", &self.headers.keys().map(HeaderName::as_str).collect::<Vec<_>>())
            .field("body", &format_args!("{} bytes", self.body.len()))
            .field("status", &self.status)
            .field("refusal", &self.refusal)
            .finish()
    }
}

/// The kind of credential that a request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credential {
    /// No credential.
    None,
    /// An API key, in `x-api-key`.
    ApiKey,
    /// A subscription id, in `x-user-id`.
    UserId,
    /// The header `authorization`, normally with a JWT.
    Bearer,
    /// More than one of the three headers. [`FakeAiuta`](super::FakeAiuta) rejects such requests.
    Several,
}

impl Credential {
    /// Returns the kind of credential in `headers`.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let mut present = CREDENTIALS.into_iter().filter(|name| headers.contains_key(name));
        match (present.next(), present.next()) {
            (None, _) => Self::None,
            (Some(_), Some(_)) => Self::Several,
            (Some(name), None) if name == API_KEY => Self::ApiKey,
            (Some(name), None) if name == USER_ID => Self::UserId,
            (Some(_), None) => Self::Bearer,
        }
    }
}

/// Writes the kind of credential, never its value.
impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::ApiKey => "x-api-key",
            Self::UserId => "x-user-id",
            Self::Bearer => "Bearer JWT",
            Self::Several => "several!",
        })
    }
}

/// The host that received a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Listener {
    /// Aiuta's API.
    Api,
    /// The storage host of the images. It must never receive a credential.
    Storage,
}
