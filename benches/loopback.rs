//! Measures whole requests over loopback, with the layer and without it: `cargo bench --bench loopback`.
//!
//! A hyper server runs on its own thread, hyper-util's client on the main thread. Three kinds of rounds alternate: the
//! bare client; the bare client with `authorization` set by hand, a cost that every solution has; and the client inside
//! the layer. The result is the median of the ratios of adjacent rounds. Requests are built before the timer starts,
//! each for one of a thousand keys.

mod support;

use std::fmt;
use std::time::Instant;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use http::header::AUTHORIZATION;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use indicatif::ProgressBar;
use tokio::net::TcpListener;
use tokio::runtime::{self, Runtime};
use tower::{Layer, Service, ServiceExt};
use tower_aiuta_auth::{AiutaAuthLayer, BoxError, Jwt};

use support::{Req, jwt, measuring, params, try_on, try_on_with_params};

const KEYS: usize = 1_000;
const BAR: f64 = 0.97;

fn main() -> Result<(), BoxError> {
    let (rounds, requests) = if measuring() { (200, 1_000) } else { (2, 100) };
    let runtime = one_thread()?;
    let bench = runtime.block_on(Bench::start(rounds, requests))?;

    println!(
        "requests/s through the bare client, and the fraction of it that each way reaches (quartiles in brackets)\n"
    );
    println!("| protocol | in flight | params | bare | header by hand | with the layer | layer / by hand | bar |");
    println!("|---|---:|---|---:|---|---|---|---|");
    for (protocol, http2) in [("HTTP/1.1", false), ("HTTP/2", true)] {
        for in_flight in [1, 32] {
            for (from, make) in [("extension", try_on_with_params as Make), ("body", try_on)] {
                let times = runtime.block_on(bench.case(http2, in_flight, make))?;
                let by_hand = Ratio::of(&times, |round| round.bare / round.by_hand);
                let layered = Ratio::of(&times, |round| round.bare / round.layered);
                let of_by_hand = Ratio::of(&times, |round| round.by_hand / round.layered);
                let bare = requests as f64 / Ratio::of(&times, |round| round.bare).median;
                let verdict = if layered.median >= BAR { "met" } else { "missed" };
                println!(
                    "| {protocol} | {in_flight} | {from} | {bare:.0} | {by_hand} | {layered} | {of_by_hand} | {BAR}: {verdict} |"
                );
            }
        }
    }
    let fetches = bench.layer.token_cache().expect("the layer uses JWTs").stats().fetches;
    assert_eq!(fetches, KEYS as u64, "only the first request for a key fetches a token");
    Ok(())
}

/// Builds the request for an origin and the number of a key.
type Make = fn(&str, usize) -> Req;

type Http = Client<HttpConnector, Full<Bytes>>;

struct Bench {
    origin: String,
    layer: AiutaAuthLayer,
    /// The token of each key.
    tokens: Vec<Jwt>,
    rounds: usize,
    requests: usize,
    progress: ProgressBar,
}

/// Time in seconds of one round of each kind.
struct Round {
    bare: f64,
    by_hand: f64,
    layered: f64,
}

impl Bench {
    async fn start(rounds: usize, requests: usize) -> Result<Self, BoxError> {
        let origin = serve()?;
        let layer = jwt().origins([origin.as_str()]).build()?;
        let cache = layer.token_cache().expect("the layer uses JWTs");
        let tokens =
            stream::iter(0..KEYS).then(|key| async move { cache.get(&params(key)).await }).try_collect().await?;
        Ok(Self { origin, layer, tokens, rounds, requests, progress: ProgressBar::new(8 * rounds as u64) })
    }

    /// Runs the rounds of a case over one connection pool. The first round is not counted.
    async fn case(&self, http2: bool, in_flight: usize, make: Make) -> Result<Vec<Round>, BoxError> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client: Http = Client::builder(TokioExecutor::new()).http2_only(http2).build(connector);
        let layered = self.layer.layer(client.clone());

        let mut rounds = Vec::with_capacity(self.rounds);
        for number in 0..=self.rounds {
            let keys = || (0..self.requests).map(|request| (number * 7 + request) % KEYS);
            let plain = || keys().map(|key| make(&self.origin, key)).collect();
            let by_hand = || keys().map(|key| self.authorized(make(&self.origin, key), key)).collect();
            let mut round = Round { bare: 0.0, by_hand: 0.0, layered: 0.0 };
            // Each kind is first, second and third equally often.
            for turn in number..number + 3 {
                match turn % 3 {
                    0 => round.bare = time(&client, plain(), in_flight, false).await?,
                    1 => round.by_hand = time(&client, by_hand(), in_flight, true).await?,
                    _ => round.layered = time(&layered, plain(), in_flight, true).await?,
                }
            }
            if number > 0 {
                rounds.push(round);
                self.progress.inc(1);
            }
        }
        Ok(rounds)
    }

    fn authorized(&self, mut request: Req, key: usize) -> Req {
        let mut value =
            http::HeaderValue::try_from(format!("Bearer {}", self.tokens[key].expose())).expect("a valid header value");
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
        request
    }
}

/// Returns the time in seconds to send `requests`, with `in_flight` of them at once, and to read the responses. A
/// response tells whether the request carried a token.
async fn time<S>(service: &S, requests: Vec<Req>, in_flight: usize, authorized: bool) -> Result<f64, BoxError>
where
    S: Service<Req, Response = Response<Incoming>> + Clone,
    S::Error: Into<BoxError>,
{
    let begin = Instant::now();
    let mut answers = stream::iter(requests)
        .map(|request| async {
            let response = service.clone().oneshot(request).await.map_err(Into::into)?;
            Ok::<_, BoxError>(response.into_body().collect().await?.to_bytes())
        })
        .buffer_unordered(in_flight);
    while let Some(answer) = answers.try_next().await? {
        assert_eq!(answer, answer_to(authorized));
    }
    Ok(begin.elapsed().as_secs_f64())
}

fn answer_to(authorized: bool) -> &'static str {
    if authorized { r#"{"token":true }"# } else { r#"{"token":false}"# }
}

/// Serves on its own thread until the program ends. Returns the server's origin.
fn serve() -> Result<String, BoxError> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let origin = format!("http://{}", listener.local_addr()?);
    let runtime = one_thread()?;
    std::thread::spawn(move || {
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener).expect("inside a runtime");
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                stream.set_nodelay(true).expect("a live connection");
                // The client sees its own errors.
                tokio::spawn(async move {
                    Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service_fn(answer)).await
                });
            }
        })
    });
    Ok(origin)
}

/// Reads the whole request and answers whether it carried a token.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let authorized =
        request.headers().get(AUTHORIZATION).is_some_and(|value| value.as_bytes().starts_with(b"Bearer ey"));
    request.into_body().collect().await?;
    Ok(Response::new(Full::from(answer_to(authorized))))
}

fn one_thread() -> std::io::Result<Runtime> {
    runtime::Builder::new_current_thread().enable_all().build()
}

/// Median and quartiles of a value over all rounds.
struct Ratio {
    lower: f64,
    median: f64,
    upper: f64,
}

impl Ratio {
    fn of(rounds: &[Round], figure: impl Fn(&Round) -> f64) -> Self {
        let mut figures: Vec<_> = rounds.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        let at = |part: usize| figures[figures.len() * part / 4];
        Self { lower: at(1), median: at(2), upper: at(3) }
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} ({:.3}–{:.3})", self.median, self.lower, self.upper)
    }
}
