//! Faults, delays and held requests.

use super::*;

#[tokio::test]
async fn faults_apply_in_order_and_end() {
    let aiuta = aiuta();
    let retry_after = Duration::from_millis(1_001);
    aiuta.fail_next(2, Fault::Unavailable);
    aiuta.fail_next(1, Fault::TooManyRequests { retry_after });
    aiuta.fail_next(1, Fault::Unauthorized);
    let mut answers = Vec::new();
    for _ in 0..5 {
        answers.push(send(&aiuta, get("/v1/try_on_models", KEY)).await);
    }
    assert_eq!(answers.iter().map(|answer| answer.status.as_u16()).collect::<Vec<_>>(), [503, 503, 429, 401, 200]);
    assert_eq!(
        aiuta.requests().iter().map(|request| request.status.unwrap()).collect::<Vec<_>>(),
        [503, 503, 429, 401, 200]
    );
    assert_eq!(answers[2].headers[RETRY_AFTER], "2");
    assert_eq!(answers[3].headers[WWW_AUTHENTICATE], "Bearer");
    // A request that failed this way starts no operation.
    assert_eq!(aiuta.operations_started(), 0);
}

#[tokio::test]
async fn faults_do_not_affect_the_storage_host() {
    let aiuta = aiuta();
    let id = uploaded(&aiuta).await;
    aiuta.fail_next(1, Fault::Unavailable);
    assert_eq!(send(&aiuta, get(&format!("{}/images/{id}", FakeAiuta::STORAGE_ORIGIN), NOTHING)).await.status, 200);
    assert_eq!(send(&aiuta, get("/v1/try_on_models", KEY)).await.status, 503);
}

#[tokio::test]
async fn disconnect_is_an_error_in_process() {
    let aiuta = aiuta();
    aiuta.fail_next(1, Fault::Disconnect);
    aiuta.clone().oneshot(get("/v1/try_on_models", KEY)).await.unwrap_err();
    assert_eq!(last(&aiuta).status, None);
    assert_eq!(send(&aiuta, get("/v1/try_on_models", KEY)).await.status, 200);
}

#[tokio::test]
async fn disconnect_over_http1_sends_no_byte() {
    let aiuta = aiuta();
    let server = aiuta.serve().await.unwrap();
    aiuta.fail_next(1, Fault::Disconnect);
    let mut stream = tokio::net::TcpStream::connect(server.origin().trim_start_matches("http://")).await.unwrap();
    stream.write_all(b"GET /v1/try_on_models HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"");
    assert_eq!(aiuta.requests().len(), 1);
}

#[tokio::test]
async fn disconnect_over_http2_ends_every_stream() {
    let aiuta = aiuta();
    let server = aiuta.serve().await.unwrap();
    let (client, uri) = (http2(), format!("{}/v1/try_on_models", server.origin()));
    assert_eq!(send(&client, get(&uri, KEY)).await.status, 200);

    aiuta.delay_next(1, Duration::from_secs(3_600));
    let bystander = tokio::spawn(client.request(get(&uri, KEY)));
    aiuta.wait_for(2).await;
    aiuta.fail_next(1, Fault::Disconnect);
    client.request(get(&uri, KEY)).await.unwrap_err();
    let bystander = tokio::time::timeout(Duration::from_secs(10), bystander).await.expect("the other stream continues");
    bystander.unwrap().unwrap_err();
    // The next request finds a new connection.
    assert_eq!(send(&client, get(&uri, KEY)).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn delays_apply_in_order() {
    let aiuta = aiuta();
    let start = tokio::time::Instant::now();
    aiuta.delay_next(1, Duration::from_secs(3));
    aiuta.delay_next(1, Duration::from_secs(5));
    for seconds in [3, 8, 8] {
        assert_eq!(send(&aiuta, get("/v1/try_on_models", KEY)).await.status, 200);
        assert_eq!(start.elapsed().as_secs(), seconds);
    }
}

#[tokio::test]
async fn held_requests_are_recorded_and_wait() {
    let aiuta = aiuta();
    let (first, second) = (aiuta.hold(), aiuta.hold());
    let waiting: Vec<_> = (0..20).map(|_| tokio::spawn(aiuta.clone().oneshot(get("/v1/try_on_models", KEY)))).collect();
    aiuta.wait_for(20).await;
    first.release();
    tokio::task::yield_now().await;
    assert!(aiuta.requests().iter().all(|request| request.status.is_none()), "the second hold is still in force");
    // The storage host is not held.
    assert_eq!(send(&aiuta, get("http://storage.aiuta.test/images/model_man_00", NOTHING)).await.status, 200);
    drop(second);
    for request in waiting {
        assert_eq!(request.await.unwrap().unwrap().status(), 200);
    }
}

#[tokio::test]
async fn clearing_records_during_a_request_drops_its_record() {
    let aiuta = aiuta();
    let hold = aiuta.hold();
    let old = tokio::spawn(aiuta.clone().oneshot(get("/v1/subscription_details", KEY)));
    aiuta.wait_for(1).await;
    aiuta.clear_requests();
    let new = tokio::spawn(aiuta.clone().oneshot(get("/v1/try_on_models", NOTHING)));
    aiuta.wait_for(1).await;
    drop(hold);
    assert_eq!(
        (old.await.unwrap().unwrap().status(), new.await.unwrap().unwrap().status()),
        (StatusCode::OK, StatusCode::UNAUTHORIZED)
    );
    let [recorded] = &aiuta.requests()[..] else { panic!("expected one record") };
    assert_eq!((recorded.uri.path(), recorded.status), ("/v1/try_on_models", Some(401)));
}
