//! Prints the progress of a run: headings, and rows with three columns.

use std::fmt::Display;
use std::io::{self, Write};

use crate::failure::Failure;
use tower_aiuta_auth::testing::Credential;

/// Width of the first column.
pub(crate) const STEP: usize = 18;
const CREDENTIAL: usize = 15;

/// Prints a line.
pub(crate) fn line(text: impl Display) -> Result<(), Failure> {
    // `println!` panics if standard output is closed.
    writeln!(io::stdout(), "{text}").map_err(|error| Failure::new("can't write to standard output").because(error))
}

/// Prints a title and the headings of the columns.
pub(crate) fn heading(title: &str) -> Result<(), Failure> {
    line(format_args!("\n{title}\n  {:STEP$}  {:CREDENTIAL$}  result", "step", "credential"))
}

/// Prints a step, the credentials that were sent, and the result.
pub(crate) fn row(step: &str, sent: &[Credential], what: &str) -> Result<(), Failure> {
    let what = printable(what);
    line(format_args!("  {step:STEP$}  {:CREDENTIAL$}  {what}", grouped(sent)))
}

/// Groups equal items, such as `CREATED, IN_PROGRESS ×3, SUCCESS`.
pub(crate) fn grouped<T: Display + PartialEq>(items: &[T]) -> String {
    let groups = items.chunk_by(|one, next| one == next).map(|group| match group {
        [one] => one.to_string(),
        _ => format!("{} ×{}", group[0], group.len()),
    });
    groups.collect::<Vec<_>>().join(", ")
}

/// Formats a size for people.
pub(crate) fn size(bytes: usize) -> String {
    if bytes < 1024 { format!("{bytes} bytes") } else { format!("{}.{} KiB", bytes / 1024, bytes % 1024 * 10 / 1024) }
}

/// Replaces control characters, with which a server could control the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
