//! `FakeAiuta` by requests: what it accepts, what it rejects, and its faults.

mod credentials;
mod handles;
mod operations;
mod trouble;

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, DATE, ETAG, IF_NONE_MATCH, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::{Service, ServiceExt};
use tower_aiuta_auth::testing::{
    Credential, FakeAiuta, FakeServer, Fault, Hold, Listener, ManualClock, RecordedRequest,
};
use tower_aiuta_auth::{BoxError, Clock};

const NOW: u64 = 1_800_000_000;
const PHOTO: &[u8] = b"\xff\xd8\xff\xe0 a photo";

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// Sends one request through any client: `FakeAiuta` itself or a hyper client.
async fn send<S, R>(client: &S, request: Request<Full<Bytes>>) -> Answer
where
    S: Service<Request<Full<Bytes>>, Response = http::Response<R>> + Clone,
    S::Error: std::fmt::Debug,
    R: http_body::Body<Error: std::fmt::Debug>,
{
    let (head, body) = client.clone().oneshot(request).await.unwrap().into_parts();
    Answer { status: head.status, headers: head.headers, body: body.collect().await.unwrap().to_bytes() }
}

fn request(method: Method, uri: &str, credential: (&str, &str), body: &Value) -> Request<Full<Bytes>> {
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let mut request = Request::builder().method(method).uri(uri);
    if !credential.0.is_empty() {
        request = request.header(credential.0, credential.1);
    }
    request.body(Full::new(body)).unwrap()
}

fn get(uri: &str, credential: (&str, &str)) -> Request<Full<Bytes>> {
    request(Method::GET, uri, credential, &Value::Null)
}

fn upload(origin: &str, credential: (&str, &str)) -> Request<Full<Bytes>> {
    let mut body = b"--b\r\nContent-Disposition: form-data; name=\"image_data\"; filename=\"me.jpg\"\r\n\r\n".to_vec();
    body.extend_from_slice(PHOTO);
    body.extend_from_slice(b"\r\n--b--\r\n");
    let mut request = get(&format!("{origin}/v1/uploaded_images"), credential).map(|_| Full::from(body));
    *request.method_mut() = Method::POST;
    request.headers_mut().insert(CONTENT_TYPE, "multipart/form-data; boundary=b".parse().unwrap());
    request
}

const ORIGIN: &str = "https://api.aiuta.com";
const KEY: (&str, &str) = ("x-api-key", FakeAiuta::API_KEY);
const USER: (&str, &str) = ("x-user-id", FakeAiuta::SUBSCRIPTION_ID);
const NOTHING: (&str, &str) = ("", "");

/// Signs a token. Uses HS512 if `alg` is HS512, and HS256 for any other `alg`.
fn sign(alg: &str, secret: &str, claims: &Value) -> String {
    let header = json!({ "alg": alg, "typ": "JWT" });
    let parts = [header, claims.clone()].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let message = parts.join(".");
    let algorithm = if alg == "HS512" { Algorithm::HS512 } else { Algorithm::HS256 };
    let signer = (DEFAULT_PROVIDER.signer_factory)(&algorithm, &EncodingKey::from_secret(secret.as_bytes())).unwrap();
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signer.try_sign(message.as_bytes()).unwrap()))
}

/// Returns `Bearer` and a valid token for these params.
fn bearer(params: Value) -> String {
    let mut claims = json!({ "iss": FakeAiuta::ISSUER, "iat": NOW, "exp": NOW + 60 });
    claims.as_object_mut().unwrap().extend(params.as_object().unwrap().clone());
    format!("Bearer {}", sign("HS256", FakeAiuta::SECRET, &claims))
}

/// Returns a `FakeAiuta` whose clock stands at `NOW`.
fn aiuta() -> FakeAiuta {
    FakeAiuta::new().with_clock(ManualClock::default())
}

async fn uploaded(aiuta: &FakeAiuta) -> String {
    let answer = send(aiuta, upload(ORIGIN, USER)).await;
    assert_eq!(answer.status, 200);
    answer.json()["id"].as_str().unwrap().to_owned()
}

fn last(aiuta: &FakeAiuta) -> RecordedRequest {
    aiuta.requests().pop().unwrap()
}

type HttpClient = Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>;

fn http1() -> HttpClient {
    Client::builder(TokioExecutor::new()).build_http()
}

fn http2() -> HttpClient {
    Client::builder(TokioExecutor::new()).http2_only(true).build_http()
}

/// Uploads, starts, polls and downloads. Returns the response to the start and the last state of the operation.
async fn try_on<S, R>(client: &S, origin: &str, path: &str) -> Value
where
    S: Service<Request<Full<Bytes>>, Response = http::Response<R>> + Clone,
    S::Error: std::fmt::Debug,
    R: http_body::Body<Error: std::fmt::Debug>,
{
    let image = send(client, upload(origin, USER)).await.json();
    assert_eq!((&image["owner_type"], &image["expires_at"]), (&json!("user"), &json!("2027-01-16T08:00:00Z")));
    let id = image["id"].as_str().unwrap();
    assert!(id.starts_with("user_image-"));
    assert_eq!(send(client, get(&format!("{origin}/v1/uploaded_images/{id}"), USER)).await.json(), image);

    let body = json!({ "uploaded_image_id": id, "sku_ids": ["a", "b"] });
    let token = bearer(body.clone());
    let start = request(Method::POST, &format!("{origin}{path}"), ("authorization", &token), &body);
    let started = send(client, start).await.json();
    let operation = format!("{origin}{path}/{}", started["operation_id"].as_str().unwrap());
    for status in ["CREATED", "IN_PROGRESS"] {
        let polled = send(client, get(&operation, USER)).await.json();
        assert_eq!((&polled["status"], &polled["generated_images"]), (&json!(status), &json!([])));
    }
    let done = send(client, get(&operation, USER)).await.json();
    assert_eq!(send(client, get(&operation, USER)).await.json(), done, "success is final");
    assert_eq!((&done["status"], &done["error"]), (&json!("SUCCESS"), &Value::Null));

    let result = send(client, get(done["generated_images"][0]["url"].as_str().unwrap(), NOTHING)).await;
    assert_eq!(
        (result.status, &result.headers[CONTENT_TYPE], &result.body[..]),
        (StatusCode::OK, &"image/jpeg".parse().unwrap(), PHOTO)
    );
    json!({ "started": started, "done": done })
}
