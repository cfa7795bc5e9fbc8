//! Redirects that are followed beneath the layer, where it sees nothing of them: by `FollowRedirect`, and by reqwest. Not as it should be, but
//! as they are: should one of these fail, they have learnt, and docs/SECURITY.md and the README may say so.

use tower::service_fn;
use tower_aiuta_auth::same_origin_redirects;

use super::cases::{LOCATIONS, NOWHERE, STATUSES};
use super::net::{HOME, Net};
use super::*;
use crate::support::servers::Server;

/// What is left of a credential on the way to another origin.
fn taken_along(name: &'static str) -> Vec<&'static str> {
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
                let expected = if site == HOME { vec![name] } else { taken_along(name) };
                assert_eq!(arrivals[1].1.credentials(), expected, "{status} {location}");
            }
        }
    }
}

/// A proxy that is everybody: reqwest sends it whole URLs. Aiuta, at `http://api.aiuta.com`, redirects as it is told.
struct Everybody {
    server: Server,
    /// What came since this was last looked at.
    seen: Arc<Mutex<Vec<SentRequest>>>,
    answer: Arc<Mutex<(u16, String)>>,
    /// Where everyone else redirects to, if they do.
    back: Arc<Mutex<Option<String>>>,
}

impl Everybody {
    async fn new() -> Self {
        let answer = Arc::new(Mutex::new((200, String::new())));
        let back = Arc::new(Mutex::new(None));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (told, told_others, came) = (Arc::clone(&answer), Arc::clone(&back), Arc::clone(&seen));
        let recorder = Recorder::with_response(move |seen| {
            let at_home = seen.uri.host() == Some("api.aiuta.com") && seen.uri.port_u16().is_none_or(|port| port == 80);
            let redirect = match seen.uri.query() {
                Some(query) if query.starts_with("redirected") => None,
                _ if at_home => Some(told.lock().unwrap().clone()),
                _ => told_others.lock().unwrap().clone().map(|location| (307, location)),
            };
            came.lock().unwrap().push(seen);
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
        Self { server: Server::recording(&recorder).await, seen, answer, back }
    }

    /// A client that takes everybody for whom it looks for.
    fn client(&self, policy: reqwest::redirect::Policy) -> reqwest::Client {
        let proxy = reqwest::Proxy::http(self.server.origin()).unwrap();
        reqwest::Client::builder().proxy(proxy).redirect(policy).build().unwrap()
    }

    /// Sends `request` by reqwest beneath the layer: the answer's status, and the credentials of the requests that were made.
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
        (response.status().as_u16(), credentials(&std::mem::take(&mut *self.seen.lock().unwrap())))
    }
}

/// The same URL without TLS, which this reqwest has not.
fn in_plaintext(url: &str) -> String {
    url.replace("https", "http").replace("HTTPS", "HTTP").replace(":443", ":80")
}

/// Where Aiuta says that the next request should go, and whether that is within its origin.
fn locations() -> impl Iterator<Item = (String, bool)> {
    let plain = LOCATIONS.into_iter().filter(|(location, _)| !location.starts_with("http:"));
    plain.map(|(location, site)| (in_plaintext(location).replace("PATH", "x?redirected"), site == HOME))
}

#[tokio::test]
async fn a5_reqwest_inside_leaks_api_key_and_subscription_id() {
    let everybody = Everybody::new().await;
    let client = everybody.client(reqwest::redirect::Policy::default());
    for (layer, request, name) in each_credential("http://api.aiuta.com") {
        for status in STATUSES {
            for (location, at_home) in locations() {
                *everybody.answer.lock().unwrap() = (status, location.clone());
                let answer = everybody.follow(&layer, &client, &request).await;
                let there = if at_home { vec![name] } else { taken_along(name) };
                assert_eq!(answer, (200, vec![vec![name], there]), "{status} {location}");
            }
        }
    }
}

#[tokio::test]
async fn a5_reqwest_inside_with_same_origin_redirects_leaks_nothing() {
    let everybody = Everybody::new().await;
    let client = everybody.client(same_origin_redirects());
    for (layer, request, name) in each_credential("http://api.aiuta.com") {
        for status in STATUSES {
            for (location, at_home) in locations() {
                *everybody.answer.lock().unwrap() = (status, location.clone());
                let answer = everybody.follow(&layer, &client, &request).await;
                let expected = if at_home { (200, vec![vec![name]; 2]) } else { (status, vec![vec![name]]) };
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
        assert_eq!(arrived, [vec![name], taken_along(name), taken_along(name)]);
    }

    let everybody = Everybody::new().await;
    for (layer, request, name) in each_credential("http://api.aiuta.com") {
        *everybody.answer.lock().unwrap() = (307, "http://storage.example/".to_owned());
        *everybody.back.lock().unwrap() = Some("http://api.aiuta.com/?redirected".to_owned());
        let (carefree, careful) =
            (everybody.client(reqwest::redirect::Policy::default()), everybody.client(same_origin_redirects()));
        // What was taken along is there still; a token that was dropped on the way does not come back.
        let expected = (200, vec![vec![name], taken_along(name), taken_along(name)]);
        assert_eq!(everybody.follow(&layer, &carefree, &request).await, expected);
        assert_eq!(everybody.follow(&layer, &careful, &request).await, (307, vec![vec![name]]));
    }
}

#[tokio::test]
async fn a5_invalid_location_is_not_followed_inside() {
    let everybody = Everybody::new().await;
    for policy in [reqwest::redirect::Policy::default(), same_origin_redirects()] {
        let client = everybody.client(policy);
        for (layer, request, name) in each_credential("http://api.aiuta.com") {
            for location in NOWHERE {
                *everybody.answer.lock().unwrap() = (307, in_plaintext(location));
                assert_eq!(everybody.follow(&layer, &client, &request).await, (307, vec![vec![name]]), "{location}");
            }
        }
    }
    let net = Net::new().await;
    for (layer, request, name) in each_credential(AIUTA) {
        for location in NOWHERE {
            net.redirect(307, location);
            let service = layer.layer(FollowRedirectLayer::with_policy(standard()).layer(net.client()));
            assert_eq!(service.oneshot(request.clone()).await.unwrap().status(), 307, "{location}");
            assert!(net.arrivals().iter().map(|(_, seen)| seen.credentials()).eq([vec![name]]), "{location}");
        }
    }
}
