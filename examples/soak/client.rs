//! The stack that callers send requests through: redirects are followed outside the layer, and hyper's client is inside
//! it.

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

use crate::body::TestBody;
use crate::shared::Shared;

pub(crate) type Stack = BoxCloneSyncService<Request<TestBody>, Response<Incoming>, BoxError>;

/// Returns two stacks around the same layer. The first uses HTTP/1 and a redirect policy that removes sensitive
/// headers. The second uses HTTP/2 and a policy that keeps all headers and extensions.
pub(crate) fn stacks(layer: &AiutaAuthLayer, shared: &Arc<Shared>) -> [Stack; 2] {
    let keep_all = || clone_body_fn(|body: &TestBody| Some(body.clone()));
    let standard = PolicyExt::and::<_, TestBody, BoxError>(keep_all(), Standard::default());
    [stack(layer, shared, false, standard), stack(layer, shared, true, keep_all())]
}

fn stack<P>(layer: &AiutaAuthLayer, shared: &Arc<Shared>, http2: bool, policy: P) -> Stack
where
    P: Policy<TestBody, BoxError> + Clone + Send + Sync + 'static,
{
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let http = Client::builder(TokioExecutor::new()).http2_only(http2).build::<_, TestBody>(connector);
    let shared = Arc::clone(shared);
    BoxCloneSyncService::new(
        ServiceBuilder::new()
            .layer(FollowRedirectLayer::with_policy(policy))
            .layer(layer.clone())
            .map_response(move |response: Response<Incoming>| {
                if response.status() == StatusCode::UNAUTHORIZED {
                    shared.counts.unauthorized.add();
                    shared.invalidations.rejection();
                }
                response
            })
            .service(http),
    )
}

/// Adds credentials of the caller's own, which the layer has to replace.
pub(crate) fn add_stale_credential<B>(request: &mut Request<B>) {
    request.headers_mut().insert(AUTHORIZATION, HeaderValue::from_static("Bearer stale"));
    request.headers_mut().insert("x-api-key", HeaderValue::from_static("stale"));
}
