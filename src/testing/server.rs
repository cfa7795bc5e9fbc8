//! The stand-in on loopback ports, over real HTTP/1 and HTTP/2.
//!
//! Who owns what: a [`FakeServer`] owns two accept tasks, each of them its connections' tasks, and each of those the
//! tasks of its HTTP/2 streams. Dropping an owner aborts what it owns, so dropping the server leaves nothing behind.

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

/// A [`FakeAiuta`] on two loopback ports, one for the API and one for images, until it is dropped.
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
    /// The API's origin, `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The origin of the images.
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
    /// Puts the API on a free loopback port, and the images on another. Both speak HTTP/1 and, to a client that begins
    /// with it, HTTP/2 without TLS. From then on the URLs of images name the new port. Has to run on tokio.
    ///
    /// # Errors
    ///
    /// If no port can be had.
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
                // Out of file descriptors, as a rule: it will not get better at once.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves one connection. It ends when the client hangs up, or a request is to get no answer: see [`Fault::Disconnect`](super::Fault).
async fn connection(stream: TcpStream, aiuta: FakeAiuta, at: Listener) {
    // Small answers at once, or tests take 40 ms each.
    let _ = stream.set_nodelay(true);
    let cut = Arc::new(Notify::new());
    let service = service_fn(|request| {
        let (aiuta, cut) = (aiuta.clone(), cut.clone());
        async move {
            match aiuta.answer(at, request).await {
                Ok(reply) => Ok::<_, Infallible>(reply),
                // An error would end an HTTP/2 stream only, so the connection is dropped from outside.
                Err(_) => {
                    cut.notify_one();
                    std::future::pending().await
                }
            }
        }
    });
    let streams = Streams::default();
    let _abort = AbortOnDrop(streams.clone());
    let builder = Builder::new(streams);
    tokio::select! {
        // The client's errors are the client's to report.
        _ = builder.serve_connection(TokioIo::new(stream), service) => {}
        () = cut.notified() => {}
    }
}

/// Runs HTTP/2 streams as tasks that end with their connection.
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
