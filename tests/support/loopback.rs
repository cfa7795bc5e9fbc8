//! Both ends of a real connection: a hyper server for a Tower service, a hyper-util client, and raw bytes for either.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tower::Service;

pub type Http = Client<HttpConnector, Full<Bytes>>;

pub fn client() -> Http {
    Client::builder(TokioExecutor::new()).build_http()
}

/// Serves a Tower service until the test's runtime ends; answers its origin.
pub async fn serve<S>(service: S) -> String
where
    S: Service<Request<hyper::body::Incoming>, Response = Response<Full<Bytes>>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    let (listener, origin) = bind().await;
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(async move {
                // The client's errors are the client's to report.
                let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    origin
}

/// Answers one request with these very bytes, and hangs up.
pub async fn answer_once(answer: Vec<u8>) -> String {
    let (listener, origin) = bind().await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let read = stream.read(&mut request).await.unwrap();
        assert_ne!(read, 0, "a request comes first");
        stream.write_all(&answer).await.unwrap();
    });
    origin
}

/// Sends these very bytes; answers what comes back: its head, and its body by `content-length`.
pub async fn send_raw(origin: &str, request: &[u8]) -> (String, String) {
    let mut stream = TcpStream::connect(origin.strip_prefix("http://").unwrap()).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut received = Vec::new();
    loop {
        let text = std::str::from_utf8(&received).unwrap();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("its length");
            if body.len() == length.parse::<usize>().unwrap() {
                return (head.to_owned(), body.to_owned());
            }
        }
        let mut chunk = [0; 4096];
        let read = stream.read(&mut chunk).await.unwrap();
        assert_ne!(read, 0, "cut off after {text}");
        received.extend_from_slice(&chunk[..read]);
    }
}

/// An origin that refuses connections for as long as the socket is kept: the port is bound, and nothing listens. A port that
/// was only free a moment ago may belong to another test by now.
pub fn refusing() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let origin = format!("http://{}", socket.local_addr().unwrap());
    (socket, origin)
}

async fn bind() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    (listener, origin)
}
