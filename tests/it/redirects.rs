//! Rule A5: a redirect followed outside the layer takes no credential to another origin, and each request to Aiuta is
//! authenticated again.
//!
//! The tests in this file check each hop in process. The submodules use real servers: every spelling of a `Location`,
//! and redirects followed inside the layer.

mod addresses;
mod cases;
mod inside;
mod net;
mod outside;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::LOCATION;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::json;
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_aiuta_auth::{Access, AiutaAuthBuilder, AiutaAuthLayer, AuthErrorKind, AuthParams, BoxError};
use tower_http::follow_redirect::FollowRedirectLayer;
use tower_http::follow_redirect::policy::{Policy, PolicyExt, Standard, clone_body_fn};

use crate::support::*;

const KEY: &str = "0123456789abcdef0123456789abcdef";
const AIUTA: &str = "https://api.aiuta.com";
const IMAGE: &str = "https://api.aiuta.com/v1/uploaded_images/1";
/// Another origin, with a path that Aiuta also has.
const ELSEWHERE: &str = "https://storage.example/v1/sku_try_on_operations";

/// A policy that follows everything and keeps headers, extensions and body.
fn follow_all() -> impl Policy<Full<Bytes>, BoxError> + Clone {
    clone_body_fn(|body: &Full<Bytes>| Some(body.clone()))
}

/// The standard policy of tower-http, which drops `authorization` and all extensions at another origin. Keeps the body.
fn standard() -> impl Policy<Full<Bytes>, BoxError> + Clone {
    PolicyExt::and::<_, Full<Bytes>, BoxError>(follow_all(), Standard::default())
}

/// Sends `request` to a service that responds with each of `hops` in turn, and then with 200. Returns all requests that
/// the inner service received.
async fn follow<P>(
    layer: &AiutaAuthLayer,
    policy: P,
    request: Request<Full<Bytes>>,
    hops: &[(u16, &'static str)],
) -> (Vec<SentRequest>, Result<StatusCode, BoxError>)
where
    P: Policy<Full<Bytes>, BoxError> + Clone,
{
    let (hops, next) = (hops.to_vec(), AtomicUsize::new(0));
    let inner = Recorder::with_response(move |_| {
        let hop = hops.get(next.fetch_add(1, Ordering::SeqCst)).copied();
        async move {
            let response = match hop {
                Some((status, location)) => Response::builder().status(status).header(LOCATION, location),
                None => Response::builder(),
            };
            Ok(response.body(Full::default())?)
        }
    });
    let service =
        ServiceBuilder::new().layer(FollowRedirectLayer::with_policy(policy)).layer(layer).service(inner.clone());
    let result = service.oneshot(request).await.map(|response| response.status());
    (inner.requests(), result)
}

/// Calls [`follow`] with both policies. Asserts that every redirect was followed.
async fn follow_by_both(
    layer: &AiutaAuthLayer,
    request: &Request<Full<Bytes>>,
    hops: &[(u16, &'static str)],
) -> [Vec<SentRequest>; 2] {
    let (by_follow_all, one) = follow(layer, follow_all(), request.clone(), hops).await;
    let (by_standard, other) = follow(layer, standard(), request.clone(), hops).await;
    assert_eq!((one.unwrap(), other.unwrap()), (StatusCode::OK, StatusCode::OK));
    assert_eq!((by_follow_all.len(), by_standard.len()), (hops.len() + 1, hops.len() + 1));
    [by_follow_all, by_standard]
}

fn credentials(seen: &[SentRequest]) -> Vec<Vec<&'static str>> {
    seen.iter().map(SentRequest::credentials).collect()
}

/// Returns layers and requests for each of the three credentials, with the name of the credential. Aiuta is at
/// `origin`.
fn each_credential(origin: &str) -> [(AiutaAuthLayer, Request<Full<Bytes>>, &'static str); 4] {
    let here =
        |builder: AiutaAuthBuilder| builder.origins([origin]).danger_allow_plaintext_origins(true).build().unwrap();
    let layer = || here(jwt(Source::new()).allow_unbound_tokens(true));
    let to_here = |mut request: Request<Full<Bytes>>| {
        *request.uri_mut() = request.uri().to_string().replace(AIUTA, origin).parse().unwrap();
        request
    };
    [
        (here(AiutaAuthLayer::builder().api_key(KEY)), to_here(get(IMAGE)), "x-api-key"),
        (layer(), to_here(get(IMAGE)), "x-user-id"),
        (layer(), to_here(try_on("image-1")), "authorization"),
        (layer(), to_here(post(TRY_ON, r#"{"uploaded_image_id":"image-1"}"#)), "authorization"),
    ]
}

#[tokio::test]
async fn a5_redirect_takes_no_credential_to_another_origin() {
    for (layer, request, name) in each_credential(AIUTA) {
        for status in [301, 302, 303, 307, 308] {
            for location in [
                ELSEWHERE,
                "//storage.example/v1/uploaded_images/1",
                "http://api.aiuta.com/v1/uploaded_images/1",
                "http://api.aiuta.com:443/v1/uploaded_images/1",
                "https://api.aiuta.com:8443/v1/uploaded_images/1",
                "https://api.aiuta.com.evil.example/v1/uploaded_images/1",
                "https://api.aiuta.com@evil.example/v1/uploaded_images/1",
            ] {
                for seen in follow_by_both(&layer, &request, &[(status, location)]).await {
                    assert_eq!(credentials(&seen), [vec![name], vec![]], "{status} {location}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a5_redirect_back_to_aiuta_is_authenticated_again() {
    for (layer, request, name) in each_credential(AIUTA) {
        let back = if *request.method() == Method::POST { SKU_IMAGES } else { IMAGE };
        for status in [307, 308] {
            let hops = [(status, ELSEWHERE), (status, "/elsewhere"), (status, back)];
            for seen in follow_by_both(&layer, &request, &hops).await {
                assert_eq!(credentials(&seen), [vec![name], vec![], vec![], vec![name]], "{status}");
                assert_eq!(seen[3].uri, back);
                assert!(seen.iter().all(|seen| seen.method == *request.method()), "the method is kept");
                assert!(seen.iter().all(|each| each.body == seen[0].body), "the body is kept");
            }
        }
    }
}

#[tokio::test]
async fn a5_each_hop_gets_the_credential_it_needs() {
    let layer = jwt(Source::new()).allow_unbound_tokens(true).build().unwrap();
    let operation = "https://api.aiuta.com/v1/sku_try_on_operations/op-1";
    let hops = [(303, operation), (302, ELSEWHERE), (302, operation), (302, "/v1/sku_items")];
    for seen in follow_by_both(&layer, &try_on("image-1"), &hops).await {
        let expected = [vec!["authorization"], vec!["x-user-id"], vec![], vec!["x-user-id"], vec!["authorization"]];
        assert_eq!(credentials(&seen), expected);
        assert_eq!(claims(seen[0].token())["params"]["uploaded_image_id"], "image-1");
    }
}

#[tokio::test]
async fn a5_redirected_try_on_gets_a_token_for_its_params() {
    let by_body = post(TRY_ON, r#"{"uploaded_image_id":"image-1","sku_id":"dress-1"}"#);
    for request in [try_on("image-1"), by_body] {
        for status in [307, 308] {
            let layer = jwt(Source::new()).build().unwrap();
            for hops in
                [&[(status, "/digital-try-on/v1/sku_images_operations")][..], &[(status, ELSEWHERE), (status, TRY_ON)]]
            {
                for seen in follow_by_both(&layer, &request, hops).await {
                    let last = seen.last().unwrap();
                    let expected = json!({"uploaded_image_id": "image-1", "sku_id": "dress-1"});
                    assert_eq!(claims(last.token())["params"], expected, "{status} {hops:?}");
                    assert_eq!(last.body, seen[0].body);
                }
            }
        }
    }
}

#[tokio::test]
async fn a5_redirected_try_on_that_lost_its_params_is_not_sent() {
    // The standard policy drops the extensions at another origin, and this body contains no params.
    let mut request = post(TRY_ON, "--form-data");
    request.extensions_mut().insert(params("image-1"));
    let layer = jwt(Source::new()).build().unwrap();
    let (seen, result) = follow(&layer, standard(), request, &[(307, ELSEWHERE), (307, TRY_ON)]).await;
    assert_eq!(credentials(&seen), [vec!["authorization"], vec![]]);
    assert_eq!(error_kind(result), AuthErrorKind::InvalidBody);
}

#[tokio::test]
async fn a5_redirect_that_changes_the_method_drops_the_params() {
    let mut request = try_on("image-1");
    request.extensions_mut().insert(Access::Jwt);
    let layer = jwt(Source::new()).allow_unbound_tokens(true).build().unwrap();
    let (seen, result) =
        follow(&layer, standard(), request, &[(303, ELSEWHERE), (302, "https://api.aiuta.com/v1/sku_items")]).await;
    assert_eq!(result.unwrap(), 200);
    assert_eq!(credentials(&seen), [vec!["authorization"], vec![], vec!["authorization"]]);
    assert_eq!(seen[2].extensions.get::<AuthParams>(), None);
    assert_eq!(claims(seen[2].token())["params"], json!({}));
}

#[tokio::test]
async fn a5_scheme_change_between_trusted_hosts_gets_no_credential() {
    let layer = AiutaAuthLayer::builder()
        .api_key(KEY)
        .origins(["https://api.aiuta.com", "http://localhost:3000"])
        .build()
        .unwrap();
    let hops = [
        (302, "http://localhost:3000/v1/x"),
        (302, "http://api.aiuta.com/v1/x"),
        (302, "https://localhost:3000/v1/x"),
        (302, "https://api.aiuta.com/v1/x"),
    ];
    for seen in follow_by_both(&layer, &get(IMAGE), &hops).await {
        let (key, none) = (vec!["x-api-key"], vec![]);
        assert_eq!(credentials(&seen), [key.clone(), key.clone(), none.clone(), none, key]);
    }
}
