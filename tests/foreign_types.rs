//! The types of other crates in the public API are exactly those listed in docs/DESIGN.md. A new major version of one
//! of those crates is a breaking change of this crate.
#![allow(clippy::unwrap_used, reason = "clippy allows it in test functions, but not in their helpers")]

use std::collections::BTreeSet;

use serde_json::Value;

/// The heading above a table whose first column lists the crates.
const HEADING: &str = "## Types of other crates in the public API";

#[test]
#[ignore = "needs rustdoc's JSON in the file named by RUSTDOC_JSON: see .ci/run"]
fn foreign_types_in_public_api_match_the_design() {
    let json = std::fs::read(std::env::var("RUSTDOC_JSON").unwrap()).unwrap();
    assert_eq!(in_api(&serde_json::from_slice(&json).unwrap()), in_design());
}

fn in_design() -> BTreeSet<String> {
    let (_, table) = include_str!("../docs/DESIGN.md").split_once(HEADING).unwrap();
    let rows = table.trim_start().lines().take_while(|line| !line.starts_with("##"));
    let crates = rows.filter_map(|row| row.strip_prefix("| `")?.split_once('`'));
    crates.map(|(name, _)| name.to_owned()).collect()
}

/// Returns the crates whose types and traits appear in signatures and impls.
fn in_api(docs: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for item in docs["index"].as_object().unwrap().values().filter(|item| item["crate_id"] == 0) {
        // Blanket impls of other crates and auto traits are not part of the API of this crate.
        let implemented = &item["inner"]["impl"];
        if implemented["is_synthetic"] != true && implemented["blanket_impl"].is_null() {
            collect(docs, &item["inner"], &mut found);
        }
    }
    let is_std = |name: &String| matches!(name.as_str(), "std" | "core" | "alloc");
    // Hidden items that its macro generates.
    found.retain(|name| !is_std(name) && name != "pin_project");
    found
}

fn collect(docs: &Value, part: &Value, found: &mut BTreeSet<String>) {
    match part {
        Value::Object(fields) => {
            if let (Some(id), Some(_)) = (fields.get("id"), fields.get("path")) {
                let target = &docs["paths"][id.to_string()];
                if let Some(number) = target["crate_id"].as_u64().filter(|number| *number != 0) {
                    found.insert(docs["external_crates"][number.to_string()]["name"].as_str().unwrap().to_owned());
                }
            }
            fields.values().for_each(|part| collect(docs, part, found));
        }
        Value::Array(parts) => parts.iter().for_each(|part| collect(docs, part, found)),
        _ => {}
    }
}
