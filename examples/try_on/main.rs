//! A complete try-on with Aiuta's API: uploads a photo, starts the operation, polls it and downloads the result.
//!
//! Run it with `cargo run --example try_on`. It needs no account: it starts [`FakeAiuta`] on loopback. See `--help` for
//! the options.

mod api;
mod args;
mod cache;
mod client;
mod failure;
mod photo;
mod polling;
mod report;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use tower_aiuta_auth::testing::{Credential, FakeAiuta};
use tower_aiuta_auth::{AiutaAuthLayer, JwtSigner};

use crate::api::Order;
use crate::args::Args;
use crate::cache::{Demonstration, SlowSigner};
use crate::client::Client;
use crate::failure::Failure;
use crate::photo::{Out, Photo};

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let result = tokio::select! {
        result = run(args) => result,
        _ = tokio::signal::ctrl_c() => Err(Failure::new("interrupted; Aiuta continues operations that were started")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // If standard error is closed, the exit status still reports the failure.
            let _ = writeln!(std::io::stderr(), "error: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), Failure> {
    let mut job = Job { photo: Photo::read(args.photo.as_deref())?, skus: args.skus, out: Out::prepare(args.out)? };
    if args::is_aiuta_configured() { with_aiuta(&mut job).await } else { with_fake_aiuta(&mut job).await }
}

/// The input and the output of a try-on.
struct Job {
    photo: Photo,
    skus: Vec<String>,
    out: Out,
}

/// Runs a try-on with the account and the scheme that the environment configures.
async fn with_aiuta(job: &mut Job) -> Result<(), Failure> {
    let auth = AiutaAuthLayer::from_env()?;
    let client = Client::new(&auth, &args::configured_origin())?;
    let scheme = if auth.token_cache().is_some() { &JWT } else { &API_KEY };

    report::line(format_args!("Aiuta at {}", client.origin()))?;
    try_on(&client, scheme, job).await?;
    report::line(
        "\nThe token cache is not shown, because each try-on costs money. Unset all AIUTA_ variables to see it.",
    )
}

/// Runs a try-on with each scheme and shows the token cache, with [`FakeAiuta`].
async fn with_fake_aiuta(job: &mut Job) -> Result<(), Failure> {
    let aiuta = FakeAiuta::new();
    let server = aiuta.serve().await.map_err(|error| Failure::new("FakeAiuta can't listen").because(error))?;
    let origin = server.origin();
    report::line(format_args!("FakeAiuta at {origin}, images at {}", server.storage_origin()))?;

    let auth = AiutaAuthLayer::builder().api_key(aiuta.api_key()).origins([origin]).build()?;
    try_on(&Client::new(&auth, origin)?, &API_KEY, job).await?;

    let signer = SlowSigner(JwtSigner::hs256(aiuta.issuer(), aiuta.secret())?);
    let auth = AiutaAuthLayer::builder().jwt(aiuta.subscription_id(), signer).origins([origin]).build()?;
    let client = Client::new(&auth, origin)?;
    let order = try_on(&client, &JWT, job).await?;

    report::heading("The token cache")?;
    let tokens = auth.token_cache().ok_or_else(|| Failure::new("the layer has no token cache"))?;
    Demonstration { client: &client, tokens, aiuta: &aiuta }.show(&order).await?;

    // Two try-ons and 1 + 1 + 1 + 100 demonstrations. The request that was answered with 401 started nothing.
    check(aiuta.operations_started() == 105, || {
        format!("expected 105 operations, but {} were started", aiuta.operations_started())
    })?;
    check(aiuta.violations().is_empty(), || aiuta.violations().join("; "))?;
    report::line(
        "\nChecked: each request had the right credential, none reached the storage host, and 105 operations were started.",
    )
}

/// The credentials that a scheme sends.
struct Scheme {
    title: &'static str,
    /// The credential of a request that starts an operation.
    start: Credential,
    /// The credential of uploads and polls.
    others: Credential,
}

const API_KEY: Scheme = Scheme {
    title: "The ApiKey scheme: the API key on every request",
    start: Credential::ApiKey,
    others: Credential::ApiKey,
};
const JWT: Scheme = Scheme {
    title: "The Jwt scheme: a JWT to start an operation, the subscription id on other requests",
    start: Credential::Bearer,
    others: Credential::UserId,
};

/// Runs a try-on: upload, start, poll, download.
async fn try_on(client: &Client, scheme: &Scheme, job: &mut Job) -> Result<Order, Failure> {
    report::heading(scheme.title)?;
    let done = |step: &str, expected: Credential, what: String| {
        let sent = client.take_sent();
        check(!sent.is_empty() && sent.iter().all(|credential| *credential == expected), || {
            format!("{step}: expected the credential {expected}, but {} was sent", report::grouped(&sent))
        })?;
        report::row(step, &sent, &what)
    };

    let photo = &job.photo;
    let image = client.upload(photo).await?;
    done("upload", scheme.others, format!("{}, {} → {}", photo.name, report::size(photo.bytes.len()), image.id))?;

    let order = Order::new(&image, &job.skus);
    let operation = client.start(&order).await?;
    done("start", scheme.start, format!("{} → {operation}", job.skus.join(", ")))?;

    let result = polling::until_done(client, &operation).await?;
    let states = format!("{}, {:.1} s", report::grouped(&result.states), result.took.as_secs_f64());
    done("poll", scheme.others, states)?;

    let url = &result.image.url;
    let image = client.download(url).await?;
    check(!image.is_empty(), || "the result is empty".to_owned())?;
    let path = job.out.save(&image)?;
    // Images are normally on another host. A request to the API's own origin would carry a credential.
    let expected = if url.starts_with(&format!("{}/", client.origin())) { scheme.start } else { Credential::None };
    done("download", expected, format!("{} → {}", report::size(image.len()), path.display()))?;
    Ok(order)
}

fn check(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure::new(otherwise())) }
}
