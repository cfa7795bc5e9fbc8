//! [`JwtIssuer`]: the server-side component that issues tokens to clients.
//!
//! It answers the requests of [`RemoteTokenSource`](crate::RemoteTokenSource) and of the official SDKs' `getJwt`:
//!
//! ```text
//! request ─▶ params, strictly validated ─▶ authorize (your function) ─▶ signer ─▶ {"type":"jwt","token":"…"}
//!                         └───────────────────────────┴───────────────────┴────▶ IssuerError
//! ```

mod query;
mod rejection;

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;
use tower_service::Service;
use zeroize::Zeroizing;

pub use self::rejection::IssuerError;
use crate::clock::{Clock, SystemClock};
use crate::error::ConfigError;
use crate::jwt::Jwt;
use crate::params::{AuthParams, DEFAULT_SIGNED_FIELDS, GENERATED_IMAGE_ID, check_fields, json};
use crate::request::body::{ReadError, read_limited};
use crate::request::media::{Content, MediaType};
use crate::source::{BoxTokenSource, TokenRequest, TokenSource};

/// Maximum size of a body in bytes. Params are limited to 4 KiB, and JSON may add whitespace and escapes.
const MAX_BODY: usize = 16 * 1024;

/// A Tower service that issues tokens: the server-side component that Aiuta asks integrators to write.
///
/// Mount it at any path [in axum](#in-axum) or [in hyper](#in-hyper). Its clients are the official SDKs in apps and
/// browsers, through their `getJwt`, and servers that use [`RemoteTokenSource`](crate::RemoteTokenSource).
///
/// You decide who may have which token, with the function `authorize`. It receives the head of the request and the
/// params. The head's extensions contain what your middleware put there, for example the user of the session.
/// `authorize` returns the params to sign, or an [`IssuerError`].
///
/// ```
/// use http::request::Parts;
/// use tower_aiuta_auth::{AuthParams, IssuerError, JwtIssuer, JwtSigner};
///
/// #[derive(Clone)]
/// struct User(String); // inserted into the extensions by the middleware that checks the session
/// # impl User { async fn owns(&self, _: &str) -> std::io::Result<bool> { Ok(true) } }
///
/// async fn authorize(head: Parts, params: AuthParams) -> Result<AuthParams, IssuerError> {
///     let user = head.extensions.get::<User>().ok_or(IssuerError::unauthorized())?;
///     let Some(tower_aiuta_auth::ParamValue::String(image)) = params.get("uploaded_image_id") else {
///         return Err(IssuerError::forbidden());
///     };
///     match user.owns(image).await {
///         Ok(true) => Ok(params),
///         Ok(false) => Err(IssuerError::forbidden()),
///         Err(_) => Err(IssuerError::unavailable()),
///     }
/// }
///
/// let issuer = JwtIssuer::new(JwtSigner::hs256("issuer-id", "issuer-secret")?, authorize);
/// let app: axum::Router = axum::Router::new().route_service("/aiuta_jwt", issuer);
/// # Ok::<(), tower_aiuta_auth::ConfigError>(())
/// ```
///
/// # Requests and responses
///
/// A client sends one of:
///
/// - `GET` with the params in the query. All values are strings.
/// - `POST` with the params in a JSON object. The values keep their types. A field that is `null` counts as missing.
///
/// With the header `Cache-Control: no-cache`, the signer is [forced](TokenRequest::force_refresh) to create a new
/// token. It differs from the last one, even within the same second.
/// [`RemoteTokenSource`](crate::RemoteTokenSource) sends the header after Aiuta has rejected a token.
///
/// A success is answered with the documented object `{"type":"jwt","token":"…"}`, with the headers
/// `Content-Type: application/json` and `Cache-Control: no-store`.
///
/// An error is answered with `{"error":"…"}`. The text contains neither data of the request nor details of a failure of
/// the signer.
///
/// | status | cause |
/// |---|---|
/// | 400 | The params are invalid; see below. |
/// | 401, 403, 429, 503 | `authorize` returned this error. |
/// | 403 | The signer [denied](crate::TokenError::denied) the token. |
/// | 405 | The method is neither `GET` nor `POST`. |
/// | 413 | The body is larger than 16 KiB. |
/// | 415 | A `POST` is not JSON in UTF-8 by its content type, or is compressed. HTML forms can't send JSON. |
/// | 500 | The signer failed permanently. |
/// | 503 | The signer failed [temporarily](crate::TokenError::transient). |
///
/// Invalid params are:
///
/// - a body that is not a JSON object;
/// - a param that occurs twice;
/// - a param that is not one of the [`fields`](Self::fields), such as `exp`;
/// - a value that is neither a string, a boolean, an integer nor a list of strings;
/// - no params at all, because a token without params is valid for any request, unless
///   [`allow_unbound_tokens`](Self::allow_unbound_tokens) is set;
/// - more params than fit into a token: 4 KiB, or more than 8 KiB in the token because of escapes;
/// - a `GET` with a body, or a `POST` with a query, unless [`ignore_unknown_fields`](Self::ignore_unknown_fields) is
///   set.
///
/// `authorize` is called only with valid params, and nothing is signed without it.
///
/// # In axum
///
/// Use [`route_service`](https://docs.rs/axum/0.8/axum/struct.Router.html#method.route_service). `authorize` gets the
/// head of the request, from which axum's extractors can read:
///
/// ```
/// use axum::extract::FromRequestParts;
/// use http::StatusCode;
/// use http::request::Parts;
/// use tower_aiuta_auth::{AuthParams, IssuerError, JwtIssuer, JwtSigner};
///
/// #[derive(Clone)]
/// struct Shop; // the state of your handlers, such as a pool of database connections
/// # impl Shop { async fn owns(&self, _: &User, _: &AuthParams) -> bool { true } }
/// struct User(String); // an extractor of your own
///
/// impl FromRequestParts<Shop> for User {
///     type Rejection = StatusCode;
///
///     async fn from_request_parts(head: &mut Parts, _: &Shop) -> Result<Self, StatusCode> {
///         let session = head.headers.get("x-session").ok_or(StatusCode::UNAUTHORIZED)?;
///         // Look the session up in `Shop` here.
///         Ok(Self(session.to_str().map_err(|_| StatusCode::BAD_REQUEST)?.to_owned()))
///     }
/// }
///
/// async fn authorize(shop: Shop, mut head: Parts, params: AuthParams) -> Result<AuthParams, IssuerError> {
///     let user = User::from_request_parts(&mut head, &shop).await.map_err(|_| IssuerError::unauthorized())?;
///     if shop.owns(&user, &params).await { Ok(params) } else { Err(IssuerError::forbidden()) }
/// }
///
/// let shop = Shop;
/// let signer = JwtSigner::hs256("issuer-id", "issuer-secret")?;
/// let issuer = JwtIssuer::new(signer, move |head, params| authorize(shop.clone(), head, params));
/// let app: axum::Router = axum::Router::new().route_service("/aiuta_jwt", issuer);
/// # Ok::<(), tower_aiuta_auth::ConfigError>(())
/// ```
///
/// The example `token_server` in the repository is a whole server, with a limit per user.
///
/// # In hyper
///
/// hyper-util's `TowerToHyperService` converts the issuer to a service of hyper:
///
/// ```
/// use hyper_util::rt::{TokioExecutor, TokioIo};
/// use hyper_util::server::conn::auto;
/// use hyper_util::service::TowerToHyperService;
/// use tokio::net::TcpListener;
/// use tower_aiuta_auth::JwtIssuer;
/// # use tower_aiuta_auth::{AuthParams, JwtSigner, RemoteTokenSource, TokenRequest, TokenSource};
///
/// async fn serve(listener: TcpListener, issuer: JwtIssuer) -> std::io::Result<()> {
///     loop {
///         let (stream, _) = listener.accept().await?;
///         let service = TowerToHyperService::new(issuer.clone());
///         tokio::spawn(async move {
///             let http = auto::Builder::new(TokioExecutor::new());
///             if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
///                 eprintln!("a connection failed: {error}");
///             }
///         });
///     }
/// }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// # let listener = TcpListener::bind("127.0.0.1:0").await?;
/// # let url = format!("http://{}/", listener.local_addr()?);
/// # tokio::spawn(serve(listener, JwtIssuer::danger_allow_all(JwtSigner::hs256("issuer-id", "issuer-secret")?)));
/// # let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http();
/// # let params = AuthParams::new().with("sku_id", "dress-1");
/// # RemoteTokenSource::new(url, http)?.token(TokenRequest::new(params, std::time::SystemTime::now())).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Your own layers
///
/// Add your own layers for logins, timeouts and rate limits. For web pages of another origin, add tower-http's
/// `CorsLayer`:
///
/// ```
/// use http::{HeaderValue, Method, Request, header};
/// use http_body_util::Full;
/// use tower::{ServiceBuilder, ServiceExt};
/// use tower_aiuta_auth::{JwtIssuer, JwtSigner};
/// use tower_http::cors::CorsLayer;
/// # use tower_aiuta_auth::{AuthParams, IssuerError};
/// # async fn authorize(_: http::request::Parts, params: AuthParams) -> Result<AuthParams, IssuerError> { Ok(params) }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// let cors = CorsLayer::new()
///     .allow_origin(HeaderValue::from_static("https://shop.example"))
///     .allow_methods([Method::GET, Method::POST])
///     .allow_headers([header::CONTENT_TYPE])
///     .allow_credentials(true); // the session's cookie
/// let issuer = JwtIssuer::new(JwtSigner::hs256("issuer-id", "issuer-secret")?, authorize);
/// let service = ServiceBuilder::new().layer(cors).service(issuer);
///
/// let preflight = Request::options("/aiuta_jwt")
///     .header("origin", "https://shop.example")
///     .header("access-control-request-method", "POST")
///     .body(Full::<bytes::Bytes>::default())?;
/// let response = service.oneshot(preflight).await?;
/// assert_eq!(response.headers()["access-control-allow-origin"], "https://shop.example");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct JwtIssuer {
    signer: BoxTokenSource,
    authorize: Authorize,
    fields: Arc<[String]>,
    allow_unbound_tokens: bool,
    ignore_unknown_fields: bool,
    clock: Arc<dyn Clock>,
}

type Authorize = Arc<dyn Fn(Parts, AuthParams) -> Authorized + Send + Sync>;
type Authorized = Pin<Box<dyn Future<Output = Result<AuthParams, IssuerError>> + Send>>;

impl JwtIssuer {
    /// Creates an issuer of tokens from `signer`, usually a [`JwtSigner`](crate::JwtSigner).
    ///
    /// Exactly the params that `authorize` returns are signed, so that it can add params and remove them. If it returns
    /// empty params, the token is valid for any request.
    pub fn new<F, Fut>(signer: impl TokenSource, authorize: F) -> Self
    where
        F: Fn(Parts, AuthParams) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<AuthParams, IssuerError>> + Send + 'static,
    {
        Self {
            signer: BoxTokenSource::new(signer),
            authorize: Arc::new(move |head, params| Box::pin(authorize(head, params))),
            fields: DEFAULT_SIGNED_FIELDS.into_iter().chain([GENERATED_IMAGE_ID]).map(str::to_owned).collect(),
            allow_unbound_tokens: false,
            ignore_unknown_fields: false,
            clock: Arc::new(SystemClock),
        }
    }

    /// Creates an issuer that issues a token for any params to any client. Use it only for demos and tests.
    ///
    /// This is dangerous: anyone who can reach the issuer can start try-ons at your cost, with the images of all your
    /// users.
    pub fn danger_allow_all(signer: impl TokenSource) -> Self {
        Self::new(signer, |_, params| async { Ok(params) })
    }

    /// Sets the names of the params that a client may request. A request with any other param is answered with 400.
    /// Defaults to `uploaded_image_id`, `sku_id`, `sku_ids`, `sku_catalog_name`, `product_id` and `generated_image_id`.
    ///
    /// # Errors
    ///
    /// Returns a [`ConfigError`] if there are no names, if one is empty, or if one is a registered claim such as `iss`
    /// or `exp`.
    pub fn fields<I>(self, fields: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let fields: Vec<String> = fields.into_iter().map(Into::into).collect();
        check_fields("fields", &fields)?;
        Ok(Self { fields: fields.into(), ..self })
    }

    /// Sets whether `authorize` is asked about a request without params. Defaults to false: the response is 400.
    ///
    /// The layer needs tokens without params only with
    /// [`AiutaAuthBuilder::allow_unbound_tokens`](crate::AiutaAuthBuilder::allow_unbound_tokens). Such a token is valid
    /// for any request of its subscription, so `authorize` should return one only to your own servers.
    #[must_use]
    pub fn allow_unbound_tokens(self, allow: bool) -> Self {
        Self { allow_unbound_tokens: allow, ..self }
    }

    /// Sets whether the issuer accepts what the component that Aiuta documents accepts. Defaults to false.
    ///
    /// Fields that are not in [`fields`](Self::fields) are then ignored, such as a cache buster in the query. A `POST`
    /// may have params in the query, too. If a param is in both, the value in the body counts. Only the known fields
    /// are passed to `authorize` and signed.
    ///
    /// Without this setting, such a request is answered with 400, so that a client notices that a field is not signed.
    #[must_use]
    pub fn ignore_unknown_fields(self, ignore: bool) -> Self {
        Self { ignore_unknown_fields: ignore, ..self }
    }

    /// Sets the clock that provides the time for new tokens. Defaults to [`SystemClock`].
    #[must_use]
    pub fn clock(self, clock: impl Clock) -> Self {
        Self { clock: Arc::new(clock), ..self }
    }

    async fn issue<B: Body>(&self, request: Request<B>) -> Result<Jwt, IssuerError> {
        let (head, body) = request.into_parts();
        let params = self.params(&head, body).await?;
        let no_cache = has_no_cache(&head.headers);
        let params = (self.authorize)(head, params).await?;
        params.check_size().map_err(|_| IssuerError::too_large_for_token())?;
        let request = TokenRequest::new(params, self.clock.now());
        // Rule D5: the client's last token was rejected.
        let request = if no_cache { request.with_force_refresh() } else { request };
        self.signer.token(request).await.map_err(|error| IssuerError::from_token_error(&error))
    }

    /// Reads and validates the requested params.
    async fn params<B: Body>(&self, head: &Parts, body: B) -> Result<AuthParams, IssuerError> {
        let in_query = match head.method {
            Method::GET => true,
            Method::POST => false,
            _ => return Err(IssuerError::method_not_allowed()),
        };
        // Browsers let any web page send a request without a content type to another origin, without a preflight.
        let content = Content::of(&head.headers);
        if !in_query && (content.media_type != MediaType::Json || content.is_encoded) {
            return Err(IssuerError::unsupported_media_type());
        }
        let body = read_limited(body, MAX_BODY).await.map_err(|error| match error {
            ReadError::TooLarge => IssuerError::too_large(),
            ReadError::Failed(_) => IssuerError::bad_request("the body ended before it was complete"),
        })?;
        let query = head.uri.query().unwrap_or_default();
        // Ignoring the query or the body would let a client believe that its params were signed.
        if in_query && !body.is_empty() {
            return Err(IssuerError::bad_request("a GET must have its params in the query and no body"));
        }
        if !in_query && !query.is_empty() && !self.ignore_unknown_fields {
            return Err(IssuerError::bad_request("a POST must have its params in the body and no query"));
        }
        let deny_unknown_fields = !self.ignore_unknown_fields;
        let invalid = |in_query| move |error| IssuerError::invalid_params(error, in_query, &self.fields);
        let mut params = query::read(query, &self.fields, deny_unknown_fields).map_err(invalid(true))?;
        if !in_query {
            let in_body = json::parse(&body, &self.fields, deny_unknown_fields).map_err(invalid(false))?;
            params = in_body.iter().fold(params, |params, (name, value)| params.with(name, value.clone()));
        }
        if params.is_empty() && !self.allow_unbound_tokens {
            return Err(IssuerError::bad_request(
                "no params are given: a token without params would be valid for any request",
            ));
        }
        params.check_size().map_err(|_| IssuerError::too_large_for_token())?;
        Ok(params)
    }
}

/// Returns whether the request has the `cache-control` directive `no-cache` (RFC 9111 §5.2.1.4). In a request it has no
/// argument.
fn has_no_cache(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(CACHE_CONTROL).iter();
    values.any(|value| directives(value.as_bytes()).any(|directive| directive.eq_ignore_ascii_case(b"no-cache")))
}

/// Splits a list of directives at its commas. A comma inside a quoted string is part of an argument (RFC 9110 §5.6.4).
fn directives(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = list.split(move |byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b',' => return !quoted,
            _ => {}
        }
        false
    });
    parts.map(<[u8]>::trim_ascii)
}

impl<B: Body + Send + 'static> Service<Request<B>> for JwtIssuer {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let issuer = self.clone();
        Box::pin(async move {
            Ok(match issuer.issue(request).await {
                Ok(token) => token_response(&token),
                Err(error) => error.into_response(),
            })
        })
    }
}

fn token_response(token: &Jwt) -> Response<Full<Bytes>> {
    // A token consists of base64url and dots, so JSON needs no escapes. `Zeroizing` wipes it after it is sent.
    let parts = [r#"{"type":"jwt","token":""#, token.expose(), r#""}"#];
    json_response(StatusCode::OK, Bytes::from_owner(Zeroizing::new(parts.concat().into_bytes())))
}

fn json_response(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl fmt::Debug for JwtIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtIssuer").field("fields", &self.fields).finish_non_exhaustive()
    }
}
