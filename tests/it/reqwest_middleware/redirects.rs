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

/// Starts a server that accepts every token but redirects each start of a try-on to `target`. Returns it with its
/// requests.
async fn redirecting_starts(status: u16, target: String) -> (Server, Recorder) {
    let requests = Recorder::with_response(move |request| {
        let mut response = http::Response::<http_body_util::Full<bytes::Bytes>>::default();
        if request.uri.path() == START {
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response.headers_mut().insert(LOCATION, target.parse().unwrap());
        } else {
            *response.status_mut() = StatusCode::UNAUTHORIZED;
        }
        async move { Ok(response) }
    });
    (Server::recording(&requests).await, requests)
}

fn starts(requests: &Recorder) -> usize {
    requests.requests().iter().filter(|request| request.uri.path() == START).count()
}

#[tokio::test]
async fn e2_reqwest_401_of_a_redirect_target_causes_no_second_start() {
    for (status, client_of) in [(303, client as fn(&_) -> _), (307, client), (303, same_origin_client)] {
        let (aiuta, requests) = redirecting_starts(status, "/result".to_owned()).await;
        let source = Source::new();
        let layer = jwt(source.clone()).origins([aiuta.origin()]).build().unwrap();
        layer.token_cache().unwrap().get(&params("image-1")).await.unwrap();
        for number in 1..=3 {
            let start = client_of(&layer).post(format!("{}{START}", aiuta.origin())).with_extension(params("image-1"));
            let response = start.send().await.unwrap();
            assert_eq!((response.status(), response.url().path()), (StatusCode::UNAUTHORIZED, "/result"));
            assert_eq!((starts(&requests), requests.count()), (number, 2 * number), "{status}");
        }
        // The target has the same origin and got the token, so the token is forgotten.
        assert!(requests.last().headers.contains_key("authorization"));
        assert!(source.calls() > 1 && layer.stats().rejected > 0 && layer.stats().replayed == 0);
    }
}

#[tokio::test]
async fn e2_reqwest_401_of_another_origin_forgets_no_token() {
    let foreign = Recorder::with_status(|_| StatusCode::UNAUTHORIZED);
    let foreign_server = Server::recording(&foreign).await;
    let (aiuta, requests) = redirecting_starts(303, format!("{}/result", foreign_server.origin())).await;
    let source = Source::new();
    let layer = jwt(source.clone()).origins([aiuta.origin()]).build().unwrap();
    for _ in 0..10 {
        let start = client(&layer).post(format!("{}{START}", aiuta.origin())).with_extension(params("image-1"));
        assert_eq!(start.send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    }
    assert_eq!((starts(&requests), foreign.count(), source.calls()), (10, 10, 1));
    assert_eq!((layer.stats().rejected, layer.stats().replayed), (0, 0));
}

#[tokio::test]
async fn e2_reqwest_success_of_another_origin_accepts_no_token() {
    // The API rejects each token, until it redirects one request. Then it goes on.
    let foreign = Server::recording(&Recorder::new()).await;
    let (elsewhere, redirects) = (format!("{}/x", foreign.origin()), Arc::new(Mutex::new(false)));
    let requests = Recorder::with_response({
        let redirects = redirects.clone();
        move |_| {
            let response = match *redirects.lock().unwrap() {
                true => http::Response::builder().status(303).header(LOCATION, &elsewhere),
                false => http::Response::builder().status(401),
            };
            async move { Ok(response.body(http_body_util::Full::default())?) }
        }
    });
    let aiuta = Server::recording(&requests).await;
    let (source, clock) = (Source::new(), tower_aiuta_auth::testing::ManualClock::default());
    let layer = jwt(source.clone()).origins([aiuta.origin()]).clock(clock.clone()).build().unwrap();
    let start = || client(&layer).post(format!("{}{START}", aiuta.origin())).with_extension(params("image-1"));
    assert_eq!(start().send().await.unwrap().status(), 401);
    *redirects.lock().unwrap() = true;
    assert_eq!(start().send().await.unwrap().status(), 200);
    *redirects.lock().unwrap() = false;
    // The second rejection without a success between (rule E5): the next request has to wait for a new token.
    assert_eq!(start().send().await.unwrap().status(), 401);
    assert_eq!(start().send().await.unwrap().status(), 401);
    let tokens: Vec<_> = requests.tokens().iter().map(|token| token_number(token)).collect();
    assert_eq!((tokens, source.calls()), (vec![1, 2, 2, 2], 2));
}

#[tokio::test]
async fn e2_reqwest_response_without_a_url_is_no_redirect() {
    // A middleware that answers by itself, for example from a cache. reqwest gives its response another URL.
    let spy = Spy::responding(|_| http::Response::builder().status(401).body("").unwrap().into());
    let layer = jwt(Source::new()).build().unwrap();
    layer.token_cache().unwrap().get(&params("image-1")).await.unwrap();
    let client = ClientBuilder::new(reqwest()).with(layer.into_middleware()).with(spy.clone()).build();
    let start = client.post(format!("https://api.aiuta.com{START}#fragment")).with_extension(params("image-1"));
    assert_eq!(start.send().await.unwrap().status(), 401);
    assert_eq!(spy.tokens().len(), 2);
}
