//! Serves a [`FakeAiuta`] on loopback ports, over HTTP/1 and HTTP/2.
//!
//! A [`FakeServer`] owns two accept tasks. Each accept task owns the tasks of its connections, and each of those owns
//! the tasks of its HTTP/2 streams. Dropping an owner aborts its tasks, so no task outlives the server.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::FakeAiuta;
use super::record::Listener;

/// Serves a [`FakeAiuta`] on two loopback ports, one for the API and one for the images, until it is dropped.
///
/// ```
/// use tower_aiuta_auth::testing::FakeAiuta;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let aiuta = FakeAiuta::new();
/// let server = aiuta.serve().await?;
/// assert!(server.origin().starts_with("http://127.0.0.1:"));
/// # Ok(())
/// # }
/// ```
#[must_use = "the server stops as soon as it is dropped"]
pub struct FakeServer {
    origin: String,
    storage_origin: String,
    /// The accept tasks.
    _tasks: JoinSet<()>,
}

impl FakeServer {
    /// Returns the origin of the API: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Returns the origin of the images: `http://127.0.0.1:PORT` with another port.
    #[must_use]
    pub fn storage_origin(&self) -> &str {
        &self.storage_origin
    }
}

impl fmt::Debug for FakeServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeServer")
            .field("origin", &self.origin)
            .field("storage_origin", &self.storage_origin)
            .finish_non_exhaustive()
    }
}

impl FakeAiuta {
    /// Serves the API on a free loopback port and the images on another one.
    ///
    /// Both ports serve HTTP/1 and, to clients with prior knowledge, HTTP/2 without TLS. From then on, the URLs of
    /// images contain the port of the images. Must be called in a tokio runtime.
    ///
    /// # Errors
    ///
    /// Returns an error if no port can be bound.
    pub async fn serve(&self) -> io::Result<FakeServer> {
        let (api, origin) = bind().await?;
        let (storage, storage_origin) = bind().await?;
        self.state().store.move_storage(storage_origin.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(api, self.clone(), Listener::Api));
        tasks.spawn(accept(storage, self.clone(), Listener::Storage));
        Ok(FakeServer { origin, storage_origin, _tasks: tasks })
    }
}

async fn bind() -> io::Result<(TcpListener, String)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let origin = format!("http://{}", listener.local_addr()?);
    Ok((listener, origin))
}

async fn accept(listener: TcpListener, aiuta: FakeAiuta, at: Listener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(connection(stream, aiuta.clone(), at))),
                // Usually because no file descriptor is free. Retrying at once would loop without a pause.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves one connection until the client closes it or a request gets a [`Fault::Disconnect`](super::Fault).
async fn connection(stream: TcpStream, aiuta: FakeAiuta, at: Listener) {
    // With Nagle's algorithm, a small response can take 40 ms.
    let _ = stream.set_nodelay(true);
    let close = Arc::new(Notify::new());
    let service = service_fn(|request| {
        let (aiuta, close) = (aiuta.clone(), close.clone());
        async move {
            match aiuta.answer(at, request).await {
                Ok(reply) => Ok::<_, Infallible>(reply),
                // An error would end only the HTTP/2 stream, so the code below drops the whole connection.
                Err(_) => {
                    close.notify_one();
                    std::future::pending().await
                }
            }
        }
    });
    let streams = Streams::default();
    let _abort = AbortOnDrop(streams.clone());
    let builder = Builder::new(streams);
    tokio::select! {
        // The test sees a connection error at its client.
        _ = builder.serve_connection(TokioIo::new(stream), service) => {}
        () = close.notified() => {}
    }
}

/// Runs HTTP/2 streams as tasks, which [`AbortOnDrop`] ends with their connection.
#[derive(Clone, Default)]
struct Streams(Arc<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(stream);
    }
}

struct AbortOnDrop(Streams);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}
