//! Redirects that `FollowRedirect` or reqwest follow inside the layer, where it does not see them.
//!
//! The leaks in these tests are limits of those crates. If a test fails after an update, the crate no longer leaks:
//! then adapt docs/SECURITY.md and the README.

use tower::service_fn;
use tower_aiuta_auth::same_origin_redirects;

use super::cases::{INVALID, LOCATIONS, STATUSES};
use super::net::{HOME, Net};
use super::*;
use crate::support::servers::Server;

/// Returns the credentials that a redirect takes to another origin.
fn leaked(name: &'static str) -> Vec<&'static str> {
    if name == "authorization" { vec![] } else { vec![name] }
}

#[tokio::test]
async fn a5_follow_redirect_inside_leaks_api_key_and_subscription_id() {
    let net = Net::new().await;
    for (layer, request, name) in each_credential(AIUTA) {
        for status in STATUSES {
            for (location, site) in LOCATIONS {
                net.redirect(status, &location.replace("PATH", "x?redirected"));
                let service = layer.layer(FollowRedirectLayer::with_policy(standard()).layer(net.client()));
                assert_eq!(service.oneshot(request.clone()).await.unwrap().status(), 200);
                let arrivals = net.arrivals();
                assert_eq!(arrivals[1].0, site, "{location}");
                let expected = if site == HOME { vec![name] } else { leaked(name) };
                assert_eq!(arrivals[1].1.credentials(), expected, "{status} {location}");
            }
        }
    }
}

/// A proxy that plays every host, because reqwest sends full URLs to a proxy. As `http://api.aiuta.com` it redirects to
/// `answer`.
struct AllHosts {
    server: Server,
    /// The requests since the last call of [`Self::follow`].
    requests: Arc<Mutex<Vec<SentRequest>>>,
    answer: Arc<Mutex<(u16, String)>>,
    /// The `Location` to which all other hosts redirect, if any.
    back: Arc<Mutex<Option<String>>>,
}

impl AllHosts {
    async fn new() -> Self {
        let answer = Arc::new(Mutex::new((200, String::new())));
        let back = Arc::new(Mutex::new(None));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (aiuta_answer, other_answer, received) = (Arc::clone(&answer), Arc::clone(&back), Arc::clone(&requests));
        let recorder = Recorder::with_response(move |seen| {
            let same_origin =
                seen.uri.host() == Some("api.aiuta.com") && seen.uri.port_u16().is_none_or(|port| port == 80);
            let redirect = match seen.uri.query() {
                Some(query) if query.starts_with("redirected") => None,
                _ if same_origin => Some(aiuta_answer.lock().unwrap().clone()),
                _ => other_answer.lock().unwrap().clone().map(|location| (307, location)),
            };
            received.lock().unwrap().push(seen);
            async move {
                let response = match redirect {
                    Some((status, location)) => {
                        Response::builder().status(status).header(LOCATION, location.as_bytes())
                    }
                    None => Response::builder(),
                };
                Ok(response.body(Full::default())?)
            }
        });
        Self { server: Server::recording(&recorder).await, requests, answer, back }
    }

    /// Returns a client that uses this proxy for every host.
    fn client(&self, policy: reqwest::redirect::Policy) -> reqwest::Client {
        let proxy = reqwest::Proxy::http(self.server.origin()).unwrap();
        reqwest::Client::builder().proxy(proxy).redirect(policy).build().unwrap()
    }

    /// Sends `request` through the layer and reqwest. Returns the status and the credentials of each request that was
    /// sent.
    async fn follow(
        &self,
        layer: &AiutaAuthLayer,
        client: &reqwest::Client,
        request: &Request<Full<Bytes>>,
    ) -> (u16, Vec<Vec<&'static str>>) {
        let service = layer.layer(service_fn(|request: Request<reqwest::Body>| {
            let client = client.clone();
            async move { Ok::<Response<reqwest::Body>, BoxError>(client.execute(request.try_into()?).await?.into()) }
        }));
        let (head, body) = request.clone().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let response = service.oneshot(Request::from_parts(head, body.into())).await.unwrap();
        (response.status().as_u16(), credentials(&std::mem::take(&mut *self.requests.lock().unwrap())))
    }
}

/// Returns the URL with plain http, because reqwest is built without TLS here.
fn in_plaintext(url: &str) -> String {
    url.replace("https", "http").replace("HTTPS", "HTTP").replace(":443", ":80")
}

/// Returns each `Location`, and whether it is within the origin.
fn locations() -> impl Iterator<Item = (String, bool)> {
    let plain = LOCATIONS.into_iter().filter(|(location, _)| !location.starts_with("http:"));
    plain.map(|(location, site)| (in_plaintext(location).replace("PATH", "x?redirected"), site == HOME))
}

#[tokio::test]
async fn a5_reqwest_inside_leaks_api_key_and_subscription_id() {
    let all_hosts = AllHosts::new().await;
    let client = all_hosts.client(reqwest::redirect::Policy::default());
    for (layer, request, name) in each_credential("http://api.aiuta.com") {
        for status in STATUSES {
            for (location, same_origin) in locations() {
                *all_hosts.answer.lock().unwrap() = (status, location.clone());
                let answer = all_hosts.follow(&layer, &client, &request).await;
                let there = if same_origin { vec![name] } else { leaked(name) };
                assert_eq!(answer, (200, vec![vec![name], there]), "{status} {location}");
            }
        }
    }
}

#[tokio::test]
async fn a5_reqwest_inside_with_same_origin_redirects_leaks_nothing() {
    let all_hosts = AllHosts::new().await;
    let client = all_hosts.client(same_origin_redirects());
    for (layer, request, name) in each_credential("http://api.aiuta.com") {
        for status in STATUSES {
            for (location, same_origin) in locations() {
                *all_hosts.answer.lock().unwrap() = (status, location.clone());
                let answer = all_hosts.follow(&layer, &client, &request).await;
                let expected = if same_origin { (200, vec![vec![name]; 2]) } else { (status, vec![vec![name]]) };
                assert_eq!(answer, expected, "{status} {location}");
            }
        }
    }
}

#[tokio::test]
async fn a5_redirect_followed_inside_is_not_authenticated_again() {
    let net = Net::new().await;
    for (layer, request, name) in each_credential(AIUTA) {
        net.answer(|site, uri| match (site, uri.query()) {
            (HOME, None) => Some((307, "https://storage.example/".to_owned())),
            ("https://storage.example:443", _) => Some((307, "https://api.aiuta.com/?redirected".to_owned())),
            _ => None,
        });
        let service = layer.layer(FollowRedirectLayer::with_policy(standard()).layer(net.client()));
        assert_eq!(service.oneshot(request).await.unwrap().status(), 200);
        let arrived: Vec<_> = net.arrivals().iter().map(|(_, seen)| seen.credentials()).collect();
        assert_eq!(arrived, [vec![name], leaked(name), leaked(name)]);
    }

    let all_hosts = AllHosts::new().await;
    for (layer, request, name) in each_credential("http://api.aiuta.com") {
        *all_hosts.answer.lock().unwrap() = (307, "http://storage.example/".to_owned());
        *all_hosts.back.lock().unwrap() = Some("http://api.aiuta.com/?redirected".to_owned());
        let (default_client, same_origin_client) =
            (all_hosts.client(reqwest::redirect::Policy::default()), all_hosts.client(same_origin_redirects()));
        // A leaked credential stays in the request. A token that was dropped does not come back.
        let expected = (200, vec![vec![name], leaked(name), leaked(name)]);
        assert_eq!(all_hosts.follow(&layer, &default_client, &request).await, expected);
        assert_eq!(all_hosts.follow(&layer, &same_origin_client, &request).await, (307, vec![vec![name]]));
    }
}

#[tokio::test]
async fn a5_invalid_location_is_not_followed_inside() {
    let all_hosts = AllHosts::new().await;
    for policy in [reqwest::redirect::Policy::default(), same_origin_redirects()] {
        let client = all_hosts.client(policy);
        for (layer, request, name) in each_credential("http://api.aiuta.com") {
            for location in INVALID {
                *all_hosts.answer.lock().unwrap() = (307, in_plaintext(location));
                assert_eq!(all_hosts.follow(&layer, &client, &request).await, (307, vec![vec![name]]), "{location}");
            }
        }
    }
    let net = Net::new().await;
    for (layer, request, name) in each_credential(AIUTA) {
        for location in INVALID {
            net.redirect(307, location);
            let service = layer.layer(FollowRedirectLayer::with_policy(standard()).layer(net.client()));
            assert_eq!(service.oneshot(request.clone()).await.unwrap().status(), 307, "{location}");
            assert!(net.arrivals().iter().map(|(_, seen)| seen.credentials()).eq([vec![name]]), "{location}");
        }
    }
}
