//! What a run prints: headings, and rows of three columns.

use std::fmt::Display;
use std::io::{self, Write};

use crate::failure::Failure;
use tower_aiuta_auth::testing::Credential;

/// How wide the column of steps is.
pub(crate) const STEP: usize = 18;
const CREDENTIAL: usize = 15;

/// A line of its own.
pub(crate) fn line(text: impl Display) -> Result<(), Failure> {
    // `println!` would panic when the reader has gone.
    writeln!(io::stdout(), "{text}").map_err(|error| Failure::new("standard output can't be written").because(error))
}

/// A title, and those of the columns.
pub(crate) fn heading(title: &str) -> Result<(), Failure> {
    line(format_args!("\n{title}\n  {:STEP$}  {:CREDENTIAL$}  what happened", "step", "credential"))
}

/// A step, the credentials that went out, and what happened.
pub(crate) fn row(step: &str, sent: &[Credential], what: &str) -> Result<(), Failure> {
    let what = printable(what);
    line(format_args!("  {step:STEP$}  {:CREDENTIAL$}  {what}", grouped(sent)))
}

/// `CREATED, IN_PROGRESS ×3, SUCCESS`.
pub(crate) fn grouped<T: Display + PartialEq>(items: &[T]) -> String {
    let groups = items.chunk_by(|one, next| one == next).map(|group| match group {
        [one] => one.to_string(),
        _ => format!("{} ×{}", group[0], group.len()),
    });
    groups.collect::<Vec<_>>().join(", ")
}

/// As people read it.
pub(crate) fn size(bytes: usize) -> String {
    if bytes < 1024 { format!("{bytes} bytes") } else { format!("{}.{} KB", bytes / 1024, bytes % 1024 * 10 / 1024) }
}

/// Text from elsewhere, without what could steer a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
