//! Formats the tables as Markdown.

use std::fmt::{self, Write};
use std::path::Path;

use crate::BoxError;
use crate::herd::Row;
use crate::hit::Added;
use crate::peer::Herd;

/// Returns the version of a package in the lock file.
fn version(package: &str) -> &'static str {
    let lock = include_str!("../Cargo.lock");
    let entry = format!("name = \"{package}\"\nversion = \"");
    // The newest version comes last.
    let version = lock.rsplit_once(&entry).and_then(|(_, rest)| rest.split_once('"'));
    version.map_or("", |(version, _)| version)
}

pub fn hits(ours: &[Added], peers: &[Added]) -> Result<String, fmt::Error> {
    let unit = ours[0].median;
    let mut table = String::from("| | floor | added | quartiles | × ours | method |\n|---|---:|---:|---:|---:|---|\n");
    for (added, package) in ours
        .iter()
        .map(|added| (added, ""))
        .chain(peers.iter().map(|added| (added, added.name.split(',').next().unwrap_or(added.name))))
    {
        let Added { name, note, floor, lower, median, upper } = added;
        let name = name.replacen(package, &format!("{package} {}", version(package)), usize::from(!package.is_empty()));
        let ratio = median / unit;
        writeln!(table, "| {name} | {floor:.0} ns | {median:.0} ns | {lower:.0}–{upper:.0} | {ratio:.2} | {note} |")?;
    }
    Ok(table)
}

pub fn herds(herds: &[Herd], rows: &[Row]) -> Result<String, fmt::Error> {
    let names: Vec<_> = herds.iter().map(|herd| herd.name).collect();
    let mut table = format!("| | | {} |\n|---|---|{}\n", names.join(" | "), "---:|".repeat(names.len()));
    for Row { case, figure, of } in rows {
        writeln!(table, "| {case} | {figure} | {} |", of.join(" | "))?;
    }
    Ok(table)
}

const BEGIN: &str = "<!-- peers: begin -->\n";
const END: &str = "<!-- peers: end -->";

/// Replaces the text between the two markers of a file.
pub fn put_between_markers(path: &Path, text: &str) -> Result<(), BoxError> {
    let file = std::fs::read_to_string(path)?;
    let (before, rest) = file.split_once(BEGIN).ok_or_else(|| format!("{} has no {BEGIN}", path.display()))?;
    let (_, after) = rest.split_once(END).ok_or_else(|| format!("{} has no {END}", path.display()))?;
    Ok(std::fs::write(path, format!("{before}{BEGIN}{text}{END}{after}"))?)
}
