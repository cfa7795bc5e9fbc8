//! `from_env` with `AIUTA_TOKEN_URL`: tokens are fetched with reqwest, plain http is for loopback only, and no error
//! shows the URL.
//!
//! `tests/bare` has the tests without the features that the variable needs.

use axum::Router;
use axum::response::Redirect;
use serde_json::json;
use tower_aiuta_auth::{JwtIssuer, JwtSigner};

use crate::support::loopback::answer_once;
use crate::support::servers::Server;
use crate::support::*;

const ID: (&str, &str) = ("AIUTA_SUBSCRIPTION_ID", "id-1");

/// Calls [`super::from_env`] while servers run in this process.
async fn from_env(url: String, more: &'static [(&str, &str)]) -> String {
    let run = move || super::from_env(&[&[ID, ("AIUTA_TOKEN_URL", &url)], more].concat());
    tokio::task::spawn_blocking(run).await.unwrap()
}

#[tokio::test]
async fn config_from_env_fetches_tokens_from_the_token_url() {
    let signer = JwtSigner::hs256("issuer-1", "secret-1").unwrap();
    let issuer = JwtIssuer::new(signer, |_, params| async { Ok(params) });
    let server = Server::with_router(Router::new().route_service("/aiuta_jwt", issuer)).await;

    // Requests to loopback bypass the proxy, at which nothing listens.
    let proxies = &[("http_proxy", "http://127.0.0.1:9"), ("all_proxy", "http://127.0.0.1:9")];
    let shown = from_env(format!("{}/aiuta_jwt", server.origin()), proxies).await;
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines[..2], ["built", r#"api.aiuta.com GET {"x-user-id": "id-1"}"#], "{shown}");
    assert_eq!(lines[3..], ["gateway.example GET {}", "gateway.example POST {}"]);
    let token = lines[2].strip_prefix(r#"api.aiuta.com POST {"authorization": "Bearer "#).unwrap();
    let claims = claims(token.strip_suffix("\"}").unwrap());
    assert_eq!((&claims["iss"], &claims["uploaded_image_id"]), (&json!("issuer-1"), &json!("image-1")));
}

#[tokio::test]
async fn config_from_env_token_url_redirects_are_not_followed() {
    let elsewhere = Recorder::new();
    let other = Server::recording(&elsewhere).await;
    let location = format!("{}/s3cr3t", other.origin());
    for redirect in [Redirect::to(&location), Redirect::temporary(&location)] {
        let server = Server::with_router(Router::new().fallback(async move || redirect)).await;
        let shown = from_env(format!("{}/aiuta_jwt", server.origin()), &[]).await;
        assert!(shown.contains("redirects are not followed") && !shown.contains("s3cr3t"), "{shown}");
    }
    assert_eq!(elsewhere.count(), 0);
}

#[tokio::test]
async fn config_from_env_never_shows_the_token_url() {
    let cut = answer_once(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{".to_vec()).await;
    let broken = answer_once(b"HTTP/1.1 200 O".to_vec()).await;
    for url in [
        format!("{cut}/s3cr3t?s3cr3t"),
        format!("{broken}/s3cr3t?s3cr3t"),
        "http://127.0.0.1:9/s3cr3t?s3cr3t".to_owned(),
    ] {
        let shown = from_env(url.clone(), &[]).await;
        assert!(shown.starts_with("built\nfailed: "), "{url}: {shown}");
        assert!(shown.contains("transient") && !shown.contains("s3cr3t"), "{url}: {shown}");
    }
}

#[tokio::test]
async fn k1_https_token_url_without_tls_names_the_missing_feature() {
    // The reqwest of these tests is built without TLS.
    let shown = from_env("https://s3cr3t.invalid/s3cr3t?s3cr3t".to_owned(), &[]).await;
    assert!(shown.starts_with("built\nfailed: ") && shown.contains("feature `rustls`"), "{shown}");
    assert!(shown.contains("transient: false") && !shown.contains("s3cr3t"), "{shown}");
}
