//! Polls a try-on until it ends, with the delays that Aiuta documents, and shows a progress bar.

use std::iter::{repeat, repeat_n};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use crate::api::{Image, Operation};
use crate::client::Client;
use crate::failure::Failure;
use crate::report::{STEP, printable};

/// Number of polls before the long delays, enough for a normal try-on.
const SHORT_POLLS: u64 = 4 + 20;
const TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Returns the delays before the polls: 4 × 1 s, 20 × 0.5 s, then always 3 s.
fn delays() -> impl Iterator<Item = Duration> {
    let long = repeat(Duration::from_secs(3));
    repeat_n(Duration::from_secs(1), 4).chain(repeat_n(Duration::from_millis(500), 20)).chain(long)
}

/// A successful try-on.
pub(crate) struct Done {
    pub(crate) image: Image,
    /// The status in the response to each poll.
    pub(crate) states: Vec<String>,
    pub(crate) took: Duration,
}

/// Polls the try-on until it ends.
pub(crate) async fn until_done(client: &Client, operation_id: &str) -> Result<Done, Failure> {
    let began = Instant::now();
    // indicatif draws on standard error, and only if that is a terminal. The bar is cleared when it is dropped.
    let bar = ProgressBar::new(SHORT_POLLS).with_style(style()).with_finish(ProgressFinish::AndClear);
    bar.set_message("started");
    bar.enable_steady_tick(Duration::from_millis(100));
    let mut states: Vec<String> = Vec::new();
    for delay in delays().take_while(|_| began.elapsed() < TIMEOUT) {
        tokio::time::sleep(delay).await;
        let operation = client.operation(operation_id).await?;
        states.push(operation.status.clone());
        match operation.status.as_str() {
            "SUCCESS" => {
                let image = operation.generated_images.into_iter().flatten().next().ok_or_else(|| {
                    Failure::new("the try-on succeeded, but its image does not exist any more")
                        .advise("It may have expired: start the try-on again")
                })?;
                return Ok(Done { image, states, took: began.elapsed() });
            }
            "FAILED" | "CANCELLED" | "ABORTED" => return Err(ended(operation_id, &operation)),
            other => {
                bar.set_message(printable(other));
                bar.set_position((states.len() as u64).min(SHORT_POLLS));
            }
        }
    }
    let last = states.last().map_or("", String::as_str);
    Err(Failure::new(format!("{operation_id} is still {last} after {} minutes", TIMEOUT.as_secs() / 60))
        .advise("Aiuta continues it: check its status before you start another"))
}

fn ended(id: &str, operation: &Operation) -> Failure {
    let reasons = [&operation.abort_reason, &operation.error].into_iter().flatten().map(|reason| format!(": {reason}"));
    Failure::new(format!("{id} ended with the status {}{}", operation.status, reasons.collect::<String>()))
        .advise("Try another photo that shows one person from head to toe")
}

fn style() -> ProgressStyle {
    let template = format!("  {:STEP$}  {{bar:15}}  {{elapsed}} {{msg}}", "poll");
    ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
