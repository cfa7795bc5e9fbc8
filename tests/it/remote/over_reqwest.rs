//! `RemoteTokenSource` over reqwest: it follows no redirects, and no error shows its URL.

use std::fmt;

use axum::Router;
use axum::response::Redirect;
use http::Request;
use reqwest::redirect::Policy;
use tower::timeout::Timeout;
use tower::util::BoxCloneSyncService;

use super::*;
use crate::support::servers::Server;

/// Builds a client that does not use the proxies of this machine.
fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder().no_proxy()
}

fn request() -> TokenRequest {
    TokenRequest::new(params(SECRET).with_partition("alice"), ManualClock::default().now())
}

#[tokio::test]
async fn g4_reqwest_source_gets_tokens_by_post_and_get() {
    let signer = JwtSigner::hs256(FakeAiuta::ISSUER, FakeAiuta::SECRET).unwrap();
    let issuer = JwtIssuer::new(signer, |head, params| async move {
        for (name, value) in [("x-user", "alice"), ("x-key", "key-1"), ("user-agent", "shop/1")] {
            assert_eq!(head.headers[name], value);
        }
        Ok(params)
    });
    let server = Server::with_router(Router::new().route_service("/aiuta_jwt", issuer)).await;
    // The builder's own settings are kept.
    for method in [Method::POST, Method::GET] {
        let url = format!("{}/aiuta_jwt", server.origin());
        let source = RemoteTokenSource::reqwest(url, builder().user_agent("shop/1")).unwrap();
        let source = source.method(method).header("x-key", "key-1").unwrap().partition_header("x-user").unwrap();
        let token = source.token(request()).await.unwrap();
        assert_eq!(claims(token.expose())["uploaded_image_id"], SECRET);
        assert!(token.age().is_some(), "the response's head is complete");
    }
}

#[tokio::test]
async fn g4_reqwest_source_follows_no_redirect() {
    let elsewhere = Recorder::new();
    let other = Server::recording(&elsewhere).await;
    let location = format!("{}/{SECRET}", other.origin());
    for redirect in [Redirect::to(&location), Redirect::temporary(&location), Redirect::permanent(&location)] {
        let server = Server::with_router(Router::new().fallback(async move || redirect)).await;
        for method in [Method::POST, Method::GET] {
            // Also if the builder allows redirects.
            let builder = builder().redirect(Policy::limited(10));
            let source = RemoteTokenSource::reqwest(server.origin(), builder).unwrap().method(method);
            let source = source.header("x-key", "key-1").unwrap().partition_header("x-user").unwrap();
            let error = source.token(request()).await.unwrap_err();
            let text = chain(&error);
            assert!(text.contains("redirects are not followed") && !text.contains(SECRET), "{text}");
            assert!(!error.is_transient());
        }
    }
    assert_eq!(elsewhere.count(), 0);
}

#[test]
fn g4_reqwest_source_rejects_invalid_settings() {
    for url in ["", "/aiuta_jwt", "http://shop.example/hush-hush", "ftp://shop.example/hush-hush"] {
        let error = RemoteTokenSource::reqwest(url, builder()).unwrap_err();
        assert!(error.setting() == "url" && !error.to_string().contains(SECRET), "{error}");
    }
    let builder = builder().user_agent(format!("{SECRET}\n"));
    let error = RemoteTokenSource::reqwest(URL, builder).unwrap_err();
    assert!(error.setting() == "builder" && !error.to_string().contains(SECRET), "{error}");
}

#[test]
fn a4_debug_of_reqwest_source_shows_no_secret() {
    let headers = [(http::header::AUTHORIZATION, SECRET.parse().unwrap())].into_iter().collect();
    let source = RemoteTokenSource::reqwest(format!("{URL}?key={SECRET}"), builder().default_headers(headers)).unwrap();
    let text = format!("{source:?} {source:#?}");
    assert!(text.contains(URL) && !text.contains(SECRET), "{text}");
}

type RemoteService = BoxCloneSyncService<Request<Full<Bytes>>, Response<reqwest::Body>, BoxError>;

/// Calls reqwest as a user's own service does, and converts its errors.
fn own_client(convert: fn(reqwest::Error) -> BoxError) -> RemoteService {
    let client = builder().build().unwrap();
    BoxCloneSyncService::new(tower::service_fn(move |request: Request<Full<Bytes>>| {
        let client = client.clone();
        async move {
            let request = reqwest::Request::try_from(request.map(reqwest::Body::wrap))?;
            client.execute(request).await.map(Response::from).map_err(convert)
        }
    }))
}

/// An error that shows its cause in its own text, too.
#[derive(Debug)]
struct Wrapped(BoxError);

impl fmt::Display for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wrapped: {}", self.0)
    }
}

impl Error for Wrapped {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

#[tokio::test]
async fn a4_url_is_removed_from_errors_of_any_reqwest_service() {
    let (_socket, url) = loopback::refusing_origin();
    let bare = builder().build().unwrap().get(format!("{url}/{SECRET}")).send().await.unwrap_err();
    assert!(chain(&bare).contains(SECRET), "{}", chain(&bare));

    for (name, service) in [
        ("a plain client", own_client(Into::into)),
        ("tower's Timeout", BoxCloneSyncService::new(Timeout::new(own_client(Into::into), secs(5)))),
        ("an error in an error", own_client(|error| Wrapped(error.into()).into())),
        (
            "an error in an error in an error",
            own_client(|error| Wrapped(reqwest_middleware::Error::from(error).into()).into()),
        ),
        ("an error of reqwest-middleware", own_client(|error| reqwest_middleware::Error::from(error).into())),
        (
            "an error of a middleware",
            own_client(|error| {
                let error = reqwest_middleware::Error::from(error);
                reqwest_middleware::Error::middleware(Wrapped(reqwest_middleware::Error::middleware(error).into()))
                    .into()
            }),
        ),
    ] {
        // With `GET`, the params are in the URL.
        for method in [Method::POST, Method::GET] {
            let source = RemoteTokenSource::new(format!("{url}/{SECRET}?{SECRET}"), service.clone()).unwrap();
            let error = source.method(method).token(request()).await.unwrap_err();
            let text = chain(&error);
            assert!(error.is_transient() && text.contains("error sending request"), "{name}: {text}");
            assert!(!text.contains(SECRET), "{name}: {text}");
        }
    }
}

#[tokio::test]
async fn k1_https_without_tls_names_the_missing_feature() {
    // The reqwest of these tests is built without TLS, and so is this hyper client.
    let assert_named = |error: TokenError| {
        let text = chain(&error);
        assert!(!error.is_transient() && !text.contains(SECRET), "{text}");
        assert!(text.contains("without TLS") && text.contains("`rustls`"), "{text}");
    };
    let url = format!("https://127.0.0.1:9/{SECRET}");
    assert_named(RemoteTokenSource::reqwest(&url, builder()).unwrap().token(request()).await.unwrap_err());
    assert_named(RemoteTokenSource::new(&url, own_client(Into::into)).unwrap().token(request()).await.unwrap_err());
    assert_named(RemoteTokenSource::new(&url, loopback::client()).unwrap().token(request()).await.unwrap_err());
}
