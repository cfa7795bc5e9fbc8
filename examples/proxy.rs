//! A proxy between browsers and Aiuta. It forwards try-ons through the layer, so that browsers need no secret.
//!
//! Run it with `cargo run --example proxy`. It starts `FakeAiuta` and the proxy on loopback and simulates two browsers.
//! It shows how a proxy:
//!
//! - streams photos to Aiuta and remembers their owners;
//! - lets a user start a try-on only with the user's own photos. The layer signs any params, so the proxy must check
//!   them;
//! - lets a user see only the user's own try-ons. Aiuta knows the shop but not its users;
//! - uses the user as the partition, so that two users never share a token;
//! - returns Aiuta's status and body to the browser, without other headers.

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tower::util::BoxCloneSyncService;
use tower::{ServiceBuilder, ServiceExt, timeout::TimeoutLayer};
use tower_aiuta_auth::testing::FakeAiuta;
use tower_aiuta_auth::{AiutaAuthLayer, AuthParams, BoxError, JwtSigner};

#[derive(Clone)]
struct Proxy {
    aiuta: BoxCloneSyncService<Request<Body>, axum::http::Response<hyper::body::Incoming>, BoxError>,
    /// For the real API: `https://api.aiuta.com/digital-try-on/v1`.
    base: Arc<str>,
    /// The owner of each photo and each try-on, by id. A real proxy uses a database.
    owners: Arc<Mutex<HashMap<String, String>>>,
}

#[derive(serde::Deserialize)]
struct TryOn {
    photo: String,
    sku: String,
}

/// Returns the user of the request. A real proxy checks a session.
fn user(headers: &HeaderMap) -> Result<String, StatusCode> {
    let user = headers.get("x-session").and_then(|session| session.to_str().ok());
    user.map(str::to_owned).ok_or(StatusCode::UNAUTHORIZED)
}

impl Proxy {
    fn router(self) -> Router {
        Router::new()
            .route("/photos", post(upload))
            .route("/try-ons", post(start))
            .route("/try-ons/{id}", get(status))
            .with_state(self)
    }

    /// Sends a request to Aiuta and returns the status and the body of the response.
    async fn send(&self, request: Request<Body>) -> Result<(StatusCode, Bytes), StatusCode> {
        let response = self.aiuta.clone().oneshot(request).await.map_err(|error| {
            // Details go to the log, not to the browser.
            eprintln!("proxy: {error}");
            StatusCode::BAD_GATEWAY
        })?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|_| StatusCode::BAD_GATEWAY)?.to_bytes();
        Ok((status, body))
    }

    /// Records the user as the owner of the id in this field of a response.
    fn remember(&self, response: &Bytes, field: &str, user: String) {
        let response: serde_json::Value = serde_json::from_slice(response).unwrap_or_default();
        if let Some(id) = response[field].as_str() {
            self.owners.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), user);
        }
    }

    fn check(&self, id: &str, user: &str) -> Result<(), StatusCode> {
        let owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        if owners.get(id).is_some_and(|owner| owner == user) { Ok(()) } else { Err(StatusCode::FORBIDDEN) }
    }
}

fn json((status, body): (StatusCode, Bytes)) -> Response {
    (status, [("content-type", "application/json")], body).into_response()
}

/// `POST /photos`: streams the photo to Aiuta and records its owner.
async fn upload(State(proxy): State<Proxy>, headers: HeaderMap, body: Body) -> Result<Response, StatusCode> {
    let user = user(&headers)?;
    let mut request = Request::post(format!("{}/uploaded_images", proxy.base));
    for name in ["content-type", "content-length"] {
        if let Some(value) = headers.get(name) {
            request = request.header(name, value);
        }
    }
    let (status, body) = proxy.send(request.body(body).map_err(|_| StatusCode::BAD_REQUEST)?).await?;
    proxy.remember(&body, "id", user);
    Ok(json((status, body)))
}

/// `POST /try-ons`: starts a try-on if the user owns the photo.
async fn start(
    State(proxy): State<Proxy>,
    headers: HeaderMap,
    Json(try_on): Json<TryOn>,
) -> Result<Response, StatusCode> {
    let user = user(&headers)?;
    proxy.check(&try_on.photo, &user)?;
    let params = AuthParams::new().with("uploaded_image_id", try_on.photo).with("sku_id", try_on.sku);
    // The body is made from the params, so that it always matches the token.
    let body = serde_json::to_vec(&params).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let mut request = Request::post(format!("{}/sku_images_operations", proxy.base))
        .header("content-type", "application/json")
        .body(Body::from(body))
        .map_err(|_| StatusCode::BAD_REQUEST)?;
    request.extensions_mut().insert(params.with_partition(&user));
    let (status, body) = proxy.send(request).await?;
    proxy.remember(&body, "operation_id", user);
    Ok(json((status, body)))
}

/// `GET /try-ons/{id}`: returns the status of a try-on if the user started it.
async fn status(
    State(proxy): State<Proxy>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, StatusCode> {
    proxy.check(&id, &user(&headers)?)?;
    let request = Request::get(format!("{}/sku_images_operations/{id}", proxy.base)).body(Body::empty());
    proxy.send(request.map_err(|_| StatusCode::BAD_REQUEST)?).await.map(json)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let aiuta = FakeAiuta::new();
    let api = aiuta.serve().await?;
    let signer = JwtSigner::hs256(aiuta.issuer(), aiuta.secret())?;
    let layer = AiutaAuthLayer::builder().jwt(aiuta.subscription_id(), signer).origins([api.origin()]).build()?;
    let stack = ServiceBuilder::new()
        .layer(TimeoutLayer::new(Duration::from_secs(30)))
        .layer(layer)
        .service(Client::builder(TokioExecutor::new()).build_http::<Body>());
    let proxy = Proxy {
        aiuta: BoxCloneSyncService::new(stack),
        base: format!("{}/digital-try-on/v1", api.origin()).into(),
        owners: Arc::default(),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", listener.local_addr()?);
    let server = tokio::spawn(async move { axum::serve(listener, proxy.router()).await });

    println!("the proxy is listening on {address}");
    two_browsers(&address).await?;
    let kinds: Vec<_> = aiuta.requests().iter().map(|request| request.credential().to_string()).collect();
    println!("Aiuta received     {}", kinds.join(", "));
    server.abort();
    if aiuta.operations_started() == 1 { Ok(()) } else { Err("one try-on should have been started".into()) }
}

/// Alice uploads a photo and tries on a dress. Bob tries to use her photo and to see her try-on, and gets a 403.
async fn two_browsers(address: &str) -> Result<(), Box<dyn Error>> {
    let browser = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let send = async |user: &str, method: &str, path: &str, content_type: &str, body: Vec<u8>| {
        let request = Request::builder()
            .method(method)
            .uri(format!("{address}{path}"))
            .header("x-session", user)
            .header("content-type", content_type)
            .body(Full::from(body))?;
        let response = browser.request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        println!("{user:<6} {method:<4} {path:<12.9} {status}");
        Ok::<_, Box<dyn Error>>(serde_json::from_slice::<serde_json::Value>(&body).unwrap_or_default())
    };
    let mut photo = b"--b\r\ncontent-disposition: form-data; name=\"image_data\"; filename=\"me.png\"\r\n\r\n".to_vec();
    photo.extend_from_slice(include_bytes!("try_on/photo.png"));
    photo.extend_from_slice(b"\r\n--b--\r\n");
    let image = send("alice", "POST", "/photos", "multipart/form-data; boundary=b", photo).await?;

    let try_on = serde_json::to_vec(&serde_json::json!({"photo": image["id"], "sku": "dress-1"}))?;
    send("bob", "POST", "/try-ons", "application/json", try_on.clone()).await?;
    let operation = send("alice", "POST", "/try-ons", "application/json", try_on).await?;
    let id = operation["operation_id"].as_str().ok_or("no operation was started")?;
    send("bob", "GET", &format!("/try-ons/{id}"), "", Vec::new()).await?;
    let polled = send("alice", "GET", &format!("/try-ons/{id}"), "", Vec::new()).await?;
    println!("alice's try-on:    {}", polled["status"].as_str().unwrap_or("unknown"));
    Ok(())
}
