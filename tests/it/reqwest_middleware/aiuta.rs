//! Requests to `FakeAiuta`: which credential is sent, its params, and the replay after a revocation.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use http::{Method, StatusCode};
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use tower_aiuta_auth::testing::{Credential, FakeAiuta};
use tower_aiuta_auth::{Access, AiutaAuthLayer, AuthParams, NoReplay};

use super::*;
use crate::support::servers::{Server, api_key_layer, jwt_layer};
use crate::support::*;

const PHOTO: &[u8] = b"\xff\xd8\xff\xe0 a photo";

fn credentials(aiuta: &FakeAiuta) -> Vec<Credential> {
    aiuta.requests().iter().map(tower_aiuta_auth::testing::RecordedRequest::credential).collect()
}

/// Uploads a photo, starts a try-on, polls it and downloads the result. Returns the id of the photo.
async fn try_on(client: &ClientWithMiddleware, origin: &str) -> String {
    // The body has an unknown length, like a file that is still being read.
    let photo = stream::iter(PHOTO.chunks(4)).map(|chunk| Ok::<_, std::io::Error>(Bytes::from_static(chunk)));
    let photo = Part::stream(reqwest::Body::wrap_stream(photo)).file_name("photo.jpg").mime_str("image/jpeg").unwrap();
    let form = Form::new().part("image_data", photo);
    let uploaded = client.post(format!("{origin}{UPLOADS}")).multipart(form).send().await.unwrap();
    assert_eq!(uploaded.status(), 200);
    let image = uploaded.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned();

    let started = start(client, origin, &image).await;
    assert_eq!(started.status(), 200);
    let operation = started.json::<Value>().await.unwrap()["operation_id"].as_str().unwrap().to_owned();
    loop {
        let done: Value =
            client.get(format!("{origin}{START}/{operation}")).send().await.unwrap().json().await.unwrap();
        if done["status"] == "SUCCESS" {
            let url = done["generated_images"][0]["url"].as_str().unwrap().to_owned();
            assert_eq!(client.get(url).send().await.unwrap().status(), StatusCode::OK);
            return image;
        }
    }
}

async fn start(client: &ClientWithMiddleware, origin: &str, image: &str) -> Response {
    let order = json!({ "uploaded_image_id": image, "sku_ids": ["dress-1"] });
    client.post(format!("{origin}{START}")).json(&order).send().await.unwrap()
}

#[tokio::test]
async fn a1_reqwest_sends_the_api_key_except_to_the_storage_host() {
    let aiuta = FakeAiuta::new();
    let server = aiuta.serve().await.unwrap();
    try_on(&client(&api_key_layer(&aiuta, &server)), server.origin()).await;
    let credentials = credentials(&aiuta);
    let (last, others) = credentials.split_last().unwrap();
    assert_eq!(*last, Credential::None);
    assert!(others.iter().all(|credential| *credential == Credential::ApiKey), "{others:?}");
    assert_eq!((aiuta.operations_started(), aiuta.violations().len()), (1, 0));
}

#[tokio::test]
async fn a3_reqwest_sends_a_jwt_to_start_and_the_subscription_id_otherwise() {
    let aiuta = FakeAiuta::new();
    let server = aiuta.serve().await.unwrap();
    let image = try_on(&client(&jwt_layer(&aiuta, &server)), server.origin()).await;
    let credentials = credentials(&aiuta);
    assert_eq!(credentials[..3], [Credential::UserId, Credential::Bearer, Credential::UserId]);
    assert_eq!(credentials.last(), Some(&Credential::None));
    // B1: the token holds the params of the body.
    let token = aiuta.requests()[1].headers["authorization"].to_str().unwrap().to_owned();
    let claims = claims(token.strip_prefix("Bearer ").unwrap());
    assert_eq!((&claims["uploaded_image_id"], &claims["sku_ids"]), (&json!(image), &json!(["dress-1"])));
    assert_eq!((aiuta.operations_started(), aiuta.violations().len()), (1, 0));
}

#[tokio::test]
async fn b1_reqwest_params_in_extensions_override_the_body() {
    let aiuta = Recorder::new();
    let server = Server::recording(&aiuta).await;
    let source = Source::new();
    let client = client(&jwt(source.clone()).origins([server.origin()]).build().unwrap());
    let url = format!("{}{START}", server.origin());
    let sent = client.post(&url).with_extension(params("image-1")).body("no JSON").send().await.unwrap();
    assert_eq!(sent.status(), 200);
    assert_eq!(claims(aiuta.only().token())["params"], json!({ "uploaded_image_id": "image-1", "sku_id": "dress-1" }));
    assert_eq!(aiuta.only().body, "no JSON");

    // Params in the extensions of an `http::Request`.
    let mut request = post(&url, "no JSON").map(|_| "no JSON");
    request.extensions_mut().insert(params("image-2"));
    client.execute(request.try_into().unwrap()).await.unwrap();
    assert_eq!(source.requests()[1].params(), &params("image-2"));
    // Extensions of the middleware override those of the request.
    let mut request = post(&url, "no JSON").map(|_| "no JSON");
    request.extensions_mut().insert(params("image-2"));
    let mut extensions = Extensions::new();
    extensions.insert(params("image-3"));
    client.execute_with_extensions(request.try_into().unwrap(), &mut extensions).await.unwrap();
    assert_eq!(source.requests()[2].params(), &params("image-3"));
    assert!(extensions.get::<AuthParams>().is_some());
}

#[tokio::test]
async fn a3_reqwest_access_extension_overrides_the_table() {
    let aiuta = Recorder::new();
    let server = Server::recording(&aiuta).await;
    let layer = jwt(Source::new()).origins([server.origin()]).allow_unbound_tokens(true).build().unwrap();
    let client = client(&layer);
    for (access, expected) in [
        (Access::Jwt, ["authorization"].as_slice()),
        (Access::SubscriptionId, &["x-user-id"]),
        (Access::Anonymous, &[]),
    ] {
        client.get(format!("{}/healthz", server.origin())).with_extension(access).send().await.unwrap();
        assert_eq!(aiuta.last().credentials(), expected);
    }
}

#[tokio::test]
async fn e2_reqwest_replays_once_after_a_revocation() {
    let aiuta = FakeAiuta::new();
    let server = aiuta.serve().await.unwrap();
    let layer = jwt_layer(&aiuta, &server);
    let client = client(&layer);
    let image = try_on(&client, server.origin()).await;
    aiuta.revoke_tokens();
    aiuta.clear_requests();
    assert_eq!(start(&client, server.origin(), &image).await.status(), 200);
    let requests = aiuta.requests();
    assert_eq!(requests.iter().map(|request| request.status).collect::<Vec<_>>(), [Some(401), Some(200)]);
    assert_ne!(requests[0].headers["authorization"], requests[1].headers["authorization"]);
    let without_token = |at: usize| {
        let mut headers = requests[at].headers.clone();
        headers.remove("authorization");
        (
            requests[at].method.clone(),
            requests[at].uri.clone(),
            requests[at].version,
            headers,
            requests[at].body.clone(),
        )
    };
    assert_eq!(without_token(0), without_token(1));
    assert_eq!((aiuta.operations_started(), layer.token_cache().unwrap().stats().replays), (2, 1));
}

#[tokio::test]
async fn e2_reqwest_no_replay_extension_prevents_the_replay() {
    let aiuta = Recorder::with_status(|_| StatusCode::UNAUTHORIZED);
    let server = Server::recording(&aiuta).await;
    let layer = jwt(Source::new()).origins([server.origin()]).build().unwrap();
    let params = AuthParams::new().with("uploaded_image_id", "1");
    layer.token_cache().unwrap().get(&params).await.unwrap();
    let delete = || client(&layer).request(Method::DELETE, format!("{}/v1/uploaded_images/1", server.origin()));
    assert_eq!(delete().with_extension(NoReplay).send().await.unwrap().status(), 401);
    assert_eq!(aiuta.count(), 1);
    layer.token_cache().unwrap().clear();
    layer.token_cache().unwrap().get(&params).await.unwrap();
    assert_eq!(delete().send().await.unwrap().status(), 401);
    assert_eq!(aiuta.count(), 3);
}

#[test]
fn a4_reqwest_debug_shows_no_secret() {
    let layer = AiutaAuthLayer::api_key("very-secret").unwrap();
    let shown = format!("{:?}", layer.into_middleware());
    assert!(shown.starts_with("AiutaAuthMiddleware") && !shown.contains("very-secret"), "{shown}");
}

#[tokio::test]
async fn a4_reqwest_credential_headers_are_sensitive() {
    let spy = Spy::responding_ok();
    let auth = AiutaAuthLayer::api_key("very-secret").unwrap().into_middleware();
    let client = ClientBuilder::new(reqwest()).with(auth).with(spy.clone()).build();
    client.get(format!("https://api.aiuta.com{MODELS}")).send().await.unwrap();
    assert!(spy.only().headers()["x-api-key"].is_sensitive());
}
