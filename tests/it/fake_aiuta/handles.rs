//! The server, the records and the handles.

use super::*;

#[tokio::test]
async fn dropped_server_ends_its_tasks_and_frees_its_port() {
    // Another test may bind the port that was just freed, but not three times in a row.
    for _ in 0..3 {
        let address = address_of_a_dropped_server().await;
        if tokio::net::TcpListener::bind(address).await.is_ok() {
            return;
        }
    }
    panic!("the port was not freed");
}

async fn address_of_a_dropped_server() -> String {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let aiuta = aiuta();
    let server = aiuta.serve().await.unwrap();
    let address = server.origin().trim_start_matches("http://").to_owned();
    let uri = format!("{}/v1/try_on_models", server.origin());
    // Requests that hang, over HTTP/1 and HTTP/2.
    let _hold = aiuta.hold();
    let (one, two) = (http1(), http2());
    let hanging = [tokio::spawn(one.request(get(&uri, KEY))), tokio::spawn(two.request(get(&uri, KEY)))];
    aiuta.wait_for(2).await;

    let all_ended = async {
        drop(server);
        for request in hanging {
            request.await.unwrap().unwrap_err();
        }
        drop((one, two));
        while tasks() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), all_ended).await.expect("a task is left");
    address
}

#[tokio::test]
async fn truncated_request_body_is_an_error() {
    let (sender, body) = http_body_util::channel::Channel::<Bytes, BoxError>::new(1);
    sender.abort("broken".into());
    let request = Request::post("/v1/uploaded_images").body(body).unwrap();
    let aiuta = aiuta();
    assert_eq!(aiuta.clone().oneshot(request).await.unwrap_err().to_string(), "broken");
    assert_eq!(aiuta.requests().len(), 0);
}

#[tokio::test]
async fn debug_shows_no_secret() {
    let aiuta = aiuta();
    let token = bearer(json!({ "uploaded_image_id": "param" }));
    for credential in [KEY, USER, ("authorization", token.as_str()), ("x-api-key", "wrong-secret")] {
        let body = json!({ "uploaded_image_id": "body-text" });
        send(&aiuta, request(Method::POST, "/v1/sku_try_on_operations?token=query", credential, &body)).await;
        send(&aiuta, get(&format!("{}/images/x", FakeAiuta::STORAGE_ORIGIN), credential)).await;
    }
    let server = aiuta.serve().await.unwrap();
    let shown = format!("{aiuta:?} {:?} {:?} {server:?} {:?}", aiuta.requests(), aiuta.violations(), aiuta.hold());
    assert!(shown.contains("x-api-key") && shown.contains("/v1/sku_try_on_operations"));
    let secrets =
        [KEY.1, USER.1, FakeAiuta::ISSUER, FakeAiuta::SECRET, "Bearer ", "body-text", "query", "wrong-secret"];
    for secret in secrets {
        assert!(!shown.contains(secret), "{secret} appears in {shown}");
    }
    assert!(aiuta.requests().iter().any(|request| request.headers.get(AUTHORIZATION).is_some()));
}

#[test]
fn handles_are_send_and_sync() {
    fn check<T: Send + Sync + 'static>() {}
    check::<FakeAiuta>();
    check::<FakeServer>();
    check::<Hold>();
    check::<ManualClock>();
    check::<RecordedRequest>();
    fn future<F: Future + Send>(_: F) {}
    let aiuta = aiuta();
    future(aiuta.serve());
    future(aiuta.wait_for(1));
    let boxed: Box<dyn Clock> = Box::new(ManualClock::default());
    assert_eq!(boxed.now(), SystemTime::UNIX_EPOCH + Duration::from_secs(NOW));
}
