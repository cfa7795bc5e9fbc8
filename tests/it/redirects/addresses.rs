//! Servers without names: another address or port of the same machine is another origin, for hyper-util's connector and
//! reqwest.

use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tower::service_fn;
use tower_aiuta_auth::same_origin_redirects;

use super::cases::STATUSES;
use super::*;
use crate::support::servers::Server;

/// Starts Aiuta at 127.0.0.1, and others at another port and at other addresses that this machine has. Returns the
/// origin of each.
async fn servers() -> Vec<(Server, Recorder, String)> {
    let mut servers = Vec::new();
    for (listen, name) in [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "localhost"),
        ("127.0.0.2", "127.0.0.2"),
        ("[::1]", "[::1]"),
    ] {
        let recorder = redirecting_to_query();
        let Some(server) = Server::bind(&format!("{listen}:0"), &recorder).await else { continue };
        let origin = server.origin().replace(listen, name);
        servers.push((server, recorder, origin));
    }
    servers
}

/// Redirects to the URL in the query, with the status at the end of the path.
fn redirecting_to_query() -> Recorder {
    Recorder::with_response(|seen| async move {
        let response = match seen.uri.query() {
            Some(location) => {
                let status: u16 = seen.uri.path().rsplit('/').next().unwrap().parse().unwrap();
                Response::builder().status(status).header(LOCATION, location)
            }
            None => Response::builder(),
        };
        Ok(response.body(Full::default())?)
    })
}

/// Redirects from Aiuta to each server in turn. `leaks` is whether another origin receives the credential, or `None` if
/// it receives no request.
async fn redirect_to_each<S, R>(service: impl Fn(&AiutaAuthLayer) -> S, leaks: Option<bool>)
where
    S: tower::Service<Request<reqwest::Body>, Response = Response<R>, Error = BoxError>,
{
    let servers = servers().await;
    let (_, aiuta, aiuta_origin) = &servers[0];
    let builders = [(AiutaAuthLayer::builder().api_key(KEY), "x-api-key"), (jwt(Source::new()), "x-user-id")];
    for (builder, name) in builders {
        let layer = builder.origins([aiuta_origin]).build().unwrap();
        for status in STATUSES {
            for (index, (_, other, origin)) in servers.iter().enumerate() {
                let (before, before_other) = (aiuta.count(), other.count());
                let request =
                    Request::get(format!("{aiuta_origin}/v1/uploaded_images/{status}?{origin}/v1/uploaded_images/1"));
                let response = service(&layer).oneshot(request.body(reqwest::Body::default()).unwrap()).await.unwrap();
                let followed = index == 0 || leaks.is_some();
                assert_eq!(response.status().as_u16(), if followed { 200 } else { status }, "{origin}");
                assert_eq!(aiuta.requests()[before].credentials(), [name]);
                if index == 0 {
                    assert_eq!(credentials(&aiuta.requests()[before..]), [vec![name], vec![name]]);
                } else {
                    let with = |credential| if credential { vec![name] } else { vec![] };
                    let expected: Vec<_> = leaks.map(with).into_iter().collect();
                    assert_eq!(credentials(&other.requests()[before_other..]), expected, "{origin}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a5_follow_redirect_outside_leaks_to_no_other_address_or_port() {
    let client = Client::builder(TokioExecutor::new()).build_http::<reqwest::Body>();
    let service = |layer: &AiutaAuthLayer| FollowRedirectLayer::new().layer(layer.layer(client.clone()));
    redirect_to_each(service, Some(false)).await;
}

fn reqwest_with(policy: reqwest::redirect::Policy) -> impl Fn(&AiutaAuthLayer) -> BoxedReqwest {
    let client = reqwest::Client::builder().no_proxy().redirect(policy).build().unwrap();
    move |layer| {
        let client = client.clone();
        BoxedReqwest::new(layer.layer(service_fn(move |request: Request<reqwest::Body>| {
            let client = client.clone();
            async move { Ok::<Response<reqwest::Body>, BoxError>(client.execute(request.try_into()?).await?.into()) }
        })))
    }
}

type BoxedReqwest = tower::util::BoxService<Request<reqwest::Body>, Response<reqwest::Body>, BoxError>;

#[tokio::test]
async fn a5_reqwest_inside_leaks_to_other_addresses_and_ports() {
    // A limit of reqwest, documented in docs/SECURITY.md.
    redirect_to_each(reqwest_with(reqwest::redirect::Policy::default()), Some(true)).await;
}

#[tokio::test]
async fn a5_same_origin_redirects_stop_at_other_addresses_and_ports() {
    redirect_to_each(reqwest_with(same_origin_redirects()), None).await;
}
