//! Waiting for a try-on: Aiuta's documented delays, and a progress bar.

use std::iter::{repeat, repeat_n};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use crate::api::{Image, Operation};
use crate::client::Client;
use crate::failure::Failure;
use crate::report::{STEP, printable};

/// The polls before the long delays begin: what a try-on takes as a rule.
const USUAL_POLLS: u64 = 4 + 20;
const PATIENCE: Duration = Duration::from_secs(5 * 60);

/// 1 s four times, 0.5 s twenty times, then 3 s for ever.
fn delays() -> impl Iterator<Item = Duration> {
    let long = repeat(Duration::from_secs(3));
    repeat_n(Duration::from_secs(1), 4).chain(repeat_n(Duration::from_millis(500), 20)).chain(long)
}

/// A try-on that is done.
pub(crate) struct Done {
    pub(crate) image: Image,
    /// What each poll said.
    pub(crate) states: Vec<String>,
    pub(crate) took: Duration,
}

/// Asks until the try-on has come to an end.
pub(crate) async fn until_done(client: &Client, operation_id: &str) -> Result<Done, Failure> {
    let began = Instant::now();
    // On standard error, and only if that is a terminal; it wipes itself off at the end, however this ends.
    let bar = ProgressBar::new(USUAL_POLLS).with_style(style()).with_finish(ProgressFinish::AndClear);
    bar.set_message("started");
    bar.enable_steady_tick(Duration::from_millis(100));
    let mut states: Vec<String> = Vec::new();
    for delay in delays().take_while(|_| began.elapsed() < PATIENCE) {
        tokio::time::sleep(delay).await;
        let operation = client.operation(operation_id).await?;
        states.push(operation.status.clone());
        match operation.status.as_str() {
            "SUCCESS" => {
                let image = operation.generated_images.into_iter().flatten().next().ok_or_else(|| {
                    Failure::new("the try-on succeeded, but its image is gone")
                        .advise("It may have expired: start again")
                })?;
                return Ok(Done { image, states, took: began.elapsed() });
            }
            "FAILED" | "CANCELLED" | "ABORTED" => return Err(ended(operation_id, &operation)),
            waiting => {
                bar.set_message(printable(waiting));
                bar.set_position((states.len() as u64).min(USUAL_POLLS));
            }
        }
    }
    let last = states.last().map_or("", String::as_str);
    Err(Failure::new(format!("{operation_id} is {last} still, after {} minutes", PATIENCE.as_secs() / 60))
        .advise("It goes on at Aiuta: ask for it there by its id before you start another"))
}

fn ended(id: &str, operation: &Operation) -> Failure {
    let reasons = [&operation.abort_reason, &operation.error].into_iter().flatten().map(|reason| format!(": {reason}"));
    Failure::new(format!("{id} ended as {}{}", operation.status, reasons.collect::<String>()))
        .advise("Try another photo: one person, seen whole")
}

fn style() -> ProgressStyle {
    let template = format!("  {:STEP$}  {{bar:15}}  {{elapsed}} {{msg}}", "poll");
    ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
