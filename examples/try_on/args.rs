//! The command line and the environment.

use std::env;
use std::path::PathBuf;

use clap::Parser;
use clap::builder::NonEmptyStringValueParser;

const EXAMPLES: &str = "\
Examples:
  cargo run --example try_on
  cargo run --example try_on -- --photo me.jpg --sku dress-1 --sku shoes-2 --out result.png
  AIUTA_API_KEY=… cargo run --example try_on -- --photo me.jpg --sku dress-1

Environment (if any is set, the program starts one operation at the real API, which costs money):
  AIUTA_API_KEY          use the ApiKey scheme with this key
  AIUTA_SUBSCRIPTION_ID, AIUTA_JWT_ISSUER, AIUTA_JWT_SECRET
                         use the Jwt scheme with tokens signed by this program
  AIUTA_SUBSCRIPTION_ID, AIUTA_TOKEN_URL
                         use the Jwt scheme with tokens from this URL, http on loopback
  AIUTA_ORIGIN           the API's origin [default: https://api.aiuta.com]";

/// Tries clothes on a photo, with Aiuta's virtual try-on API: upload, start, poll, download.
///
/// Without settings it needs no account and no network: it starts a fake of Aiuta's API on loopback, runs a try-on with
/// both authentication schemes, and then shows what the token cache does.
#[derive(Debug, Parser)]
#[command(name = "try_on", after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Photo of a person, JPEG or PNG [default: a drawing included in the example]
    #[arg(long, value_name = "FILE")]
    pub(crate) photo: Option<PathBuf>,

    /// ID of a product in the catalogue; repeat the option for an outfit
    #[arg(long = "sku", value_name = "ID", default_value = "dress-1", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) skus: Vec<String>,

    /// File for the result, overwritten if it exists [default: a temporary file, whose path is printed]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// Returns whether any `AIUTA_` variable is set. A misspelt variable then leads to an error instead of being ignored.
pub(crate) fn is_aiuta_configured() -> bool {
    env::vars_os().any(|(name, _)| name.to_string_lossy().starts_with("AIUTA_"))
}

/// Returns the origin that [`from_env`](tower_aiuta_auth::AiutaAuthLayer::from_env) trusts.
pub(crate) fn configured_origin() -> String {
    env::var("AIUTA_ORIGIN").unwrap_or_else(|_| "https://api.aiuta.com".to_owned())
}
