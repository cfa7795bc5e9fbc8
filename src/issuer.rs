//! [`JwtIssuer`]: the server-side component, which hands out tokens to those who may have them.
//!
//! It stands at the other end of [`RemoteTokenSource`](crate::RemoteTokenSource) and of the official SDKs' `getJwt`:
//!
//! ```text
//! request ─▶ read strictly ─▶ authorize (the integrator's) ─▶ signer ─▶ {"type":"jwt","token":"…"}
//!                  └──────────────────┴─────────────────────────┴────▶ IssuerError
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
use crate::params::{AuthParams, DEFAULT_SIGNED_FIELDS, check_fields, json};
use crate::request::body::{ReadError, read_limited};
use crate::source::{BoxTokenSource, TokenRequest, TokenSource};

/// The longest body that is read, in bytes. Params may have 4 KiB.
const MAX_BODY: usize = 16 * 1024;

/// The server-side component that Aiuta asks integrators to write: a Tower service that answers with tokens, and mounts in axum or
/// hyper at whatever path.
///
/// It is what an app's or a browser's `getJwt` asks, and what [`RemoteTokenSource`](crate::RemoteTokenSource) asks. Who may have which token is
/// the one thing that it can't know: `authorize` decides. It gets the request's head (with the session that your own middleware
/// has put into its extensions, say) and the params, and answers with the params to be signed, or a [`IssuerError`].
///
/// ```
/// use http::request::Parts;
/// use tower_aiuta_auth::{AuthParams, JwtIssuer, JwtSigner, IssuerError};
///
/// #[derive(Clone)]
/// struct User(String); // put into the extensions by the middleware that checks the session
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
/// # Requests and answers
///
/// - `GET` with the params in the query, whose values are strings; or `POST` with a JSON object, whose values keep their types, and whose nulls
///   count as left out.
/// - The answer is `{"type":"jwt","token":"…"}`, as documented, but `application/json` and `Cache-Control: no-store`.
/// - Everything else is refused, and `authorize` is not asked: there is no way to have something signed that it has not seen.
///
/// | status | for |
/// |---|---|
/// | 400 | broken JSON, or no object; a param twice; one that is not among the [`fields`](Self::fields), such as `exp`; a value that is neither string, boolean, integer nor list of strings; no params at all, since a token for none is good for everything; over 4 KiB of them; a `POST` with a query, or a `GET` with a body |
/// | 401, 403, 429, 503 | what `authorize` says; 403 and 503 also if the signer [denies](crate::TokenError::denied) the token, or fails [for now](crate::TokenError::transient) |
/// | 405 | other methods |
/// | 413 | bodies over 16 KiB |
/// | 415 | a `POST` that is not `application/json`: no other page's form can send one |
/// | 500 | the signer fails for good |
///
/// A refusal is `{"error":"…"}`. It never says more of the signer's failure, and repeats nothing of the request.
///
/// # What it leaves to you
///
/// How users log in, limits of time and rate, and access from web pages of another origin: layers of yours. For the last, tower-http's `CorsLayer`:
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
    clock: Arc<dyn Clock>,
}

type Authorize = Arc<dyn Fn(Parts, AuthParams) -> Authorized + Send + Sync>;
type Authorized = Pin<Box<dyn Future<Output = Result<AuthParams, IssuerError>> + Send>>;

impl JwtIssuer {
    /// Tokens from `signer`, a [`JwtSigner`](crate::JwtSigner) as a rule, for the params that `authorize` answers with.
    ///
    /// They are signed as they are: params that `authorize` adds are added, and no params at all are a token that is good for
    /// everything.
    pub fn new<F, Fut>(signer: impl TokenSource, authorize: F) -> Self
    where
        F: Fn(Parts, AuthParams) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<AuthParams, IssuerError>> + Send + 'static,
    {
        Self {
            signer: BoxTokenSource::new(signer),
            authorize: Arc::new(move |head, params| Box::pin(authorize(head, params))),
            fields: DEFAULT_SIGNED_FIELDS.map(str::to_owned).into(),
            clock: Arc::new(SystemClock),
        }
    }

    /// An issuer for demos and tests, which gives a token to whoever asks.
    ///
    /// Dangerous: everyone who finds it can start try-ons at your cost, on the images of all your users.
    pub fn danger_allow_all(signer: impl TokenSource) -> Self {
        Self::new(signer, |_, params| async { Ok(params) })
    }

    /// The params that may be asked for; a request with another one is refused. Default: `uploaded_image_id`, `sku_id`, `sku_ids`,
    /// `sku_catalog_name`, `product_id`.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if there is none, or one is empty or named like a registered claim (`iss`, `exp`, …).
    pub fn fields<I>(self, fields: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let fields: Vec<String> = fields.into_iter().map(Into::into).collect();
        check_fields("fields", &fields)?;
        Ok(Self { fields: fields.into(), ..self })
    }

    /// The clock by which tokens are made. Default: [`SystemClock`].
    #[must_use]
    pub fn clock(self, clock: impl Clock) -> Self {
        Self { clock: Arc::new(clock), ..self }
    }

    async fn issue<B: Body>(&self, request: Request<B>) -> Result<Jwt, IssuerError> {
        let (head, body) = request.into_parts();
        let params = self.params(&head, body).await?;
        let params = (self.authorize)(head, params).await?;
        let request = TokenRequest::new(params, self.clock.now());
        self.signer.token(request).await.map_err(|error| IssuerError::of_signer(&error))
    }

    /// What is asked for.
    async fn params<B: Body>(&self, head: &Parts, body: B) -> Result<AuthParams, IssuerError> {
        let in_query = match head.method {
            Method::GET => true,
            Method::POST => false,
            _ => return Err(IssuerError::method_not_allowed()),
        };
        if !in_query && !is_json(&head.headers) {
            return Err(IssuerError::unsupported_media_type());
        }
        let body = read_limited(body, MAX_BODY).await.map_err(|error| match error {
            ReadError::TooLarge => IssuerError::too_large(),
            ReadError::Failed(_) => IssuerError::bad_request("the body ended too early"),
        })?;
        let query = head.uri.query().unwrap_or_default();
        // Never is one of both ignored: whoever sent it would take it for signed.
        let params = if in_query {
            if !body.is_empty() {
                return Err(IssuerError::bad_request("a GET has its params in the query, and no body"));
            }
            query::read(query, &self.fields)
        } else {
            if !query.is_empty() {
                return Err(IssuerError::bad_request("a POST has its params in the body, and no query"));
            }
            json::read_all(&body, &self.fields)
        };
        let params = params.map_err(|problem| IssuerError::of_params(problem, in_query, &self.fields))?;
        if params.is_empty() {
            return Err(IssuerError::bad_request("no params: a token for none would be good for everything"));
        }
        if params.check_size().is_err() {
            return Err(IssuerError::bad_request("the params are over 4 KiB, more than a token can carry"));
        }
        Ok(params)
    }
}

/// Whether there is one content type, and it is JSON's. None at all will not do: a web page of any origin can send that unasked.
fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(only), None) = (types.next(), types.next()) else { return false };
    let essence = only.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"application/json")
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
                Err(refusal) => refusal.into_response(),
            })
        })
    }
}

fn token_response(token: &Jwt) -> Response<Full<Bytes>> {
    // base64url and dots: nothing that JSON would escape. Wiped once it is sent.
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
