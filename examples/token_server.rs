//! The server-side component of a shop, with `JwtIssuer`: it issues tokens to the shop's pages.
//!
//! Run it with `cargo run --example token_server`. It listens on loopback until it is stopped, and prints a `curl`
//! command that requests a token. With `--once` it ends after one request. It sends that request itself, unless
//! `--listen` is given.
//!
//! - The session identifies the user. A user gets tokens only for the user's own photos: the signer signs any params,
//!   so `authorize` must check them.
//! - `authorize` uses axum's extractors: `User` is an extractor that any handler of the shop could use.
//! - The rate limit applies per user, after the check of the session. A limit per address would not work, because users
//!   share addresses and can change them. Requests without a session neither count against a user nor use memory.
//! - CORS is the outermost layer, because a preflight has no session, and a page must be able to read an error, too.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{FromRequestParts, Request};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{self, Next};
use clap::Parser;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::sync::Notify;
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
const TOKENS: u32 = 20;
const WINDOW: Duration = Duration::from_secs(60);

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

/// The state of the shop, which axum's extractors can use.
#[derive(Default)]
struct Shop {
    /// Start of the window and number of tokens in it. Only users who are logged in have an entry.
    windows: Mutex<HashMap<User, (Instant, u32)>>,
}

impl Shop {
    fn check_limit(&self, user: User) -> Result<(), IssuerError> {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let (start, tokens) = windows.entry(user).or_insert((Instant::now(), 0));
        if start.elapsed() >= WINDOW {
            (*start, *tokens) = (Instant::now(), 0);
        }
        *tokens += 1;
        if *tokens > TOKENS { Err(IssuerError::too_many_requests(WINDOW)) } else { Ok(()) }
    }
}

/// The user of the session.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct User(&'static str);

/// An extractor, as any handler of the shop uses it.
impl FromRequestParts<Shop> for User {
    type Rejection = StatusCode;

    async fn from_request_parts(head: &mut Parts, _: &Shop) -> Result<Self, StatusCode> {
        let header = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let session = header.and_then(|value| value.strip_prefix("Bearer ")).ok_or(StatusCode::UNAUTHORIZED)?;
        let known = SESSIONS.iter().find(|(known, _)| *known == session);
        known.map(|(_, user)| *user).ok_or(StatusCode::UNAUTHORIZED)
    }
}

/// Allows params only with a photo of the user, within the limit. Only the session identifies the user.
async fn authorize(shop: Arc<Shop>, mut head: Parts, params: AuthParams) -> Result<AuthParams, IssuerError> {
    let user = User::from_request_parts(&mut head, &shop).await.map_err(|_| IssuerError::unauthorized())?;
    shop.check_limit(user)?;
    match params.get("uploaded_image_id") {
        Some(ParamValue::String(photo)) if PHOTOS.contains(&(photo.as_str(), user)) => Ok(params),
        _ => Err(IssuerError::forbidden()),
    }
}

/// `GET` or `POST /aiuta_jwt`: issues a token. Notifies `answered` after each request.
fn router(shop: Shop, signer: JwtSigner, answered: Arc<Notify>) -> Router {
    let shop = Arc::new(shop);
    let issuer = JwtIssuer::new(signer, move |head, params| authorize(Arc::clone(&shop), head, params));
    let cors = CorsLayer::new()
        .allow_origin(SHOP)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([AUTHORIZATION, CONTENT_TYPE])
        .expose_headers([RETRY_AFTER]);
    let notify = middleware::from_fn(move |request: Request, next: Next| {
        let answered = Arc::clone(&answered);
        async move {
            let response = next.run(request).await;
            answered.notify_one();
            response
        }
    });
    Router::new().route_service("/aiuta_jwt", issuer).layer(notify).layer(cors)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let args = Args::parse();
    // A real server reads both from its secret store.
    let signer = JwtSigner::hs256(FakeAiuta::ISSUER, FakeAiuta::SECRET)?;
    let answered = Arc::new(Notify::new());
    let app = router(Shop::default(), signer, Arc::clone(&answered));

    let listener = TcpListener::bind(args.listen.unwrap_or((Ipv4Addr::LOCALHOST, 0).into())).await?;
    let url = format!("http://{}/aiuta_jwt", listener.local_addr()?);
    println!("listening on {url}");
    let asks_itself = args.once && args.listen.is_none();
    if !asks_itself {
        println!("try: curl -H 'authorization: Bearer alice-is-logged-in' '{url}?uploaded_image_id=alice-photo-1'");
    }

    let serve = axum::serve(listener, app).with_graceful_shutdown(async move {
        if args.once { answered.notified().await } else { std::future::pending().await }
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
