//! `examples/token_server`: which requests get a token, and when the server exits.

use std::io::{BufRead, BufReader};
use std::process::{Child, ExitStatus, Stdio};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::Value;

use crate::{loopback, runner};

/// The running example. It is killed on drop.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start(args: &[&str]) -> Self {
        let mut command = runner::example("token_server");
        let mut process = command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("listening on ").unwrap().to_owned();
        Self { process, url }
    }

    /// Requests a token by a query. Returns status, headers and JSON.
    async fn request(&self, method: Method, query: &str, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap, Value) {
        let mut request = Request::builder().method(method).uri(format!("{}?{query}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = loopback::client().request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
        let (head, body) = answer.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (head.status, head.headers, serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn request_as(&self, session: &str, query: &str) -> (StatusCode, HeaderMap, Value) {
        let headers = [("authorization", session), ("origin", "https://shop.example")];
        self.request(Method::GET, query, &headers).await
    }

    async fn wait(mut self) -> ExitStatus {
        tokio::task::spawn_blocking(move || self.process.wait().unwrap()).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails if it has exited.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const ALICE: &str = "Bearer alice-is-logged-in";
const BOB: &str = "Bearer bob-is-logged-in";

#[test]
fn once_without_address_requests_a_token_and_exits() {
    let output = runner::example("token_server").arg("--once").output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && stdout.contains("alice got a token"), "{stdout}");
}

#[tokio::test]
async fn once_with_address_serves_one_request_and_exits() {
    let server = Server::start(&["--once", "--listen", "127.0.0.1:0"]);
    assert_eq!(server.request_as(ALICE, "uploaded_image_id=alice-photo-1").await.0, 200);
    assert!(server.wait().await.success());
}

#[tokio::test]
async fn b5_user_gets_tokens_only_for_own_photos() {
    let server = Server::start(&[]);
    for (session, query, expected) in [
        (ALICE, "uploaded_image_id=alice-photo-1&sku_id=dress-1", 200),
        (BOB, "uploaded_image_id=bob-photo-1", 200),
        (BOB, "uploaded_image_id=alice-photo-1", 403),
        (BOB, "uploaded_image_id=nobody-s", 403),
        (ALICE, "sku_id=dress-1", 403),
        (ALICE, "uploaded_image_id=alice-photo-1&exp=4000000000", 400),
        ("Bearer made-up", "uploaded_image_id=alice-photo-1", 401),
        ("alice-is-logged-in", "uploaded_image_id=alice-photo-1", 401),
    ] {
        let (status, headers, answer) = server.request_as(session, query).await;
        assert_eq!(status, expected, "{session} {query}: {answer}");
        assert_eq!((answer["token"].is_string(), answer["error"].is_string()), (expected == 200, expected != 200));
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["cache-control"], "no-store");
        assert_eq!(headers["access-control-allow-origin"], "https://shop.example", "scripts of the page can read it");
    }
}

#[tokio::test]
async fn preflight_needs_no_session_and_allows_only_the_shop_origin() {
    let server = Server::start(&[]);
    let preflight = [
        ("origin", "https://shop.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type"),
    ];
    let (status, headers, _) = server.request(Method::OPTIONS, "", &preflight).await;
    assert_eq!(status, 200);
    assert_eq!(headers["access-control-allow-origin"], "https://shop.example");
    assert_eq!(headers["access-control-allow-headers"], "authorization,content-type");
    assert_eq!(headers["access-control-allow-methods"], "GET,POST");

    let foreign = [("origin", "https://evil.example"), ("authorization", ALICE)];
    let (_, headers, _) = server.request(Method::GET, "uploaded_image_id=alice-photo-1", &foreign).await;
    assert_ne!(headers["access-control-allow-origin"], "https://evil.example");
}

#[tokio::test]
async fn rate_limit_applies_per_user_and_sends_retry_after() {
    let server = Server::start(&[]);
    let photo = "uploaded_image_id=alice-photo-1";
    for session in [ALICE, "Bearer made-up", "Bearer made-up"] {
        for _ in 0..20 {
            let expected = if session == ALICE { 200 } else { 401 };
            assert_eq!(server.request_as(session, photo).await.0, expected);
        }
    }
    let (status, headers, answer) = server.request_as(ALICE, photo).await;
    assert_eq!((status, answer["error"].as_str()), (StatusCode::TOO_MANY_REQUESTS, Some("too many requests")));
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["retry-after"], "60");
    assert_eq!(headers["access-control-expose-headers"], "retry-after", "scripts of the page can read it");
    assert_eq!(server.request_as(BOB, "uploaded_image_id=bob-photo-1").await.0, 200);
}
