//! What the command line and the environment say.

use std::env;
use std::path::PathBuf;

use clap::Parser;
use clap::builder::NonEmptyStringValueParser;

const EXAMPLES: &str = "\
Examples:
  cargo run --example try_on
  cargo run --example try_on -- --photo me.jpg --sku dress-1 --sku shoes-2 --out result.png
  AIUTA_API_KEY=… cargo run --example try_on -- --photo me.jpg --sku dress-1

Environment (if any of it is set, the run goes to Aiuta itself, and starts one operation, which costs money):
  AIUTA_API_KEY          the ApiKey scheme with this key
  AIUTA_SUBSCRIPTION_ID, AIUTA_JWT_ISSUER, AIUTA_JWT_SECRET
                         the Jwt scheme, tokens signed in this process
  AIUTA_SUBSCRIPTION_ID, AIUTA_TOKEN_URL
                         the Jwt scheme, tokens from a backend (http on this machine: this program has no TLS for it)
  AIUTA_ORIGIN           instead of https://api.aiuta.com; http for loopback only";

/// Tries clothes on a photo, with Aiuta's virtual try-on API: upload, start, poll, download.
///
/// Without any setting it needs no account and no network: it starts a stand-in for Aiuta on loopback, tells the story with
/// both schemes of authentication, and then shows what the cache of tokens is for.
#[derive(Debug, Parser)]
#[command(name = "try_on", after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The photo of a person, JPEG or PNG [default: a drawing that comes with the example]
    #[arg(long, value_name = "FILE")]
    pub(crate) photo: Option<PathBuf>,

    /// What to try on, by its ID in the catalogue; repeat it for an outfit
    #[arg(long = "sku", value_name = "ID", default_value = "dress-1", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) skus: Vec<String>,

    /// Where the result goes, replacing what is there [default: a temporary file, whose path is printed]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// Whether the environment names an account, or at least tries to: a misspelt variable is better an error than a run that ignores it.
pub(crate) fn is_aiuta_configured() -> bool {
    env::vars_os().any(|(name, _)| name.to_string_lossy().starts_with("AIUTA_"))
}

/// The origin that [`from_env`](tower_aiuta_auth::AiutaAuthLayer::from_env) trusts.
pub(crate) fn configured_origin() -> String {
    env::var("AIUTA_ORIGIN").unwrap_or_else(|_| "https://api.aiuta.com".to_owned())
}
