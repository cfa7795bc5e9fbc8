//! What callers send through: redirects are followed outside the layer, hyper's client is beneath it.

use std::sync::Arc;

use http::header::{AUTHORIZATION, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tower::ServiceBuilder;
use tower::util::BoxCloneSyncService;
use tower_aiuta_auth::{AiutaAuthLayer, BoxError};
use tower_http::follow_redirect::FollowRedirectLayer;
use tower_http::follow_redirect::policy::{Policy, PolicyExt, Standard, clone_body_fn};

use crate::payload::Payload;
use crate::world::World;

pub(crate) type Stack = BoxCloneSyncService<Request<Payload>, Response<Incoming>, BoxError>;

/// Two ways to the same layer: HTTP/1 with a careful policy of redirects, HTTP/2 with one that carries all headers and extensions along.
pub(crate) fn stacks(layer: &AiutaAuthLayer, world: &Arc<World>) -> [Stack; 2] {
    let careless = || clone_body_fn(|body: &Payload| Some(body.clone()));
    let careful = PolicyExt::and::<_, Payload, BoxError>(careless(), Standard::default());
    [stack(layer, world, false, careful), stack(layer, world, true, careless())]
}

fn stack<P>(layer: &AiutaAuthLayer, world: &Arc<World>, http2: bool, policy: P) -> Stack
where
    P: Policy<Payload, BoxError> + Clone + Send + Sync + 'static,
{
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let http = Client::builder(TokioExecutor::new()).http2_only(http2).build::<_, Payload>(connector);
    let world = Arc::clone(world);
    BoxCloneSyncService::new(
        ServiceBuilder::new()
            .layer(FollowRedirectLayer::with_policy(policy))
            .layer(layer.clone())
            .map_response(move |response: Response<Incoming>| {
                if response.status() == StatusCode::UNAUTHORIZED {
                    world.counts.unauthorized.add();
                    world.forgets.refusal();
                }
                response
            })
            .service(http),
    )
}

/// A credential of the caller's own, which is not to get through.
pub(crate) fn put_stale_credential<B>(request: &mut Request<B>) {
    request.headers_mut().insert(AUTHORIZATION, HeaderValue::from_static("Bearer stale"));
    request.headers_mut().insert("x-api-key", HeaderValue::from_static("stale"));
}
