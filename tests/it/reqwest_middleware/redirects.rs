//! Rule A5 beneath the middleware: reqwest's own redirects, with and without `same_origin_redirects`.

use http::StatusCode;
use http::header::LOCATION;
use tower_aiuta_auth::same_origin_redirects;

use super::*;
use crate::support::servers::{Server, redirecting};
use crate::support::*;

fn safe_client(layer: &AiutaAuthLayer) -> ClientWithMiddleware {
    let reqwest = reqwest::Client::builder().no_proxy().redirect(same_origin_redirects()).build().unwrap();
    ClientBuilder::new(reqwest).with(layer.clone().into_middleware()).build()
}

fn api_key(origin: &str) -> AiutaAuthLayer {
    AiutaAuthLayer::builder().api_key("very-secret").origins([origin]).build().unwrap()
}

/// Aiuta, which sends everything on to the foreign host: both of them, and what they saw.
async fn aiuta_and_a_foreign_host() -> (Server, Recorder, Server, Recorder) {
    let abroad = Recorder::new();
    let foreign = Server::recording(&abroad).await;
    let elsewhere = format!("{}/elsewhere", foreign.origin());
    let home = redirecting(move |_| Some(elsewhere.clone()));
    (Server::recording(&home).await, home, foreign, abroad)
}

#[tokio::test]
async fn a5_reqwest_default_policy_leaks_api_key_and_subscription_id() {
    // Not as it should be: as reqwest is. Should this test fail, reqwest has learnt, and the documentation may say so.
    let (aiuta, _, _foreign, abroad) = aiuta_and_a_foreign_host().await;
    let url = format!("{}{MODELS}", aiuta.origin());
    assert_eq!(client(&api_key(aiuta.origin())).get(&url).send().await.unwrap().status(), 200);
    assert_eq!(abroad.last().header("x-api-key"), "very-secret");

    let jwt = jwt(Source::new()).origins([aiuta.origin()]).build().unwrap();
    assert_eq!(client(&jwt).get(&url).send().await.unwrap().status(), 200);
    assert_eq!(abroad.last().header("x-user-id"), ID);
    // `authorization` it knows.
    let start = client(&jwt).post(format!("{}{START}", aiuta.origin())).with_extension(params("image-1"));
    assert_eq!(start.send().await.unwrap().status(), 200);
    assert_eq!((abroad.count(), abroad.last().credentials()), (3, vec![]));
}

#[tokio::test]
async fn a5_reqwest_same_origin_redirects_reach_no_foreign_host() {
    let (aiuta, home, foreign, abroad) = aiuta_and_a_foreign_host().await;
    let jwt = jwt(Source::new()).origins([aiuta.origin()]).build().unwrap();
    for client in [safe_client(&api_key(aiuta.origin())), safe_client(&jwt)] {
        for request in [
            client.get(format!("{}{MODELS}", aiuta.origin())),
            client.post(format!("{}{START}", aiuta.origin())).with_extension(params("image-1")),
        ] {
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), StatusCode::TEMPORARY_REDIRECT);
            assert_eq!(response.headers()[LOCATION], format!("{}/elsewhere", foreign.origin()));
        }
    }
    assert_eq!((home.count(), abroad.count()), (4, 0));
    // Whoever goes there by hand goes without a credential.
    safe_client(&jwt).get(format!("{}/elsewhere", foreign.origin())).send().await.unwrap();
    assert_eq!(abroad.only().credentials(), [""; 0]);
}

#[tokio::test]
async fn a5_reqwest_same_origin_redirects_compare_scheme_host_and_port() {
    let location = Arc::new(Mutex::new(String::new()));
    let home = redirecting({
        let location = location.clone();
        move |seen| (seen.uri.path() == "/").then(|| location.lock().unwrap().clone())
    });
    let aiuta = Server::recording(&home).await;
    let port = aiuta.origin().rsplit(':').next().unwrap();
    let client = safe_client(&api_key(aiuta.origin()));
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
        let home = redirecting(move |seen| (step(seen) < redirects).then(|| format!("/{}", step(seen) + 1)));
        let aiuta = Server::recording(&home).await;
        let response = safe_client(&api_key(aiuta.origin())).get(format!("{}/0", aiuta.origin())).send().await.unwrap();
        assert_eq!((response.status().as_u16(), home.count()), (status, requests));
        assert_eq!(response.url().path(), "/10");
        // Each hop is at home, and carries the credential.
        assert!(home.requests().iter().all(|seen| seen.credentials() == ["x-api-key"]));
    }
}
