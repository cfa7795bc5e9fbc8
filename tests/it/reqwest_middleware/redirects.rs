//! Rule A5 for redirects that reqwest follows inside the middleware, with and without `same_origin_redirects`.

use http::StatusCode;
use http::header::LOCATION;
use tower_aiuta_auth::same_origin_redirects;

use super::*;
use crate::support::servers::{Server, redirecting};
use crate::support::*;

fn same_origin_client(layer: &AiutaAuthLayer) -> ClientWithMiddleware {
    let reqwest = reqwest::Client::builder().no_proxy().redirect(same_origin_redirects()).build().unwrap();
    ClientBuilder::new(reqwest).with(layer.clone().into_middleware()).build()
}

fn api_key(origin: &str) -> AiutaAuthLayer {
    AiutaAuthLayer::builder().api_key("very-secret").origins([origin]).build().unwrap()
}

/// Starts Aiuta, which redirects every request to a foreign host. Returns both servers and their requests.
async fn aiuta_and_a_foreign_host() -> (Server, Recorder, Server, Recorder) {
    let foreign_requests = Recorder::new();
    let foreign = Server::recording(&foreign_requests).await;
    let elsewhere = format!("{}/elsewhere", foreign.origin());
    let aiuta_requests = redirecting(move |_| Some(elsewhere.clone()));
    (Server::recording(&aiuta_requests).await, aiuta_requests, foreign, foreign_requests)
}

#[tokio::test]
async fn a5_reqwest_default_policy_leaks_api_key_and_subscription_id() {
    // A limit of reqwest. If this test fails after an update, reqwest no longer leaks: then adapt the documentation.
    let (aiuta, _, _foreign, foreign_requests) = aiuta_and_a_foreign_host().await;
    let url = format!("{}{MODELS}", aiuta.origin());
    assert_eq!(client(&api_key(aiuta.origin())).get(&url).send().await.unwrap().status(), 200);
    assert_eq!(foreign_requests.last().header("x-api-key"), "very-secret");

    let jwt = jwt(Source::new()).origins([aiuta.origin()]).build().unwrap();
    assert_eq!(client(&jwt).get(&url).send().await.unwrap().status(), 200);
    assert_eq!(foreign_requests.last().header("x-user-id"), ID);
    // reqwest drops `authorization`.
    let start = client(&jwt).post(format!("{}{START}", aiuta.origin())).with_extension(params("image-1"));
    assert_eq!(start.send().await.unwrap().status(), 200);
    assert_eq!((foreign_requests.count(), foreign_requests.last().credentials()), (3, vec![]));
}

#[tokio::test]
async fn a5_reqwest_same_origin_redirects_reach_no_foreign_host() {
    let (aiuta, aiuta_requests, foreign, foreign_requests) = aiuta_and_a_foreign_host().await;
    let jwt = jwt(Source::new()).origins([aiuta.origin()]).build().unwrap();
    for client in [same_origin_client(&api_key(aiuta.origin())), same_origin_client(&jwt)] {
        for request in [
            client.get(format!("{}{MODELS}", aiuta.origin())),
            client.post(format!("{}{START}", aiuta.origin())).with_extension(params("image-1")),
        ] {
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), StatusCode::TEMPORARY_REDIRECT);
            assert_eq!(response.headers()[LOCATION], format!("{}/elsewhere", foreign.origin()));
        }
    }
    assert_eq!((aiuta_requests.count(), foreign_requests.count()), (4, 0));
    // A direct request to the foreign host carries no credential.
    same_origin_client(&jwt).get(format!("{}/elsewhere", foreign.origin())).send().await.unwrap();
    assert_eq!(foreign_requests.only().credentials(), [""; 0]);
}

#[tokio::test]
async fn a5_reqwest_same_origin_redirects_compare_scheme_host_and_port() {
    let location = Arc::new(Mutex::new(String::new()));
    let aiuta_requests = redirecting({
        let location = location.clone();
        move |seen| (seen.uri.path() == "/").then(|| location.lock().unwrap().clone())
    });
    let aiuta = Server::recording(&aiuta_requests).await;
    let port = aiuta.origin().rsplit(':').next().unwrap();
    let client = same_origin_client(&api_key(aiuta.origin()));
    for (to, expected) in [
        (format!("https://127.0.0.1:{port}/x"), 307),
        (format!("http://localhost:{port}/x"), 307),
        ("http://127.0.0.1/x".to_owned(), 307),
        ("//example.com/x".to_owned(), 307),
        ("ftp://127.0.0.1/x".to_owned(), 307),
        (format!("http://127.0.0.1:{port}/x"), 200),
        (format!("HTTP://127.0.0.1:{port}/x"), 200),
        (format!("//127.0.0.1:{port}/x"), 200),
        ("/x".to_owned(), 200),
        ("x".to_owned(), 200),
    ] {
        location.lock().unwrap().clone_from(&to);
        let response = client.get(format!("{}/", aiuta.origin())).send().await.unwrap();
        assert_eq!(response.status(), expected, "{to}");
    }
}

#[tokio::test]
async fn a5_reqwest_same_origin_redirects_stop_after_ten() {
    let step = |seen: &SentRequest| seen.uri.path()[1..].parse::<u32>().unwrap();
    for (redirects, requests, status) in [(10, 11, 200), (11, 11, 307), (99, 11, 307)] {
        let aiuta_requests = redirecting(move |seen| (step(seen) < redirects).then(|| format!("/{}", step(seen) + 1)));
        let aiuta = Server::recording(&aiuta_requests).await;
        let response =
            same_origin_client(&api_key(aiuta.origin())).get(format!("{}/0", aiuta.origin())).send().await.unwrap();
        assert_eq!((response.status().as_u16(), aiuta_requests.count()), (status, requests));
        assert_eq!(response.url().path(), "/10");
        // Each hop stays at Aiuta and carries the credential.
        assert!(aiuta_requests.requests().iter().all(|seen| seen.credentials() == ["x-api-key"]));
    }
}
