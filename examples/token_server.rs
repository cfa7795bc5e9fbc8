//! The server-side component as a shop would run it: pages of the shop get tokens for their users' own photos, and not too many.
//!
//! `cargo run --example token_server` listens on loopback until it is stopped, and says how to ask it. With `--once` it answers one request and
//! ends; unless `--listen` says where others will find it, that request is its own. What to look at:
//!
//! - the session says who asks, and a token is made for a photo of theirs only: the signer signs what it is given;
//! - the limit is for each user, behind the check of the session: addresses are shared by many and changed by anyone, and a stranger can
//!   neither use up somebody's share nor fill the memory;
//! - CORS is outermost: a browser's preflight has no session, and a page may read a refusal too.

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

/// Whose pages may ask.
const SHOP: HeaderValue = HeaderValue::from_static("https://shop.example");
/// Who is logged in, and whose photo is whose: a session store and a database, in earnest.
const SESSIONS: [(&str, User); 2] = [("alice-is-logged-in", User("alice")), ("bob-is-logged-in", User("bob"))];
const PHOTOS: [(&str, User); 2] = [("alice-photo-1", User("alice")), ("bob-photo-1", User("bob"))];

/// So many tokens a user gets in this time: enough to try on a wardrobe, and few enough to notice who tries on everything.
const TOKENS: u64 = 20;
const WINDOW: Duration = Duration::from_secs(60);
/// So many users are counted at once; whoever has to make room for another begins anew.
const USERS: usize = 10_000;

/// Hands out Aiuta's tokens, as the server-side component of a shop.
#[derive(Parser)]
struct Args {
    /// Where to listen [default: a free port on loopback]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Answer one request and end; without --listen, one of its own
    #[arg(long)]
    once: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct User(&'static str);

fn logged_in(headers: &HeaderMap) -> Option<User> {
    let session = headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
    SESSIONS.iter().find(|(known, _)| *known == session).map(|(_, user)| *user)
}

/// Whether these params belong to the one who asks. Nothing in a request but its session says so.
async fn authorize(head: Parts, params: AuthParams) -> Result<AuthParams, IssuerError> {
    let user = head.extensions.get::<User>().ok_or(IssuerError::unauthorized())?;
    match params.get("uploaded_image_id") {
        Some(ParamValue::String(photo)) if PHOTOS.contains(&(photo.as_str(), *user)) => Ok(params),
        _ => Err(IssuerError::forbidden()),
    }
}

struct Server {
    issuer: JwtIssuer,
    /// The issuer behind each user's own limit. What is over the limit is turned away at once: it would only pile up.
    limited: Cache<User, Arc<Mutex<LoadShed<RateLimit<JwtIssuer>>>>>,
    answered: Notify,
}

/// `GET` or `POST /aiuta_jwt`
async fn token(State(server): State<Arc<Server>>, mut request: Request) -> Response {
    let response = match logged_in(request.headers()) {
        Some(user) => {
            request.extensions_mut().insert(user);
            server.for_user(user, request).await
        }
        None => refusal(StatusCode::UNAUTHORIZED, "log in first").into_response(),
    };
    server.answered.notify_one();
    response
}

impl Server {
    async fn for_user(&self, user: User, request: Request) -> Response {
        let limited = || ServiceBuilder::new().load_shed().rate_limit(TOKENS, WINDOW).service(self.issuer.clone());
        let Ok(limited) =
            self.limited.get_or_insert_with(&user, || Ok::<_, Infallible>(Arc::new(Mutex::new(limited()))));
        let answer = {
            let mut limited = limited.lock().unwrap_or_else(PoisonError::into_inner);
            // LoadShed is always ready: this is where it looks whether the limit is.
            let _ = ServiceExt::<Request>::ready(&mut *limited).now_or_never();
            limited.call(request)
        };
        match answer.await {
            Ok(response) => response.map(Body::new),
            // The issuer never fails: it was the limit.
            Err(_) => {
                let seconds = HeaderValue::from(WINDOW.as_secs());
                ([(RETRY_AFTER, seconds)], refusal(StatusCode::TOO_MANY_REQUESTS, "too many requests")).into_response()
            }
        }
    }
}

/// In the words of the issuer's own refusals.
fn refusal(status: StatusCode, error: &str) -> impl IntoResponse {
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
    // In earnest, both from where secrets are kept.
    let signer = JwtSigner::hs256(FakeAiuta::ISSUER, FakeAiuta::SECRET)?;
    let issuer = JwtIssuer::new(signer, authorize);
    let server = Arc::new(Server { issuer, limited: Cache::new(USERS), answered: Notify::new() });

    let listener = TcpListener::bind(args.listen.unwrap_or((Ipv4Addr::LOCALHOST, 0).into())).await?;
    let url = format!("http://{}/aiuta_jwt", listener.local_addr()?);
    println!("listens at {url}");
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

/// What another server of the shop does that calls Aiuta for Alice, and may not have the secret.
async fn ask(url: &str) -> Result<(), BoxError> {
    let http = Client::builder(TokioExecutor::new()).build_http();
    let issuer = RemoteTokenSource::new(url, http)?.header("authorization", "Bearer alice-is-logged-in")?;
    let layer = AiutaAuthLayer::jwt(FakeAiuta::SUBSCRIPTION_ID, issuer)?;
    let params = AuthParams::new().with("uploaded_image_id", "alice-photo-1").with("sku_id", "dress-1");
    let token = layer.token_cache().ok_or("the Jwt scheme has tokens")?.get(&params).await?;
    println!("alice got a token for her photo, {} bytes long", token.expose().len());
    Ok(())
}
