//! The clients, plain and as a boxed [`Transport`].

use axum::Router;
use axum::body::Body as AxumBody;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};
use tower_aiuta_auth::testing::FakeAiuta;
use tower_aiuta_auth::{BoxError, same_origin_redirects};

pub(crate) type Req = Request<Full<Bytes>>;
pub(crate) type Res = Response<Bytes>;
/// Sends a request to a server and reads the whole response.
pub(crate) type Transport = BoxCloneSyncService<Req, Res, BoxError>;

pub(crate) fn hyper<B>(http2: bool) -> Client<HttpConnector, B>
where
    B: Body<Data: Send> + Send,
{
    Client::builder(TokioExecutor::new()).http2_only(http2).build_http()
}

/// reqwest as a Tower service, as in the example `reqwest_tower`.
pub(crate) fn reqwest()
-> impl Service<Request<reqwest::Body>, Response = Response<reqwest::Body>, Error = reqwest::Error, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    let client = reqwest::Client::builder().no_proxy().redirect(same_origin_redirects()).build().unwrap();
    tower::service_fn(move |request: Request<reqwest::Body>| {
        let client = client.clone();
        async move { Ok(client.execute(request.try_into()?).await?.into()) }
    })
}

/// Returns a router that passes every request to `FakeAiuta` in process.
pub(crate) fn router(aiuta: &FakeAiuta) -> Router {
    let aiuta = aiuta.clone();
    Router::new().fallback(async move |request: axum::extract::Request| aiuta.oneshot(request).await.unwrap())
}

/// Returns the transports over a network connection.
pub(crate) fn networks() -> [(&'static str, Transport); 3] {
    [
        ("HTTP/1", transport(hyper(false), |body| body)),
        ("HTTP/2", transport(hyper(true), |body| body)),
        ("reqwest", transport(reqwest(), reqwest::Body::wrap)),
    ]
}

/// Returns all transports.
pub(crate) fn transports(aiuta: &FakeAiuta) -> [(&'static str, Transport); 4] {
    let [http1, http2, reqwest] = networks();
    [http1, http2, reqwest, ("Router", transport(router(aiuta), AxumBody::new))]
}

fn transport<S, B, R>(client: S, body: fn(Full<Bytes>) -> B) -> Transport
where
    S: Service<Request<B>, Response = Response<R>, Error: Into<BoxError>, Future: Send> + Clone + Send + Sync + 'static,
    B: Send + 'static,
    R: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    BoxCloneSyncService::new(tower::service_fn(move |request: Req| {
        let client = client.clone();
        async move { read_whole(client.oneshot(request.map(body)).await.map_err(Into::into)?).await }
    }))
}

pub(crate) async fn read_whole<B>(response: Response<B>) -> Result<Res, BoxError>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    let (head, body) = response.into_parts();
    Ok(Response::from_parts(head, body.collect().await.map_err(Into::into)?.to_bytes()))
}
