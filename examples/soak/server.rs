//! A hyper server on loopback. Dropping it ends all of its tasks.

use std::fmt;
use std::future::Future;
use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tower_aiuta_auth::BoxError;

pub(crate) type Reply = Response<Full<Bytes>>;

/// Answers requests. An error cuts the connection (with HTTP/2, the stream).
pub(crate) trait Host: Send + Sync + 'static {
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Result<Reply, Cut>> + Send;
}

/// A bound port that is not served yet.
pub(crate) struct Port {
    listener: TcpListener,
    pub(crate) origin: String,
}

impl Port {
    pub(crate) async fn bind() -> Result<Self, BoxError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let origin = format!("http://{}", listener.local_addr()?);
        Ok(Self { listener, origin })
    }

    /// Serves the port until the returned set is dropped.
    pub(crate) fn serve(self, host: impl Host) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(self.listener, Arc::new(host)));
        tasks
    }
}

async fn accept(listener: TcpListener, host: Arc<impl Host>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let _ = stream.set_nodelay(true);
                let host = Arc::clone(&host);
                connections.spawn(async move {
                    let service = service_fn(|request| {
                        let host = Arc::clone(&host);
                        async move { host.answer(request).await }
                    });
                    // The client sees its own errors.
                    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// The error that cuts a connection. (With a `BoxError`, rustc cannot prove the lifetimes inside the task.)
#[derive(Debug)]
pub(crate) struct Cut;

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cut on purpose")
    }
}

impl std::error::Error for Cut {}
