//! The stack that callers send requests through: redirects are followed outside the layer, and hyper's client is inside
//! it.

use std::sync::Arc;

use futures::future::BoxFuture;
use http::header::{AUTHORIZATION, HeaderValue};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tower::util::BoxCloneSyncService;
use tower::{ServiceBuilder, ServiceExt};
use tower_aiuta_auth::{AiutaAuthLayer, BoxError};
use tower_http::follow_redirect::FollowRedirectLayer;
use tower_http::follow_redirect::policy::{Policy, PolicyExt, Standard, clone_body_fn};

use crate::body::TestBody;
use crate::checked::Checked;
use crate::shared::Shared;

pub(crate) type Stack = BoxCloneSyncService<Request<TestBody>, Response<Incoming>, BoxError>;

type HttpClient = Client<HttpConnector, TestBody>;

/// Returns two stacks around the same layer. The first uses HTTP/1 and a redirect policy that removes sensitive
/// headers. The second uses HTTP/2 and a policy that keeps all headers and extensions.
///
/// Each runtime has stacks of its own, since a connection belongs to the runtime on which it was opened.
pub(crate) fn stacks(layer: &AiutaAuthLayer, shared: &Arc<Shared>) -> [Stack; 2] {
    let on_current = |http: HttpClient| tower::service_fn(move |request| http.request(request));
    stacks_over(layer, shared, on_current)
}

/// Returns stacks that need no runtime: their connections belong to `runtime`.
pub(crate) fn stacks_without_runtime(layer: &AiutaAuthLayer, shared: &Arc<Shared>, runtime: &Handle) -> [Stack; 2] {
    let on_other = |http: HttpClient| {
        let runtime = runtime.clone();
        tower::service_fn(move |request| -> BoxFuture<'static, Result<_, BoxError>> {
            // The set aborts the task when the call is dropped.
            let mut task = JoinSet::new();
            task.spawn_on(http.request(request), &runtime);
            Box::pin(async move { Ok(task.join_next().await.expect("one task")??) })
        })
    };
    stacks_over(layer, shared, on_other)
}

fn stacks_over<S>(layer: &AiutaAuthLayer, shared: &Arc<Shared>, transport: impl Fn(HttpClient) -> S) -> [Stack; 2]
where
    S: tower::Service<Request<TestBody>, Response = Response<Incoming>, Future: Send> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
{
    let keep_all = || clone_body_fn(|body: &TestBody| Some(body.clone()));
    let standard = PolicyExt::and::<_, TestBody, BoxError>(keep_all(), Standard::default());
    [
        stack(layer, shared, transport(http_client(false)), standard),
        stack(layer, shared, transport(http_client(true)), keep_all()),
    ]
}

fn http_client(http2: bool) -> HttpClient {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).http2_only(http2).build(connector)
}

fn stack<S, P>(layer: &AiutaAuthLayer, shared: &Arc<Shared>, transport: S, policy: P) -> Stack
where
    S: tower::Service<Request<TestBody>, Response = Response<Incoming>, Future: Send> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    P: Policy<TestBody, BoxError> + Clone + Send + Sync + 'static,
{
    BoxCloneSyncService::new(
        ServiceBuilder::new()
            .layer(FollowRedirectLayer::with_policy(policy))
            .layer(layer.clone())
            .service(Checked::new(Arc::clone(shared), transport.map_err(Into::into))),
    )
}

/// Adds credentials of the caller's own, which the layer has to replace.
pub(crate) fn add_stale_credential<B>(request: &mut Request<B>) {
    request.headers_mut().insert(AUTHORIZATION, HeaderValue::from_static("Bearer stale"));
    request.headers_mut().insert("x-api-key", HeaderValue::from_static("stale"));
}
