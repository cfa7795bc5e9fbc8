//! Measures herds of concurrent callers: how often the token source is called, and how callers are affected.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use http::StatusCode;
use indicatif::ProgressBar;
use tokio::time::{interval, sleep, timeout};

use crate::BoxError;
use crate::authority::{Authority, Behaviour};
use crate::peer::{Client, Herd};

/// A row of the table: a case, a figure, and its value for each peer.
pub struct Row {
    pub case: String,
    pub figure: &'static str,
    pub of: Vec<String>,
}

const CALLS: &str = "calls of the token source";

/// Request rate in the case of tokens of 5 seconds.
const PER_SECOND: u64 = 50;

pub async fn measure(herds: &[Herd], seconds: u64) -> Result<Vec<Row>, BoxError> {
    let progress = ProgressBar::new(6 * herds.len() as u64).with_message("herds");
    progress.set_style(crate::style());
    progress.enable_steady_tick(Duration::from_millis(200));

    let mut table = Vec::new();
    for (case, figures, run) in cases(seconds) {
        let mut columns = Vec::new();
        for herd in herds {
            columns.push(run(herd.client, seconds).await.map_err(|error| format!("{}, {case}: {error}", herd.name))?);
            progress.inc(1);
        }
        for (at, figure) in figures.iter().enumerate() {
            let case = if at == 0 { case.clone() } else { String::new() };
            table.push(Row { case, figure, of: columns.iter().map(|column| column[at].clone()).collect() });
        }
    }
    progress.finish_and_clear();
    Ok(table)
}

type Make = fn(Arc<Authority>) -> futures::future::BoxFuture<'static, Result<Client, BoxError>>;
type Figures = Result<Vec<String>, BoxError>;
type Run = Box<dyn Fn(Make, u64) -> futures::future::BoxFuture<'static, Figures>>;

fn cases(seconds: u64) -> Vec<(String, &'static [&'static str], Run)> {
    vec![
        ("20 callers, nothing cached".into(), &[CALLS], Box::new(|make, _| Box::pin(cold(make, 20)))),
        ("10,000 callers, nothing cached".into(), &[CALLS], Box::new(|make, _| Box::pin(cold(make, 10_000)))),
        (
            "20 callers, the source takes 50 ms and fails".into(),
            &[CALLS, "last caller has its error after", "next request after recovery"],
            Box::new(|make, _| Box::pin(failing(make))),
        ),
        (
            "20 callers with a timeout of 30 ms, the source takes 50 ms".into(),
            &[CALLS, "next request, 100 ms later"],
            Box::new(|make, _| Box::pin(impatient(make))),
        ),
        (
            "20 requests in flight when their token is revoked".into(),
            &[CALLS, "callers that get the 401", "next request"],
            Box::new(|make, _| Box::pin(revoked(make))),
        ),
        (
            format!("tokens of 5 s, {PER_SECOND} requests/s for {seconds} s"),
            &[CALLS, "longest stall", "requests that failed or got a 401"],
            Box::new(|make, seconds| Box::pin(short_lived(make, seconds))),
        ),
    ]
}

async fn cold(make: Make, callers: usize) -> Figures {
    // Long enough for all callers to arrive.
    let authority = Authority::new(Behaviour { delay: Duration::from_millis(500), ..Behaviour::default() });
    let client = make(Arc::clone(&authority)).await?;
    for outcome in at_once(&client, callers).await {
        served(&outcome?)?;
    }
    Ok(vec![authority.calls().to_string()])
}

async fn failing(make: Make) -> Figures {
    let authority = Authority::new(Behaviour { failing: true, ..Behaviour::default() });
    let client = make(Arc::clone(&authority)).await?;
    let begin = Instant::now();
    let outcomes = at_once(&client, 20).await;
    let last = begin.elapsed();
    if outcomes.iter().any(Result::is_ok) {
        return Err("a request was sent without a token".into());
    }
    let calls = authority.calls();
    authority.recover();
    let next = match client().await {
        Ok(status) => served(&status).map(|()| "is served")?,
        Err(_) => "fails",
    };
    Ok(vec![calls.to_string(), millis(last), next.into()])
}

async fn impatient(make: Make) -> Figures {
    let authority = Authority::new(Behaviour::default());
    let client = make(Arc::clone(&authority)).await?;
    let limited = (0..20).map(|_| tokio::spawn(timeout(Duration::from_millis(30), client())));
    for outcome in join_all(limited).await {
        if outcome?.is_ok() {
            return Err("a call of 50 ms returned within 30 ms".into());
        }
    }
    sleep(Duration::from_millis(100)).await;
    let calls = authority.calls();
    served(&client().await?)?;
    let next = if authority.calls() == calls { "hits the cache" } else { "calls the source" };
    Ok(vec![calls.to_string(), next.into()])
}

async fn revoked(make: Make) -> Figures {
    let authority = Authority::new(Behaviour::default());
    let client = make(Arc::clone(&authority)).await?;
    served(&client().await?)?;
    let calls = authority.calls();
    let under_way: Vec<_> = (0..20).map(|_| tokio::spawn(client())).collect();
    // All requests have been sent, and none has arrived yet.
    sleep(Duration::from_millis(1)).await;
    authority.revoke();
    let mut rejected = 0;
    for outcome in join_all(under_way).await {
        rejected += usize::from(outcome?? == StatusCode::UNAUTHORIZED);
    }
    let calls = authority.calls() - calls;
    let next = if client().await? == StatusCode::OK { "is served" } else { "gets a 401" };
    Ok(vec![calls.to_string(), format!("{rejected} of 20"), next.into()])
}

async fn short_lived(make: Make, seconds: u64) -> Figures {
    let authority = Authority::new(Behaviour { lifetime: Duration::from_secs(5), ..Behaviour::default() });
    let client = make(Arc::clone(&authority)).await?;
    served(&client().await?)?;

    let mut ticks = interval(Duration::from_millis(1000 / PER_SECOND));
    let mut requests = Vec::new();
    for _ in 0..seconds * PER_SECOND {
        ticks.tick().await;
        let client = Arc::clone(&client);
        requests.push(tokio::spawn(async move {
            let begin = Instant::now();
            (client().await, begin.elapsed())
        }));
    }
    // Requests that still wait after another second are counted as stalled.
    let calls = authority.calls();
    let (mut longest, mut bad, mut waiting) = (Duration::ZERO, 0, 0);
    let patience = tokio::time::Instant::now() + Duration::from_secs(1);
    for request in requests {
        let abort = request.abort_handle();
        match tokio::time::timeout_at(patience, request).await {
            Ok(outcome) => {
                let (outcome, took) = outcome?;
                longest = longest.max(took);
                bad += usize::from(!matches!(outcome, Ok(StatusCode::OK)));
            }
            Err(_) => {
                abort.abort();
                waiting += 1;
            }
        }
    }
    let stall = if waiting == 0 { millis(longest) } else { format!("{}; {waiting} still waiting", millis(longest)) };
    Ok(vec![calls.to_string(), stall, bad.to_string()])
}

async fn at_once(client: &Client, callers: usize) -> Vec<Result<StatusCode, BoxError>> {
    let callers: Vec<_> = (0..callers).map(|_| tokio::spawn(client())).collect();
    join_all(callers).await.into_iter().map(|caller| caller.map_err(BoxError::from).flatten()).collect()
}

fn served(status: &StatusCode) -> Result<(), BoxError> {
    if *status == StatusCode::OK { Ok(()) } else { Err(format!("a request got {status}").into()) }
}

fn millis(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}
