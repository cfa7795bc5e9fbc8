//! A simulated network on loopback: several sites with names, TLS for https, and a log of the requests that each
//! received.

use std::collections::HashMap;
use std::future::IntoFuture;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::serve::Listener;
use bytes::Bytes;
use http::header::LOCATION;
use http::{Response, Uri};
use http_body_util::Full;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::util::BoxCloneSyncService;
use tower::{ServiceExt, service_fn};
use tower_aiuta_auth::BoxError;

use crate::support::{Recorder, SentRequest};

/// Scheme, host and port of each site. The first is Aiuta.
pub(crate) const SITES: [&str; 12] = [
    HOME,
    "https://api.aiuta.com.:443",
    "https://api.aiuta.com:8443",
    "http://api.aiuta.com:80",
    "http://api.aiuta.com:443",
    "https://aiuta.com:443",
    "https://xapi.aiuta.com:443",
    "https://api.aiuta.com.evil.example:443",
    "https://evil.example:443",
    "https://storage.example:443",
    "https://127.0.0.1:443",
    "https://[::1]:443",
];

/// The origin that is trusted by default.
pub(crate) const HOME: &str = "https://api.aiuta.com:443";

/// A client that sends a request to a server.
pub(crate) type Http = BoxCloneSyncService<http::Request<Full<Bytes>>, Response<hyper::body::Incoming>, BoxError>;

/// A site, and a request that it received.
pub(crate) type Arrival = (&'static str, SentRequest);

/// Returns the status and the `Location` of a response, or `None` for 200.
type Answer = Arc<dyn Fn(&'static str, &Uri) -> Option<(u16, String)> + Send + Sync>;

#[derive(Clone)]
pub(crate) struct Net {
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    answer: Arc<Mutex<Answer>>,
    client: Http,
    _servers: Arc<JoinSet<()>>,
}

impl Net {
    pub(crate) async fn new() -> Self {
        let arrivals = Arc::new(Mutex::new(Vec::new()));
        let nothing: Answer = Arc::new(|_, _| None);
        let answer = Arc::new(Mutex::new(nothing));
        let (acceptor, roots) = tls();
        let (mut addresses, mut servers) = (HashMap::new(), JoinSet::new());
        for (number, site) in SITES.into_iter().enumerate() {
            let listener = bind(number).await;
            addresses.insert(site, listener.local_addr().unwrap());
            let recorder = Recorder::with_response({
                let (arrivals, answer) = (Arc::clone(&arrivals), Arc::clone(&answer));
                move |seen| {
                    let answer = answer.lock().unwrap()(site, &seen.uri);
                    arrivals.lock().unwrap().push((site, seen));
                    async move {
                        let response = match answer {
                            Some((status, location)) => {
                                Response::builder().status(status).header(LOCATION, location.as_bytes())
                            }
                            None => Response::builder(),
                        };
                        Ok(response.body(Full::default())?)
                    }
                }
            });
            let router = Router::new()
                .fallback(async move |request: axum::extract::Request| recorder.oneshot(request).await.unwrap());
            if site.starts_with("https") {
                let listener = Tls { listener, acceptor: acceptor.clone() };
                servers.spawn(async move { axum::serve(listener, router).into_future().await.unwrap() });
            } else {
                servers.spawn(async move { axum::serve(listener, router).into_future().await.unwrap() });
            }
        }
        Self { arrivals, answer, client: client(addresses, roots), _servers: Arc::new(servers) }
    }

    /// Returns a client that resolves the names of all sites and follows no redirect.
    pub(crate) fn client(&self) -> Http {
        self.client.clone()
    }

    /// Sets the responses of all sites.
    pub(crate) fn answer(&self, answer: impl Fn(&'static str, &Uri) -> Option<(u16, String)> + Send + Sync + 'static) {
        *self.answer.lock().unwrap() = Arc::new(answer);
    }

    /// Makes Aiuta redirect to `location`, except for requests whose query begins with `redirected`.
    pub(crate) fn redirect(&self, status: u16, location: &str) {
        let location = location.to_owned();
        self.answer(move |site, uri| {
            let first = !uri.query().is_some_and(|query| query.starts_with("redirected"));
            (site == HOME && first).then(|| (status, location.clone()))
        });
    }

    /// Returns the requests since the last call.
    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        std::mem::take(&mut *self.arrivals.lock().unwrap())
    }
}

/// Binds to one of several loopback addresses, or to 127.0.0.1 if the machine does not have that address.
async fn bind(number: usize) -> TcpListener {
    let address = ["127.0.0.1:0", "127.0.0.2:0", "[::1]:0"][number % 3];
    match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind("127.0.0.1:0").await.unwrap(),
    }
}

/// Returns a client that connects by scheme, host and port as written in the URL.
fn client(addresses: HashMap<&'static str, SocketAddr>, roots: rustls::RootCertStore) -> Http {
    let addresses = Arc::new(addresses);
    let connector = service_fn(move |uri: Uri| {
        let scheme = uri.scheme_str().unwrap_or_default();
        let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
        let site = format!("{scheme}://{}:{port}", uri.host().unwrap_or_default());
        let address = addresses.get(site.as_str()).copied();
        async move {
            let address = address.ok_or_else(|| std::io::Error::other(format!("there is no site {site}")))?;
            TcpStream::connect(address).await.map(TokioIo::new)
        }
    });
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let https = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1();
    let client = Client::builder(TokioExecutor::new()).build(https.wrap_connector(connector));
    BoxCloneSyncService::new(client.map_err(Into::into))
}

/// Returns one certificate for all sites.
fn tls() -> (TlsAcceptor, rustls::RootCertStore) {
    let host = |site: &str| {
        site.split_once("://").unwrap().1.rsplit_once(':').unwrap().0.trim_matches(['[', ']', '.']).to_owned()
    };
    let mut hosts: Vec<String> = SITES.into_iter().map(host).collect();
    hosts.sort();
    hosts.dedup();
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(hosts).unwrap();
    let certificate: CertificateDer<'static> = cert.into();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    (TlsAcceptor::from(Arc::new(config)), roots)
}

struct Tls {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (stream, address) = self.listener.accept().await.unwrap();
            // A client that fails the handshake sent no request.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
