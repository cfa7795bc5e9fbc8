//! The operations: uploads, try-ons, lists of models, deletions, and responses to invalid requests.

use super::*;

#[tokio::test]
async fn try_on_works_in_process_and_over_http1_and_http2() {
    for path in ["/digital-try-on/v1/sku_images_operations", "/v1/sku_try_on_operations"] {
        let aiuta = aiuta();
        let here = try_on(&aiuta, ORIGIN, path).await;
        let image = &here["done"]["generated_images"][0];
        assert!(image["url"].as_str().unwrap().starts_with(FakeAiuta::STORAGE_ORIGIN));
        if path.contains("sku_images") {
            assert_eq!(image["image_url"], image["url"]);
            assert_eq!((&here["started"]["details"], &here["started"]["errors"]), (&Value::Null, &json!([])));
        } else {
            assert_eq!(image.get("image_url"), None);
            assert_eq!(here["started"].as_object().unwrap().len(), 1);
        }

        let server = aiuta.serve().await.unwrap();
        for (client, version) in [(http1(), Version::HTTP_11), (http2(), Version::HTTP_2)] {
            aiuta.clear_requests();
            let there = try_on(&client, server.origin(), path).await;
            let url = there["done"]["generated_images"][0]["url"].as_str().unwrap();
            assert!(url.starts_with(server.storage_origin()), "{url}");
            assert!(aiuta.requests().iter().all(|request| request.version == version));
            let listeners: Vec<_> = aiuta.requests().iter().map(|request| request.listener).collect();
            assert_eq!(listeners, [[Listener::Api; 7].as_slice(), &[Listener::Storage]].concat());
        }
        assert_eq!(aiuta.operations_started(), 3);
        assert_eq!(aiuta.violations(), [""; 0]);
    }
}

#[tokio::test]
async fn an_added_image_can_be_tried_on_and_deleted() {
    let aiuta = aiuta();
    let other_handle = aiuta.clone();
    let body = json!({ "uploaded_image_id": "my-image", "sku_id": "x" });
    let token = bearer(body.clone());
    for path in ["/digital-try-on/v1/sku_images_operations", "/v1/sku_try_on_operations"] {
        let start = async || {
            let start = request(Method::POST, path, ("authorization", token.as_str()), &body);
            send(&other_handle, start).await.status
        };
        assert_eq!(start().await, 400, "the image does not exist yet");
        aiuta.add_image("my-image");
        assert_eq!(start().await, 200);

        let image = send(&aiuta, get("/v1/uploaded_images/my-image", USER)).await.json();
        assert_eq!((&image["id"], &image["expires_at"]), (&json!("my-image"), &json!("2027-01-16T08:00:00Z")));
        let picture = send(&aiuta, get(image["url"].as_str().unwrap(), NOTHING)).await;
        assert_eq!((picture.status.as_u16(), &picture.headers[CONTENT_TYPE]), (200, &"image/png".parse().unwrap()));
        let delete = request(Method::DELETE, "/v1/uploaded_images/my-image", KEY, &Value::Null);
        assert_eq!(send(&aiuta, delete).await.status, 204);
    }
    assert_eq!(aiuta.operations_started(), 2);
}

#[tokio::test]
async fn no_credential_may_reach_the_storage_host() {
    let aiuta = aiuta();
    let server = aiuta.serve().await.unwrap();
    let id = uploaded(&aiuta).await;
    let token = bearer(json!({}));
    for (origin, client) in [(server.storage_origin(), http1()), (server.storage_origin(), http2())] {
        for credential in [KEY, USER, ("authorization", token.as_str())] {
            let answer = send(&client, get(&format!("{origin}/images/{id}?sig=1"), credential)).await;
            assert_eq!((answer.status, answer.body.len()), (StatusCode::BAD_REQUEST, 0));
        }
    }
    let violations = aiuta.violations();
    assert_eq!(violations.len(), 6);
    assert_eq!(violations[0], format!("GET /images/{id} at the storage host came with x-api-key"));
    // In process, the host in the URI or in `Host` selects the listener.
    let inside = send(&aiuta, get(&format!("{}/images/{id}", FakeAiuta::STORAGE_ORIGIN), KEY)).await;
    assert_eq!((inside.status, aiuta.violations().len()), (StatusCode::BAD_REQUEST, 7));
    let host = server.storage_origin().trim_start_matches("http://");
    assert_eq!(send(&aiuta, get(&format!("/images/{id}"), ("host", host))).await.status, 200);
    // An unknown image is a 404.
    assert_eq!(send(&http1(), get(&format!("{}/images/x", server.storage_origin()), NOTHING)).await.status, 404);
}

#[tokio::test]
async fn invalid_requests_get_the_documented_responses() {
    let aiuta = aiuta();
    let photo = uploaded(&aiuta).await;
    let start = async |path: &str, body: Value| {
        let answer = send(&aiuta, request(Method::POST, path, KEY, &body)).await;
        (answer.status.as_u16(), answer.json())
    };
    let missing = |field| json!({"detail": [{"loc": ["body", field], "msg": "Field required", "type": "missing"}]});
    let three = json!({ "uploaded_image_id": photo, "sku_ids": ["1", "2", "3"] });
    assert_eq!(start("/v1/sku_try_on_operations", json!({ "sku_id": "x" })).await, (422, missing("uploaded_image_id")));
    let (status, both) =
        start("/v1/sku_try_on_operations", json!({ "uploaded_image_id": "a", "sku_id": "x", "sku_ids": ["y"] })).await;
    assert_eq!((status, &both["detail"][0]["loc"]), (422, &json!(["body"])));
    assert_eq!(start("/digital-try-on/v1/sku_images_operations", three.clone()).await.0, 422);
    assert_eq!(aiuta.operations_started(), 0);
    assert_eq!(start("/v1/sku_try_on_operations", three).await.0, 200);
    assert_eq!(
        start("/v1/sku_try_on_operations", json!({ "uploaded_image_id": "unknown", "sku_id": "x" })).await,
        (400, json!({ "detail": "Image not found" }))
    );
    assert_eq!(aiuta.operations_started(), 1);

    let unknown = send(&aiuta, get("/v1/sku_try_on_operations/unknown", KEY)).await;
    assert_eq!((unknown.status.as_u16(), unknown.json()), (400, json!({ "detail": "Operation not found" })));

    let no_form = send(&aiuta, request(Method::POST, "/v1/uploaded_images", USER, &json!({}))).await;
    assert_eq!((no_form.status.as_u16(), no_form.json()), (422, missing("image_data")));
    let mut other_field = upload(ORIGIN, USER);
    *other_field.body_mut() = Full::from("--b\r\nContent-Disposition: form-data; name=\"photo\"\r\n\r\nx\r\n--b--\r\n");
    let other_field = send(&aiuta, other_field).await;
    assert_eq!((other_field.status.as_u16(), other_field.json()), (422, missing("image_data")));

    let no_path = send(&aiuta, get("/v1/no_such_thing", KEY)).await;
    assert_eq!((no_path.status.as_u16(), no_path.json()), (404, json!({ "detail": "Not Found" })));
    let no_method = send(&aiuta, request(Method::PUT, "/v1/uploaded_images/x", KEY, &Value::Null)).await;
    assert_eq!((no_method.status.as_u16(), &no_method.headers[ALLOW]), (405, &"GET, DELETE".parse().unwrap()));
}

#[tokio::test]
async fn list_of_models_supports_if_none_match() {
    let aiuta = aiuta();
    for path in ["/digital-try-on/v1/predefined_try_on_models", "/v1/try_on_models"] {
        let list = send(&aiuta, get(path, USER)).await;
        let tag = list.headers[ETAG].to_str().unwrap();
        assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag}");
        for (known, status) in
            [(tag, 304), (&format!("\"old\", {tag}"), 304), (&format!("W/{tag}"), 304), ("*", 304), ("\"old\"", 200)]
        {
            let mut again = get(path, USER);
            again.headers_mut().insert(IF_NONE_MATCH, known.parse().unwrap());
            let again = send(&aiuta, again).await;
            assert_eq!((again.status.as_u16(), again.body.is_empty()), (status, status == 304), "{known}");
            assert_eq!(again.headers[ETAG], tag);
        }
        let model = &list.json()[0]["models"][0];
        assert_eq!(model["owner_type"], "aiuta");
        let picture = send(&aiuta, get(model["url"].as_str().unwrap(), NOTHING)).await;
        assert_eq!(picture.headers[CONTENT_TYPE], "image/png");
    }
}

#[tokio::test]
async fn deleted_images_are_gone() {
    let aiuta = aiuta();
    let done = try_on(&aiuta, ORIGIN, "/v1/sku_try_on_operations").await["done"].take();
    let result = done["generated_images"][0]["id"].as_str().unwrap();
    let photo = uploaded(&aiuta).await;
    let delete = async |path: String| send(&aiuta, request(Method::DELETE, &path, KEY, &Value::Null)).await.status;

    // Each kind of image has its own path.
    assert_eq!(delete(format!("/v1/generated_images/{photo}")).await, 400);
    assert_eq!(delete(format!("/v1/uploaded_images/{result}")).await, 400);
    assert_eq!(delete(format!("/v1/uploaded_images/{photo}")).await, 204);
    assert_eq!(delete(format!("/v1/uploaded_images/{photo}")).await, 400);
    assert_eq!(send(&aiuta, get(&format!("/v1/uploaded_images/{photo}"), KEY)).await.status, 400);
    assert_eq!(delete(format!("/v1/generated_images/{result}")).await, 204);
    let operation = format!("/v1/sku_try_on_operations/{}", done["id"].as_str().unwrap());
    assert_eq!(send(&aiuta, get(&operation, KEY)).await.json()["generated_images"], json!([]));
}
