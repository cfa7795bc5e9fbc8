//! [`RemoteTokenSource`]: tokens from the integrator's backend, asked as the official SDKs ask it.

#[cfg(feature = "reqwest-middleware")]
mod client;
mod response;

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
pub(crate) use self::client::Client;
use super::{TokenError, TokenRequest, TokenSource};
use crate::error::{BoxError, ConfigError};
use crate::jwt::Jwt;
use crate::params::AuthParams;
use crate::params::percent;
use crate::request::body::read_limited;
use crate::request::credential::secret_value;
use crate::request::origin;

/// The longest answer that is read, in bytes. A token may have 8 KiB.
const MAX_ANSWER: usize = 16 * 1024;

/// Asks the integrator's backend for tokens, as the official SDKs' `getJwt` does: for programs that may not have the issuer's secret.
///
/// The backend is the server-side component that Aiuta documents, this crate's [`JwtIssuer`](crate::JwtIssuer), or anything that
/// answers alike. It is reached through a Tower service of yours, so that timeouts, retries, rate limits and the session by which the
/// backend knows you are layers around it.
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
/// let http = Client::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(connector); // hyper-rustls's, say
/// let backend = ServiceBuilder::new().layer(TimeoutLayer::new(Duration::from_secs(3))).service(http);
/// let issuer = RemoteTokenSource::new("https://shop.example/aiuta_jwt", backend)?
///     .header("x-api-token", "what the backend knows us by")?
///     .partition_header("x-user")?;
/// let layer = AiutaAuthLayer::jwt("65f0c0ffee65f0c0ffee65f0", issuer)?;
/// # Ok::<(), tower_aiuta_auth::ConfigError>(())
/// ```
///
/// # The request
///
/// `POST` with the params as a JSON object, their types kept. With [`method(Method::GET)`](Self::method) they are in the query, flattened
/// to strings as the SDKs do it, lists joined by `,`; a backend that signs what it gets then signs strings. After a 401 from Aiuta it
/// has `cache-control: no-cache`.
///
/// # The answer
///
/// Any 2xx, whatever its content type, of at most 16 KiB: `{"type":"jwt","token":"…"}`, `{"token":"…"}`, or the bare token.
///
/// | otherwise | [`TokenError`] | [`AuthErrorKind`](crate::AuthErrorKind) |
/// |---|---|---|
/// | 401, 403 | denied | `TokenSource` |
/// | 408, 429, 5xx | transient; `Retry-After` is obeyed (rule G2), for the partition if there is one | `TokenSource` |
/// | a redirect, which is not followed, or another 4xx | permanent | `TokenSource` |
/// | the service fails, the connection breaks | transient | `TokenSource` |
/// | a 2xx without a token, or over 16 KiB | permanent | `InvalidToken` |
///
/// No error shows what was answered. The service's own error is the cause of ours, as it is.
///
/// `Debug` shows neither the values of headers nor the URL's query.
#[derive(Clone)]
pub struct RemoteTokenSource<S> {
    url: Uri,
    service: S,
    method: Method,
    headers: HeaderMap,
    partition_header: Option<HeaderName>,
}

impl<S> RemoteTokenSource<S> {
    /// Asks at `url`, through `service`. A query that the URL has is kept.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] unless it is a whole `https` URL, or `http` to a loopback host, without user info and fragment.
    pub fn new(url: impl AsRef<str>, service: S) -> Result<Self, ConfigError> {
        Self::at(url.as_ref(), service, false)
    }

    /// As [`new`](Self::new), but `http` may go to other machines.
    ///
    /// Dangerous: tokens, and what the backend knows you by, go over the network in the clear, unless something below adds TLS, such
    /// as a mesh's sidecar.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] unless it is a whole `https` or `http` URL, without user info and fragment.
    pub fn danger_allow_plaintext(url: impl AsRef<str>, service: S) -> Result<Self, ConfigError> {
        Self::at(url.as_ref(), service, true)
    }

    fn at(url: &str, service: S, plaintext: bool) -> Result<Self, ConfigError> {
        // The value is not shown: a URL may have a password or a token in it.
        let error = |problem| {
            Err(ConfigError::new(
                "url",
                format!("it {problem}; it takes the form https://host/path or https://host:port/path"),
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
            return error("has a fragment, which is never sent");
        }
        if *scheme == Scheme::HTTP && !plaintext && !origin::is_loopback(authority.host()) {
            return Err(ConfigError::new(
                "url",
                "it is http to another machine, where everyone on the way could read the tokens; use https \
                 (or `RemoteTokenSource::danger_allow_plaintext`, if TLS is added on this machine)",
            ));
        }
        Ok(Self { url: uri, service, method: Method::POST, headers: HeaderMap::new(), partition_header: None })
    }

    /// How the backend is asked. Default: `POST`. With `GET` the params are in the query; with any other method they are a JSON body.
    #[must_use]
    pub fn method(self, method: Method) -> Self {
        Self { method, ..self }
    }

    /// Sends a header with every request, marked sensitive. For a session that changes, put a layer around the service.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if the name or the value is illegal in a header, or the name is given twice or is one that this type sets itself.
    pub fn header(mut self, name: impl AsRef<str>, value: impl Into<String>) -> Result<Self, ConfigError> {
        let name = self.free_name("header", name.as_ref())?;
        self.headers.insert(name, secret_value("header", value.into())?);
        Ok(self)
    }

    /// Tells the backend by this header whom a token is for: the params' [partition](AuthParams::partition), where there is one.
    /// Default: it is not told.
    ///
    /// A partition that a header can't carry unchanged (visible ASCII, no blank at either end) is an error, and nothing is sent.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if the name is illegal in a header, given twice, or one that this type sets itself.
    pub fn partition_header(mut self, name: impl AsRef<str>) -> Result<Self, ConfigError> {
        self.partition_header = Some(self.free_name("partition_header", name.as_ref())?);
        Ok(self)
    }

    /// A header's name that nothing else is sent under: none replaces another in silence.
    fn free_name(&self, setting: &'static str, name: &str) -> Result<HeaderName, ConfigError> {
        let name = HeaderName::try_from(name)
            .map_err(|_| ConfigError::new(setting, "its name is empty or has a character that is illegal there"))?;
        if [CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING].contains(&name) {
            return Err(ConfigError::new(setting, format!("`{name}` is set by the issuer or the HTTP client itself")));
        }
        if self.headers.contains_key(&name) || self.partition_header.as_ref() == Some(&name) {
            return Err(ConfigError::new(setting, format!("`{name}` is given twice")));
        }
        Ok(name)
    }

    fn request(&self, asked: &TokenRequest) -> Result<Request<Full<Bytes>>, TokenError> {
        let mut headers = self.headers.clone();
        if let (Some(name), Some(partition)) = (&self.partition_header, asked.params().partition()) {
            headers.insert(name, partition_value(partition)?);
        }
        if asked.force_refresh() {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        }
        let mut request = Request::new(Full::default());
        if self.method == Method::GET {
            *request.uri_mut() = with_query(&self.url, asked.params())?;
        } else {
            *request.uri_mut() = self.url.clone();
            *request.body_mut() = Full::from(serde_json::to_vec(asked.params()).map_err(TokenError::new)?);
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
        let asked = self.request(&request)?;
        // A clone of our own, polled ready for this call: other calls may be waiting for theirs.
        let mut service = self.service.clone();
        poll_fn(|cx| service.poll_ready(cx)).await.map_err(TokenError::transient)?;
        let (head, body) = service.call(asked).await.map_err(TokenError::transient)?.into_parts();
        response::check(head.status, &head.headers, request.now())?;
        let body = read_limited(body, MAX_ANSWER).await.map_err(response::unreadable)?;
        response::token(&body)
    }
}

/// Two partitions must not look the same to the backend: blanks at the ends get lost on the way, and what is no ASCII is read as one
/// likes.
fn partition_value(partition: &str) -> Result<HeaderValue, TokenError> {
    let plain = !partition.is_empty() && partition.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    let value = HeaderValue::from_str(partition).ok().filter(|_| plain && partition.trim() == partition);
    let mut value = value.ok_or_else(|| {
        TokenError::new(
            "the params' partition can't go into a header: it is not visible ASCII without blanks at its ends",
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// The URL with the params at the end of its query, as strings.
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
    // Only its length can be wrong.
    let too_long = |_| TokenError::new("the params are too long for a query: ask with POST");
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
