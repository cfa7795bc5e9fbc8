//! `FollowRedirect` outside the layer, where every hop passes through the layer.

use super::cases::{INVALID, LOCATIONS, STATUSES};
use super::net::{Arrival, HOME, Net};
use super::*;

/// Sends `request` through `FollowRedirect`, with each policy in turn, the layer and a real connection.
async fn follow(net: &Net, layer: &AiutaAuthLayer, request: &Request<Full<Bytes>>) -> [Vec<Arrival>; 2] {
    async fn by<P>(policy: P, net: &Net, layer: &AiutaAuthLayer, request: &Request<Full<Bytes>>) -> Vec<Arrival>
    where
        P: Policy<Full<Bytes>, BoxError> + Clone,
    {
        let service = FollowRedirectLayer::with_policy(policy).layer(layer.layer(net.client()));
        assert_eq!(service.oneshot(request.clone()).await.unwrap().status(), 200);
        net.arrivals()
    }
    [by(follow_all(), net, layer, request).await, by(standard(), net, layer, request).await]
}

/// Returns the site and the credentials of each request.
fn sites_and_credentials(arrivals: &[Arrival]) -> Vec<(&'static str, Vec<&'static str>)> {
    arrivals.iter().map(|(site, seen)| (*site, seen.credentials())).collect()
}

#[tokio::test]
async fn a5_follow_redirect_outside_sends_credentials_only_within_the_origin() {
    let net = Net::new().await;
    for (layer, request, name) in each_credential(AIUTA) {
        for status in STATUSES {
            // A path that requires the same credential with the method of the next request.
            let becomes_get = *request.method() == Method::POST && status < 307;
            let path = if becomes_get { "v1/sku_items" } else { &request.uri().path()[1..] };
            for (location, site) in LOCATIONS {
                net.redirect(status, &location.replace("PATH", &format!("{path}?redirected")));
                for arrivals in follow(&net, &layer, &request).await {
                    let there = if site == HOME { vec![name] } else { vec![] };
                    assert_eq!(
                        sites_and_credentials(&arrivals),
                        [(HOME, vec![name]), (site, there)],
                        "{status} {location}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn a5_follow_redirect_outside_authenticates_again_on_return() {
    let (storage, evil) = ("https://storage.example:443", "https://evil.example:443");
    let net = Net::new().await;
    for (layer, request, name) in each_credential(AIUTA) {
        let path = request.uri().path().to_owned();
        for status in if *request.method() == Method::GET { &STATUSES[..] } else { &[307, 308] } {
            let (status, path) = (*status, path.clone());
            net.answer(move |site, uri| match (site, uri.query()) {
                (HOME, None) => Some((status, "https://storage.example/".to_owned())),
                ("https://storage.example:443", _) => Some((status, "//evil.example/".to_owned())),
                ("https://evil.example:443", _) => Some((status, format!("https://api.aiuta.com{path}?back"))),
                _ => None,
            });
            for arrivals in follow(&net, &layer, &request).await {
                let expected = [(HOME, vec![name]), (storage, vec![]), (evil, vec![]), (HOME, vec![name])];
                assert_eq!(sites_and_credentials(&arrivals), expected, "{status}");
                assert!(arrivals.iter().all(|(_, seen)| seen.body == arrivals[0].1.body), "the body is kept");
            }
        }
    }
}

#[tokio::test]
async fn a5_redirect_to_a_try_on_is_recognized_in_every_spelling() {
    let net = Net::new().await;
    let layer = jwt(Source::new()).build().unwrap();
    let request = post(TRY_ON, r#"{"uploaded_image_id":"image-1","sku_id":"dress-1"}"#);
    for path in [
        "/v1/sku_try_on_operations",
        "/v1/%73ku_try_on_operations",
        "/v1/uploaded_images/../sku_images_operations",
        "/v1/uploaded_images/%2e%2e/sku_images_operations",
        "/v1/uploaded_images%2F..%2Fsku_images_operations",
        "/v1\\sku_images_operations",
        "//api.aiuta.com//v1//sku_images_operations/",
        "sku_images_operations",
        "./../v1/sku_images_operations",
    ] {
        for status in [307, 308] {
            net.redirect(status, &format!("{path}?redirected"));
            for arrivals in follow(&net, &layer, &request).await {
                assert_eq!(
                    sites_and_credentials(&arrivals),
                    [(HOME, vec!["authorization"]), (HOME, vec!["authorization"])],
                    "{path}"
                );
                let expected = json!({"uploaded_image_id": "image-1", "sku_id": "dress-1"});
                assert_eq!(claims(arrivals[1].1.token())["params"], expected, "{path}");
            }
        }
    }
}

#[tokio::test]
async fn a5_redirect_to_any_path_gets_the_credential_it_needs() {
    let net = Net::new().await;
    let layer = jwt(Source::new()).allow_unbound_tokens(true).build().unwrap();
    for (path, name) in [
        ("/v1/uploaded_images/%31", "x-user-id"),
        ("/v1/sku_items/%2e%2e/try_on_models", "x-user-id"),
        ("/%761/sku_try_on_operations/op-1", "x-user-id"),
        ("/v1/uploaded_images/a%2Fb", "authorization"),
        ("/v1/uploaded_images/..%2Fsku_items", "authorization"),
        ("/v1/uploaded_images/%2e%2e/sku_items", "authorization"),
        ("/v1/sku_items", "authorization"),
    ] {
        for status in STATUSES {
            net.redirect(status, &format!("{path}?redirected"));
            for arrivals in follow(&net, &layer, &get(IMAGE)).await {
                assert_eq!(
                    sites_and_credentials(&arrivals),
                    [(HOME, vec!["x-user-id"]), (HOME, vec![name])],
                    "{status} {path}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a5_invalid_location_sends_nothing_outside() {
    let net = Net::new().await;
    for (layer, request, name) in each_credential(AIUTA) {
        let nowhere = INVALID.into_iter().map(|location| (location, false));
        for (location, followed) in
            nowhere.chain([("ftp://api.aiuta.com:443/", true), ("https://nobody.example/", true)])
        {
            net.redirect(307, location);
            let service = FollowRedirectLayer::with_policy(follow_all()).layer(layer.layer(net.client()));
            match service.oneshot(request.clone()).await {
                Ok(response) => assert!(response.status() == 307 && !followed, "{location}"),
                Err(error) => assert!(followed, "{location}: {error}"),
            }
            assert_eq!(sites_and_credentials(&net.arrivals()), [(HOME, vec![name])], "{location}");
        }
    }
}
