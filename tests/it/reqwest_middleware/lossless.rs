//! Rules A1 and B2: requests and responses keep everything except the credential.

use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderValue, Method, StatusCode, Version};
use http_body_util::BodyExt;
use reqwest::Url;
use tokio::sync::mpsc;
use tower_aiuta_auth::{Access, AuthParams};

use super::*;
use crate::support::servers::Server;
use crate::support::*;

/// Returns a request that uses every feature of a request.
fn request(method: Method, url: &str, body: Option<&'static str>) -> Request {
    // An `http::Request` can carry extensions, which reqwest keeps but does not expose.
    let mut request =
        Request::try_from(http::Request::builder().uri("http://x/").extension(Own(7)).body("").unwrap()).unwrap();
    *request.method_mut() = method;
    *request.url_mut() = Url::parse(url).unwrap();
    *request.body_mut() = body.map(Into::into);
    *request.version_mut() = Version::HTTP_2;
    *request.timeout_mut() = Some(Duration::from_millis(12_345));
    request.headers_mut().append("x-twice", HeaderValue::from_static("one"));
    request.headers_mut().append("x-twice", HeaderValue::from_static("two"));
    request.headers_mut().insert("x-odd", HeaderValue::from_bytes(b"\xfa\xfb").unwrap());
    request
}

#[derive(Clone, Debug, PartialEq)]
struct Own(u8);

const URL: &str = "https://api.aiuta.com/v1//a/%7eb/../%41?q=%20+%C3%BC&&=#fragment";

/// Everything of a request that has to be unchanged, except for the headers.
#[derive(Debug, PartialEq)]
struct Parts {
    method: Method,
    url: String,
    body: Option<Vec<u8>>,
    version: Version,
    timeout: Option<Duration>,
    own: Option<Own>,
}

fn parts(request: &Request) -> Parts {
    let own = http::Request::try_from(request.try_clone().unwrap()).unwrap().extensions().get::<Own>().cloned();
    Parts {
        method: request.method().clone(),
        url: request.url().to_string(),
        body: request.body().map(|body| body.as_bytes().unwrap().to_vec()),
        version: request.version(),
        timeout: request.timeout().copied(),
        own,
    }
}

#[tokio::test]
async fn a1_reqwest_request_keeps_everything_but_old_credentials() {
    let unbound = jwt(Source::new()).allow_unbound_tokens(true).build().unwrap();
    let layers = [AiutaAuthLayer::api_key("key").unwrap(), unbound];
    for layer in layers {
        for body in [None, Some(""), Some("a body")] {
            let spy = Spy::responding_ok();
            let client = ClientBuilder::new(reqwest()).with(layer.clone().into_middleware()).with(spy.clone()).build();
            let mut sent = request(Method::PATCH, URL, body);
            let original = sent.try_clone().unwrap();
            for name in ["authorization", "x-api-key", "x-user-id"] {
                sent.headers_mut().insert(name, HeaderValue::from_static("the caller's"));
            }
            client.execute(sent).await.unwrap();

            let mut seen = spy.only();
            assert_eq!(parts(&seen), parts(&original));
            let credential = if layer.token_cache().is_some() { "authorization" } else { "x-api-key" };
            assert_ne!(
                seen.headers_mut().remove(credential).expect("the request carries no credential"),
                "the caller's"
            );
            assert_eq!(seen.headers(), original.headers());
        }
    }
}

#[tokio::test]
async fn a1_reqwest_foreign_and_anonymous_requests_are_untouched() {
    for (url, access) in [
        ("https://example.com/?a=b#c", None),
        ("http://api.aiuta.com/v1/x", None),
        // URLs that are not valid as `http::Uri`.
        ("data:text/plain,hello", None),
        ("unix:///run/a b.sock", None),
        (URL, Some(Access::Anonymous)),
    ] {
        let spy = Spy::responding_ok();
        let layer = jwt(Source::new()).build().unwrap();
        let client = ClientBuilder::new(reqwest()).with(layer.into_middleware()).with(spy.clone()).build();
        let mut sent = request(Method::POST, url, None);
        sent.headers_mut().insert("authorization", HeaderValue::from_static("the caller's"));
        let original = sent.try_clone().unwrap();
        let mut extensions = Extensions::new();
        access.map(|access| extensions.insert(access));
        client.execute_with_extensions(sent, &mut extensions).await.unwrap();
        let seen = spy.only();
        let comparable =
            |request: &Request| (request.method().clone(), request.url().clone(), request.body().is_none());
        assert_eq!(comparable(&seen), comparable(&original), "{url}");
        assert_eq!((seen.headers(), seen.timeout()), (original.headers(), original.timeout()), "{url}");
    }
}

#[tokio::test]
async fn e2_reqwest_replay_is_identical_except_for_the_token() {
    let layer = jwt(Source::new()).allow_unbound_tokens(true).build().unwrap();
    let spy = Spy::responding(|_| http::Response::builder().status(401).body("").unwrap().into());
    let client = ClientBuilder::new(reqwest()).with(layer.clone().into_middleware()).with(spy.clone()).build();
    for body in [None, Some("a body")] {
        layer.token_cache().unwrap().clear();
        layer.token_cache().unwrap().get(&AuthParams::new()).await.unwrap();
        client.execute(request(Method::DELETE, URL, body)).await.unwrap();
        let seen = std::mem::take(&mut *spy.requests.lock().unwrap());
        assert_eq!(seen.len(), 2);
        assert_eq!(parts(&seen[1]), parts(&request(Method::DELETE, URL, body)));
        assert_eq!(seen[1].headers().get_all("x-twice").iter().count(), 2);
    }
}

#[tokio::test]
async fn reqwest_response_is_unchanged() {
    let aiuta = Recorder::with_response(|_| async {
        let response = http::Response::builder().header("x-twice", "one").header("x-twice", "two").body("hello".into());
        Ok(response.unwrap())
    });
    let server = Server::recording(&aiuta).await;
    let url = format!("{}/v1/x?q", server.origin());
    let layer = jwt(Source::new()).origins([server.origin()]).allow_unbound_tokens(true).build().unwrap();
    let (plain, response) = (reqwest().get(&url).send().await.unwrap(), client(&layer).get(&url).send().await.unwrap());
    assert_eq!(response.url().as_str(), url);
    assert_eq!((response.status(), response.version()), (StatusCode::OK, Version::HTTP_11));
    assert_eq!(response.remote_addr(), plain.remote_addr());
    let without_date = |response: &Response| {
        let mut headers = response.headers().clone();
        headers.remove("date");
        headers
    };
    assert_eq!(without_date(&response), without_date(&plain));
    assert_eq!(response.content_length(), Some(5));
    assert_eq!(response.text().await.unwrap(), "hello");
}

#[tokio::test]
async fn b2_reqwest_upload_is_streamed_unchanged() {
    // The client sends each chunk after the server received the previous one. If the body were buffered, this would
    // never end.
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let server = Server::with_router(Router::new().fallback(async move |request: axum::extract::Request| {
        let mut body = request.into_body();
        let mut whole = Vec::new();
        while let Some(frame) = body.frame().await {
            let chunk = frame.unwrap().into_data().unwrap();
            whole.extend_from_slice(&chunk);
            arrived.send(chunk).unwrap();
        }
        whole
    }))
    .await;
    let chunks: Vec<_> = (0..20_u8).map(|byte| Bytes::from(vec![byte; 8 * 1024])).collect();
    let whole = chunks.concat();
    let (to_send, body) = mpsc::unbounded_channel::<Bytes>();
    let body = stream::unfold(body, async |mut body| Some((body.recv().await?, body)));
    let layer = jwt(Source::new()).origins([server.origin()]).build().unwrap();
    let upload = client(&layer)
        .post(format!("{}{UPLOADS}", server.origin()))
        .body(reqwest::Body::wrap_stream(body.map(Ok::<_, std::io::Error>)));
    let upload = tokio::spawn(upload.send());
    let exchange = async {
        for chunk in chunks {
            let mut missing = chunk.len();
            to_send.send(chunk).unwrap();
            while missing > 0 {
                missing -= arrivals.recv().await.unwrap().len();
            }
        }
        drop(to_send);
        upload.await.unwrap().unwrap().bytes().await.unwrap()
    };
    let echoed = tokio::time::timeout(secs(10), exchange).await.expect("the upload was buffered");
    assert_eq!(echoed, whole);
}

/// Inserts an extension, and never responds.
struct NeverResponds;

#[derive(Clone, Debug, PartialEq)]
struct Visited;

#[async_trait::async_trait]
impl Middleware for NeverResponds {
    async fn handle(
        &self,
        _: Request,
        extensions: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        extensions.insert(Visited);
        std::future::pending().await
    }
}

#[tokio::test]
async fn reqwest_extensions_return_to_a_caller_that_cancels() {
    let layer = jwt(Source::new()).build().unwrap();
    let client = ClientBuilder::new(reqwest()).with(layer.into_middleware()).with(NeverResponds).build();
    let mut extensions = Extensions::new();
    extensions.insert(params("image-1"));
    let request = request(Method::POST, &format!("https://api.aiuta.com{START}"), None);
    let sending = client.execute_with_extensions(request, &mut extensions);
    assert!(futures::FutureExt::now_or_never(sending).is_none());
    assert_eq!(extensions.get(), Some(&Visited));
    assert_eq!(extensions.get(), Some(&params("image-1")));
}
