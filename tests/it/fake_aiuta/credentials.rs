//! Which credential is accepted for which request, and what a rejection looks like.

use super::*;

#[tokio::test]
async fn every_operation_accepts_the_credentials_in_the_table() {
    let aiuta = aiuta();
    for (method, path, takes_user_id) in [
        (Method::POST, "uploaded_images", true),
        (Method::GET, "uploaded_images/x", true),
        (Method::DELETE, "uploaded_images/x", false),
        (Method::DELETE, "generated_images/x", false),
        (Method::POST, "sku_images_operations", false),
        (Method::POST, "sku_try_on_operations", false),
        (Method::GET, "sku_images_operations/x", true),
        (Method::GET, "sku_try_on_operations/x", true),
        (Method::GET, "predefined_try_on_models", true),
        (Method::GET, "try_on_models", true),
        (Method::GET, "subscription_details", true),
        (Method::POST, "size_and_fit/recommendation", true),
        (Method::POST, "ios-sdk-analytics", true),
        (Method::POST, "android-sdk-analytics", true),
        (Method::POST, "web-sdk-analytics", true),
    ] {
        let token = bearer(json!({ "uploaded_image_id": "a" }));
        for base in ["/v1/", "/digital-try-on/v1/"] {
            for (credential, accepted) in [
                (KEY, true),
                (("authorization", token.as_str()), true),
                (USER, takes_user_id),
                (("x-api-key", "wrong"), false),
                (("authorization", "Bearer a.b.c"), false),
                (("x-user-id", "wrong"), false),
                // An API key as subscription id, and a subscription id as API key.
                (("x-user-id", FakeAiuta::API_KEY), false),
                (("x-api-key", FakeAiuta::SUBSCRIPTION_ID), false),
                (NOTHING, false),
            ] {
                let body = json!({ "uploaded_image_id": "a", "sku_id": "b" });
                let answer = send(&aiuta, request(method.clone(), &format!("{base}{path}"), credential, &body)).await;
                let recorded = last(&aiuta);
                assert_eq!(answer.status != 401, accepted, "{method} {base}{path} {} {recorded:?}", credential.0);
                assert_eq!(recorded.refusal.is_none(), accepted);
            }
        }
    }
}

#[tokio::test]
async fn tokens_are_verified_like_pyjwt() {
    let aiuta = aiuta();
    let (issuer, secret) = (FakeAiuta::ISSUER, FakeAiuta::SECRET);
    let good = json!({ "iss": issuer, "iat": NOW, "exp": NOW + 60 });
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        sign("HS256", secret, &claims)
    };
    let signed = sign("HS256", secret, &good);
    let unsigned = signed.rsplit_once('.').unwrap().0;
    for (token, refusal) in [
        (signed.clone(), None),
        (with("exp", json!(NOW + 1)), None),
        (with("exp", json!(NOW as f64 + 1.5)), None),
        (with("exp", json!(u64::MAX)), None),
        (with("exp", json!(1e300)), None),
        (with("nbf", json!(NOW)), None),
        (with("iat", json!(NOW as f64 + 0.5)), None),
        (sign("HS256", secret, &json!({ "iss": issuer })), None),
        (with("exp", json!(NOW)), Some("expired")),
        (with("exp", json!(NOW as f64 + 0.5)), Some("expired")),
        (with("exp", json!(-1)), Some("expired")),
        (with("exp", json!("tomorrow")), Some("`exp` is not a number")),
        (with("iat", json!(NOW + 1)), Some("`iat` is in the future")),
        (with("iat", json!([NOW])), Some("`iat` is not a number")),
        (with("nbf", json!(NOW + 1)), Some("`nbf` is in the future")),
        (with("nbf", Value::Null), Some("`nbf` is not a number")),
        (with("iss", json!("somebody")), Some("`iss` is not the issuer")),
        (sign("HS256", secret, &json!({ "exp": NOW + 60 })), Some("`iss` is not the issuer")),
        (sign("HS256", secret, &json!([])), Some("payload is not a JSON object")),
        (sign("HS256", "another secret", &good), Some("not signed by the issuer's secret")),
        (sign("HS512", secret, &good), Some("not signed by HS256")),
        (sign("none", secret, &good), Some("not signed by HS256")),
        (format!("{unsigned}."), Some("not signed by the issuer's secret")),
        (format!("{signed}A"), Some("not signed by the issuer's secret")),
        (format!("{unsigned}.+/+/"), Some("signature is not base64url")),
        (unsigned.to_owned(), Some("no payload")),
        ("word".to_owned(), Some("no signature")),
        ("a.b.c".to_owned(), Some("header is not a JSON object")),
        (format!("a.{signed}"), Some("header is not a JSON object")),
    ] {
        send(&aiuta, get("/v1/try_on_models", ("authorization", &format!("Bearer {token}")))).await;
        let recorded = last(&aiuta).refusal;
        let matches = match (&recorded, refusal) {
            (Some(recorded), Some(refusal)) => recorded.contains(refusal),
            (recorded, refusal) => recorded.is_none() && refusal.is_none(),
        };
        assert!(matches, "expected {refusal:?}, recorded {recorded:?}");
    }
}

#[tokio::test]
async fn token_times_are_checked_by_the_given_clock() {
    let clock = ManualClock::default();
    let aiuta = FakeAiuta::new().with_clock(clock.clone());
    let token = bearer(json!({}));
    let status = async || send(&aiuta, get("/v1/try_on_models", ("authorization", &token))).await.status;

    assert_eq!(status().await, 200);
    clock.advance(Duration::from_millis(59_999));
    assert_eq!(status().await, 200);
    clock.advance(Duration::from_millis(1));
    assert_eq!(status().await, 401);
    clock.step_back(Duration::from_millis(60_001));
    assert_eq!(status().await, 401, "`iat` is a millisecond ahead");
    clock.set(SystemTime::UNIX_EPOCH - Duration::from_secs(1));
    assert_eq!(status().await, 401, "`iat` is years ahead");
    assert_eq!(clock.now(), SystemTime::UNIX_EPOCH - Duration::from_secs(1));
}

#[tokio::test]
async fn token_starts_only_the_operation_it_was_made_for() {
    let aiuta = aiuta();
    let photo = uploaded(&aiuta).await;
    let body = json!({ "uploaded_image_id": photo, "sku_ids": ["x", "y"] });
    for (params, status) in [
        (json!({ "uploaded_image_id": photo }), 200),
        (json!({ "uploaded_image_id": photo, "sku_ids": ["x", "y"] }), 200),
        (json!({ "uploaded_image_id": photo, "sku_ids": "x,y" }), 200),
        (json!({ "uploaded_image_id": photo, "jti": "once" }), 200),
        (json!({}), 401),
        (json!({ "jti": "once" }), 401),
        (json!({ "uploaded_image_id": "another" }), 401),
        (json!({ "uploaded_image_id": photo, "sku_ids": ["x"] }), 401),
        (json!({ "uploaded_image_id": photo, "product_id": "x" }), 401),
    ] {
        for path in ["/digital-try-on/v1/sku_images_operations", "/v1/sku_try_on_operations"] {
            let token = bearer(params.clone());
            let answer = send(&aiuta, request(Method::POST, path, ("authorization", &token), &body)).await;
            assert_eq!(answer.status, status, "{path} {params}: {:?}", last(&aiuta).refusal);
        }
    }
    assert_eq!(aiuta.operations_started(), 8);
    // Other operations do not compare the params of the token.
    let token = bearer(json!({ "uploaded_image_id": "another" }));
    assert_eq!(send(&aiuta, get("/v1/try_on_models", ("authorization", &token))).await.status, 200);
}

#[tokio::test]
async fn several_credentials_or_values_are_rejected() {
    let aiuta = aiuta();
    let mut both = get("/v1/try_on_models", KEY);
    both.headers_mut().insert("x-user-id", USER.1.parse().unwrap());
    assert_eq!(send(&aiuta, both).await.status, 401);
    assert_eq!(last(&aiuta).refusal.unwrap(), "more than one credential");
    assert_eq!(last(&aiuta).credential(), Credential::Several);

    let mut twice = get("/v1/try_on_models", KEY);
    twice.headers_mut().append("x-api-key", KEY.1.parse().unwrap());
    assert_eq!(send(&aiuta, twice).await.status, 401);
    assert_eq!(last(&aiuta).refusal.unwrap(), "several values of `x-api-key`");

    let token = bearer(json!({}));
    for (credential, kind) in [
        (KEY, Credential::ApiKey),
        (USER, Credential::UserId),
        (("authorization", token.as_str()), Credential::Bearer),
        (NOTHING, Credential::None),
    ] {
        send(&aiuta, get("/v1/try_on_models", credential)).await;
        assert_eq!(last(&aiuta).credential(), kind);
    }
}

#[tokio::test]
async fn rejection_has_no_body_and_a_date() {
    let aiuta = aiuta();
    let server = aiuta.serve().await.unwrap();
    let uri = format!("{}/v1/try_on_models", server.origin());
    for answer in [send(&aiuta, get(&uri, NOTHING)).await, send(&http1(), get(&uri, NOTHING)).await] {
        assert_eq!(answer.status, 401);
        assert_eq!(answer.headers[WWW_AUTHENTICATE], "Bearer");
        assert_eq!(answer.headers[DATE], "Fri, 15 Jan 2027 08:00:00 GMT");
        assert!(answer.body.is_empty());
    }
}

#[tokio::test]
async fn credentials_are_configurable() {
    let aiuta = aiuta().with_api_key("k").with_subscription("s").with_issuer("i", "secret");
    assert_eq!((aiuta.api_key(), aiuta.subscription_id(), aiuta.issuer(), aiuta.secret()), ("k", "s", "i", "secret"));
    let token = format!("Bearer {}", sign("HS256", "secret", &json!({ "iss": "i" })));
    for (credential, status) in [
        (("x-api-key", "k"), 200),
        (("x-user-id", "s"), 200),
        (("authorization", &token), 200),
        (KEY, 401),
        (USER, 401),
    ] {
        assert_eq!(send(&aiuta, get("/v1/try_on_models", credential)).await.status, status);
    }
}

#[tokio::test]
async fn revoked_tokens_are_rejected_and_new_tokens_accepted() {
    let aiuta = aiuta();
    let (old, unused) = (bearer(json!({ "n": 1 })), bearer(json!({ "n": 2 })));
    let status = async |token: &str| send(&aiuta, get("/v1/try_on_models", ("authorization", token))).await.status;

    assert_eq!(status(&old).await, 200);
    aiuta.revoke_tokens();
    assert_eq!(status(&old).await, 401);
    assert_eq!(last(&aiuta).refusal.unwrap(), "the token was revoked");
    assert_eq!(status(&unused).await, 200);
    aiuta.revoke_tokens();
    assert_eq!((status(&old).await, status(&unused).await), (StatusCode::UNAUTHORIZED, StatusCode::UNAUTHORIZED));
}
