//! The server-side component of a shop, with `JwtIssuer`: it issues tokens to the shop's pages.
//!
//! Run it with `cargo run --example token_server`. It listens on loopback until it is stopped, and prints a `curl`
//! command that requests a token. With `--once` it ends after one request. It sends that request itself, unless
//! `--listen` is given.
//!
//! - The session identifies the user. A user gets tokens only for the user's own photos: the signer signs any params,
//!   so `authorize` must check them.
//! - The rate limit applies per user, after the check of the session. A limit per address would not work, because users
//!   share addresses and can change them. Requests without a session neither count against a user nor use memory.
//! - CORS is the outermost layer, because a preflight has no session, and a page must be able to read an error, too.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, request::Parts};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing::any};
use clap::Parser;
use futures::FutureExt;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use quick_cache::sync::Cache;
use tokio::{net::TcpListener, sync::Notify};
use tower::limit::RateLimit;
use tower::load_shed::LoadShed;
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_aiuta_auth::testing::FakeAiuta;
use tower_aiuta_auth::{
    AiutaAuthLayer, AuthParams, BoxError, IssuerError, JwtIssuer, JwtSigner, ParamValue, RemoteTokenSource,
};
use tower_http::cors::CorsLayer;

/// The origin of the pages that may request tokens.
const SHOP: HeaderValue = HeaderValue::from_static("https://shop.example");
/// The sessions and the owners of the photos. A real server uses a session store and a database.
const SESSIONS: [(&str, User); 2] = [("alice-is-logged-in", User("alice")), ("bob-is-logged-in", User("bob"))];
const PHOTOS: [(&str, User); 2] = [("alice-photo-1", User("alice")), ("bob-photo-1", User("bob"))];

/// Maximum number of tokens per user in one window.
const TOKENS: u64 = 20;
const WINDOW: Duration = Duration::from_secs(60);
/// Maximum number of users whose requests are counted. The count of an evicted user starts again at zero.
const USERS: usize = 10_000;

/// Issues Aiuta's tokens, as the server-side component of a shop.
#[derive(Parser)]
struct Args {
    /// Listen on this address [default: a free port on loopback]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Exit after one request. Without --listen, the server sends this request itself
    #[arg(long)]
    once: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct User(&'static str);

fn logged_in(headers: &HeaderMap) -> Option<User> {
    let session = headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
    SESSIONS.iter().find(|(known, _)| *known == session).map(|(_, user)| *user)
}

/// Allows params only with a photo of the user. Only the session identifies the user.
async fn authorize(head: Parts, params: AuthParams) -> Result<AuthParams, IssuerError> {
    let user = head.extensions.get::<User>().ok_or(IssuerError::unauthorized())?;
    match params.get("uploaded_image_id") {
        Some(ParamValue::String(photo)) if PHOTOS.contains(&(photo.as_str(), *user)) => Ok(params),
        _ => Err(IssuerError::forbidden()),
    }
}

struct Server {
    issuer: JwtIssuer,
    /// The issuer with a rate limit for each user. Requests over the limit are answered at once instead of being
    /// queued.
    limited: Cache<User, Arc<Mutex<LoadShed<RateLimit<JwtIssuer>>>>>,
    answered: Notify,
}

/// `GET` or `POST /aiuta_jwt`: issues a token to a logged-in user, within the rate limit.
async fn token(State(server): State<Arc<Server>>, mut request: Request) -> Response {
    let response = match logged_in(request.headers()) {
        Some(user) => {
            request.extensions_mut().insert(user);
            server.for_user(user, request).await
        }
        None => error(StatusCode::UNAUTHORIZED, "log in first").into_response(),
    };
    server.answered.notify_one();
    response
}

impl Server {
    async fn for_user(&self, user: User, request: Request) -> Response {
        let limited = || ServiceBuilder::new().load_shed().rate_limit(TOKENS, WINDOW).service(self.issuer.clone());
        let Ok(limited) =
            self.limited.get_or_insert_with(&user, || Ok::<_, Infallible>(Arc::new(Mutex::new(limited()))));
        let response = {
            let mut limited = limited.lock().unwrap_or_else(PoisonError::into_inner);
            // `LoadShed` is always ready. This call lets it check the rate limit.
            let _ = ServiceExt::<Request>::ready(&mut *limited).now_or_never();
            limited.call(request)
        };
        match response.await {
            Ok(response) => response.map(Body::new),
            // The issuer never returns an error, so the limit is reached.
            Err(_) => {
                let seconds = HeaderValue::from(WINDOW.as_secs());
                ([(RETRY_AFTER, seconds)], error(StatusCode::TOO_MANY_REQUESTS, "too many requests")).into_response()
            }
        }
    }
}

/// Builds an error response with the same shape as those of `JwtIssuer`.
fn error(status: StatusCode, error: &str) -> impl IntoResponse {
    (status, [(CACHE_CONTROL, "no-store")], Json(serde_json::json!({ "error": error })))
}

fn router(server: Arc<Server>) -> Router {
    let cors = CorsLayer::new()
        .allow_origin(SHOP)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([AUTHORIZATION, CONTENT_TYPE])
        .expose_headers([RETRY_AFTER]);
    Router::new().route("/aiuta_jwt", any(token)).layer(cors).with_state(server)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let args = Args::parse();
    // A real server reads both from its secret store.
    let signer = JwtSigner::hs256(FakeAiuta::ISSUER, FakeAiuta::SECRET)?;
    let issuer = JwtIssuer::new(signer, authorize);
    let server = Arc::new(Server { issuer, limited: Cache::new(USERS), answered: Notify::new() });

    let listener = TcpListener::bind(args.listen.unwrap_or((Ipv4Addr::LOCALHOST, 0).into())).await?;
    let url = format!("http://{}/aiuta_jwt", listener.local_addr()?);
    println!("listening on {url}");
    let asks_itself = args.once && args.listen.is_none();
    if !asks_itself {
        println!("try: curl -H 'authorization: Bearer alice-is-logged-in' '{url}?uploaded_image_id=alice-photo-1'");
    }

    let ends = Arc::clone(&server);
    let serve = axum::serve(listener, router(server)).with_graceful_shutdown(async move {
        if args.once { ends.answered.notified().await } else { std::future::pending().await }
    });
    let ask = async { if asks_itself { ask(&url).await } else { Ok(()) } };
    tokio::try_join!(async { Ok(serve.await?) }, ask)?;
    Ok(())
}

/// Requests a token as another server of the shop does, which calls Aiuta for Alice but does not have the secret.
async fn ask(url: &str) -> Result<(), BoxError> {
    let http = Client::builder(TokioExecutor::new()).build_http();
    let source = RemoteTokenSource::new(url, http)?.header("authorization", "Bearer alice-is-logged-in")?;
    let layer = AiutaAuthLayer::jwt(FakeAiuta::SUBSCRIPTION_ID, source)?;
    let params = AuthParams::new().with("uploaded_image_id", "alice-photo-1").with("sku_id", "dress-1");
    let token = layer.token_cache().ok_or("a layer with JWTs has a token cache")?.get(&params).await?;
    println!("alice got a token for her photo, {} bytes long", token.expose().len());
    Ok(())
}
