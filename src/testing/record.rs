//! What a [`FakeAiuta`](super::FakeAiuta) remembers of the requests that it got.

use std::fmt;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, Method, Uri, Version};

pub(super) const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
pub(super) const USER_ID: HeaderName = HeaderName::from_static("x-user-id");

/// The three headers that carry a credential.
pub(super) const CREDENTIALS: [HeaderName; 3] = [API_KEY, USER_ID, AUTHORIZATION];

/// One request, as it arrived, and what became of it.
///
/// `Debug` shows neither the query, nor the body, nor the value of any header.
#[derive(Clone)]
#[non_exhaustive]
pub struct Recorded {
    /// Where it arrived: at the API, or at the storage host.
    pub listener: Listener,
    /// The method.
    pub method: Method,
    /// The target as the service saw it: over HTTP/1 the path and query alone, else with scheme and host.
    pub uri: Uri,
    /// The version of HTTP.
    pub version: Version,
    /// The headers. In process, whether a value [is sensitive](http::HeaderValue::is_sensitive) can be seen too.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// The status that was answered: `None` while the request is held, or if it never got an answer.
    pub status: Option<u16>,
    /// Why the credentials were refused: this is never sent. It names no secret. `None` if they were not refused.
    pub refusal: Option<String>,
}

impl Recorded {
    /// Which credential the request carried, right or wrong.
    #[must_use]
    pub fn credential(&self) -> Credential {
        Credential::of(&self.headers)
    }
}

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorded")
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

/// The kind of credential on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credential {
    /// None of the three headers.
    None,
    /// `x-api-key`.
    ApiKey,
    /// `x-user-id`.
    UserId,
    /// `authorization`.
    Bearer,
    /// More than one of the three: Aiuta's SDKs never do that, and [`FakeAiuta`](super::FakeAiuta) refuses it.
    Several,
}

impl Credential {
    /// The credential among these headers.
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

/// What it is called, never what it says.
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

/// Where a request arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Listener {
    /// Aiuta's API.
    Api,
    /// The host of images, which no credential may reach.
    Storage,
}
