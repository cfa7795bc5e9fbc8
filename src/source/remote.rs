//! [`RemoteTokenSource`]: a token source that requests tokens from the integrator's backend, as the official SDKs do.

#[cfg(feature = "reqwest-middleware")]
mod client;
mod response;
mod service_error;

use std::fmt;
use std::future::poll_fn;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};
use http_body::Body;
use http_body_util::Full;
use tower_service::Service;

#[cfg(feature = "reqwest-middleware")]
pub use self::client::RemoteClient;
use super::{TokenError, TokenRequest, TokenSource, check_names};
use crate::error::{BoxError, ConfigError};
use crate::jwt::Jwt;
use crate::params::AuthParams;
use crate::params::percent;
use crate::request::body::{ReadError, read_limited};
use crate::request::credential::secret_value;
use crate::request::origin;

/// Maximum size in bytes of a response. A token may take 8 KiB of it.
const MAX_RESPONSE: usize = 16 * 1024;

/// A [`TokenSource`] that requests tokens from your backend, for programs that must not have the issuer's secret.
///
/// The backend is the server-side component that Aiuta documents, this crate's [`JwtIssuer`](crate::JwtIssuer), or a
/// server with the same interface. It is called through a Tower service that you provide. Add timeouts, retries, rate
/// limits and the backend's own authentication as layers around that service. The example `renewing_session` in the
/// repository has a layer that logs in again when a session ends. With the feature `reqwest-middleware`,
/// `RemoteTokenSource::reqwest` builds a suitable service.
///
/// ```
/// use std::time::Duration;
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use hyper_util::{client::legacy::Client, rt::TokioExecutor};
/// use tower::{ServiceBuilder, timeout::TimeoutLayer};
/// use tower_aiuta_auth::{AiutaAuthLayer, RemoteTokenSource};
///
/// # let connector = hyper_util::client::legacy::connect::HttpConnector::new();
/// // With a connector that supports TLS, such as that of hyper-rustls.
/// let http = Client::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(connector);
/// let backend = ServiceBuilder::new().layer(TimeoutLayer::new(Duration::from_secs(3))).service(http);
/// let source = RemoteTokenSource::new("https://shop.example/aiuta_jwt", backend)?
///     .header("x-api-token", "the backend's own API token")?
///     .partition_header("x-user")?;
/// let layer = AiutaAuthLayer::jwt("65f0c0ffee65f0c0ffee65f0", source)?;
/// # Ok::<(), tower_aiuta_auth::ConfigError>(())
/// ```
///
/// # Request
///
/// By default, the source sends a `POST` with the params as a JSON object. The params keep their types. A param with
/// the name of a registered claim, such as `exp`, is an error, and nothing is sent.
///
/// With [`method(Method::GET)`](Self::method), the params are in the query. They are strings then, as in the official
/// SDKs, and the items of a list are joined by `,`. A backend that signs the values it receives will sign strings.
///
/// After Aiuta has rejected a token with a 401, the request has the header `cache-control: no-cache`.
///
/// # Response
///
/// The response to a successful request has a 2xx status and a body of at most 16 KiB: `{"type":"jwt","token":"…"}`,
/// `{"token":"…"}`, `{"access_token":"…"}`, the token as a JSON string, or the token alone. Its content type does not
/// matter, but it must not be compressed. Any other response is an error:
///
/// | response | [`TokenError`] | [`AuthErrorKind`](crate::AuthErrorKind) |
/// |---|---|---|
/// | 401, 403 | denied | `TokenSource` |
/// | 408, 5xx | transient; `Retry-After` is [obeyed](TokenError::with_retry_after) | `TokenSource` |
/// | 429 | the same; without a partition only [for these params](TokenError::for_this_key) | `TokenSource` |
/// | 3xx (redirects are not followed), any other status | permanent | `TokenSource` |
/// | the service fails, the connection is lost | transient | `TokenSource` |
/// | the URL is `https`, and the service has no TLS | permanent | `TokenSource` |
/// | 2xx without a valid token, or with more than 16 KiB | permanent | `InvalidToken` |
///
/// A `Retry-After` with a date is measured from the response's own `Date`, so this machine's clock does not matter.
///
/// # Age of a token
///
/// The [age](Jwt::age) of a token is the time from its `iat` to the `Date` of the response, plus the `Age` that an HTTP
/// cache has added. This machine's clock does not matter then. Without `iat` or `Date`, the age is not known, and the
/// layer compares `exp` with its own clock.
///
/// A token is marked as [out of a cache](Jwt::out_of_cache) if the response's `Age` is over 1 second, or if its `iat`
/// is more than 10 seconds before the `Date`. If Aiuta rejects it, the request is replayed with a new token. So a
/// backend may cache its tokens, and a cache in front of the backend does no harm.
///
/// # Redirects
///
/// The service must not follow redirects. A redirect may lead to a server that must not provide tokens, and HTTP
/// clients take the headers of this source there, such as the partition and a credential for the backend. hyper-util's
/// client follows none. reqwest's client follows them by default. Use `RemoteTokenSource::reqwest`, or build a client
/// of your own with `reqwest::Client::builder().redirect(reqwest::redirect::Policy::none())`. Do not put tower-http's
/// `FollowRedirect` around the service.
///
/// # Secrets
///
/// Errors never contain any part of a response. The service's own error becomes the cause of the [`TokenError`]. With
/// the feature `reqwest-middleware`, the URL is removed from errors of reqwest, because its query may contain params.
///
/// `Debug` shows neither the values of headers nor the query of the URL.
#[derive(Clone)]
pub struct RemoteTokenSource<S> {
    url: Uri,
    service: S,
    method: Method,
    headers: HeaderMap,
    partition_header: Option<HeaderName>,
}

impl<S> RemoteTokenSource<S> {
    /// Creates a source that sends its requests to `url` through `service`.
    ///
    /// The URL may have a query. With `GET`, the params are appended to it.
    ///
    /// # Errors
    ///
    /// Returns [`ConfigError`] if `url` is not an absolute URL, contains user info or a fragment, or has a scheme other
    /// than `https`. `http` is accepted for loopback hosts.
    pub fn new(url: impl AsRef<str>, service: S) -> Result<Self, ConfigError> {
        Self::build(url.as_ref(), service, false)
    }

    /// Creates a source as [`new`](Self::new) does, but accepts `http` for any host.
    ///
    /// **This is dangerous**: tokens and your credentials for the backend are sent over the network unencrypted, unless
    /// a proxy on this machine adds TLS, such as the sidecar of a service mesh.
    ///
    /// # Errors
    ///
    /// Returns [`ConfigError`] if `url` is not an absolute `https` or `http` URL, or contains user info or a fragment.
    pub fn danger_allow_plaintext(url: impl AsRef<str>, service: S) -> Result<Self, ConfigError> {
        Self::build(url.as_ref(), service, true)
    }

    fn build(url: &str, service: S, plaintext: bool) -> Result<Self, ConfigError> {
        // The value is not shown, because a URL may contain a password or a token.
        let error = |problem| {
            Err(ConfigError::new(
                "url",
                format!("it {problem}; use the form https://host/path or https://host:port/path"),
            ))
        };
        let Ok(uri) = url.parse::<Uri>() else {
            return error("is not a URL");
        };
        let (scheme, authority, _) = match origin::endpoint(&uri) {
            Ok(endpoint) => endpoint,
            Err(problem) => return error(problem),
        };
        if url.contains('#') {
            return error("has a fragment, which is never sent to a server");
        }
        if *scheme == Scheme::HTTP && !plaintext && !origin::is_loopback(authority.host()) {
            return Err(ConfigError::new(
                "url",
                "it uses http to another machine, so others on the network could read the tokens; use https, \
                 or `RemoteTokenSource::danger_allow_plaintext` if a proxy on this machine adds TLS",
            ));
        }
        Ok(Self { url: uri, service, method: Method::POST, headers: HeaderMap::new(), partition_header: None })
    }

    /// Sets the method of the requests. With `GET`, the params are in the query. With any other method, they are in a
    /// JSON body. Defaults to `POST`.
    #[must_use]
    pub fn method(self, method: Method) -> Self {
        Self { method, ..self }
    }

    /// Adds a header to every request, such as a credential for the backend. Its value is marked sensitive.
    ///
    /// For a value that changes, add a layer around the service instead.
    ///
    /// # Errors
    ///
    /// Returns [`ConfigError`] if the name or the value is not allowed in a header, the name was already used, or the
    /// name is one that the source or the HTTP client sets: `cache-control`, `content-length`, `content-type`, `host`
    /// or `transfer-encoding`.
    pub fn header(mut self, name: impl AsRef<str>, value: impl Into<String>) -> Result<Self, ConfigError> {
        let name = self.unused_name("header", name.as_ref())?;
        self.headers.insert(name, secret_value("header", value.into())?);
        Ok(self)
    }

    /// Sends the params' [partition](AuthParams::partition), if there is one, in a header with this name. By default,
    /// the partition is not sent.
    ///
    /// The backend can use it to check that the owner of the params may use the image. If a header can't carry the
    /// partition unchanged, the fetch fails and nothing is sent. A partition must be visible ASCII with inner spaces
    /// only.
    ///
    /// # Errors
    ///
    /// Returns [`ConfigError`] for the names that [`header`](Self::header) does not accept.
    pub fn partition_header(mut self, name: impl AsRef<str>) -> Result<Self, ConfigError> {
        self.partition_header = Some(self.unused_name("partition_header", name.as_ref())?);
        Ok(self)
    }

    /// Checks that no other header is sent under `name`, so that none silently replaces another.
    fn unused_name(&self, setting: &'static str, name: &str) -> Result<HeaderName, ConfigError> {
        let name = HeaderName::try_from(name).map_err(|_| {
            ConfigError::new(setting, "the header's name is empty or contains a character that is not allowed")
        })?;
        if [CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING].contains(&name) {
            return Err(ConfigError::new(setting, format!("`{name}` is set by the token source or the HTTP client")));
        }
        if self.headers.contains_key(&name) || self.partition_header.as_ref() == Some(&name) {
            return Err(ConfigError::new(setting, format!("the header `{name}` is set twice")));
        }
        Ok(name)
    }

    fn request(&self, token_request: &TokenRequest) -> Result<Request<Full<Bytes>>, TokenError> {
        let mut headers = self.headers.clone();
        if let (Some(name), Some(partition)) = (&self.partition_header, token_request.params().partition()) {
            headers.insert(name, partition_value(partition)?);
        }
        if token_request.force_refresh() {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        }
        let mut request = Request::new(Full::default());
        if self.method == Method::GET {
            *request.uri_mut() = with_query(&self.url, token_request.params())?;
        } else {
            *request.uri_mut() = self.url.clone();
            *request.body_mut() = Full::from(serde_json::to_vec(token_request.params()).map_err(TokenError::new)?);
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        *request.method_mut() = self.method.clone();
        *request.headers_mut() = headers;
        Ok(request)
    }
}

impl<S, B> TokenSource for RemoteTokenSource<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Body + Send,
    B::Error: Into<BoxError>,
{
    async fn token(&self, request: TokenRequest) -> Result<Jwt, TokenError> {
        check_names(request.params())?;
        let http_request = self.request(&request)?;
        // Concurrent fetches share `self.service`, so each call polls its own clone ready.
        let mut service = self.service.clone();
        let failed = |error: BoxError| service_error::convert(error, &self.url);
        poll_fn(|cx| service.poll_ready(cx)).await.map_err(|error| failed(error.into()))?;
        let response = service.call(http_request).await.map_err(|error| failed(error.into()))?;
        let (head, body) = response.into_parts();
        response::check(head.status, &head.headers, &request)?;
        response::check_encoding(&head.headers)?;
        let body = read_limited(body, MAX_RESPONSE).await.map_err(|error| match error {
            ReadError::TooLarge => response::too_large(),
            ReadError::Failed(error) => failed(error.into()),
        })?;
        let token = response::token(&body)?;
        Ok(response::with_age(token, &head.headers, request.now()))
    }
}

/// Converts a partition into a header value. Two partitions must not look the same to the backend, but whitespace at
/// the ends of a value gets lost in HTTP, and servers decode bytes outside ASCII differently. Such a partition is an
/// error.
fn partition_value(partition: &str) -> Result<HeaderValue, TokenError> {
    let plain = !partition.is_empty() && partition.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    let value = HeaderValue::from_str(partition).ok().filter(|_| plain && partition.trim() == partition);
    let mut value = value.ok_or_else(|| {
        TokenError::new(
            "the params' partition can't be sent in a header; it must be visible ASCII, without spaces at its ends",
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Appends the params to the query of `url`, as strings.
fn with_query(url: &Uri, params: &AuthParams) -> Result<Uri, TokenError> {
    let mut target = url.path().to_owned();
    let mut separator = '?';
    if let Some(query) = url.query().filter(|query| !query.is_empty()) {
        target.extend(["?", query]);
        separator = '&';
    }
    for (name, value) in params.to_strings() {
        target.push(separator);
        percent::encode_into(&mut target, &name);
        target.push('=');
        percent::encode_into(&mut target, &value);
        separator = '&';
    }
    let mut parts = url.clone().into_parts();
    // The target is valid unless it is too long.
    let too_long = |_| TokenError::new("the params are too long for a query; use the method POST");
    parts.path_and_query = Some(target.try_into().map_err(too_long)?);
    Uri::from_parts(parts).map_err(TokenError::new)
}

impl<S> fmt::Debug for RemoteTokenSource<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.url.authority().map_or("", |authority| authority.as_str());
        f.debug_struct("RemoteTokenSource")
            .field(
                "url",
                &format_args!("{}://{authority}{}", self.url.scheme_str().unwrap_or_default(), self.url.path()),
            )
            .field("method", &self.method)
            .field("headers", &self.headers.keys().collect::<Vec<_>>())
            .field("partition_header", &self.partition_header)
            .finish_non_exhaustive()
    }
}
