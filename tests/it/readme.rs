//! The code in README.md is the code under `examples/`, which `.ci/run` runs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// A fenced block of code, and the number of the heading above it.
struct Block {
    language: String,
    text: String,
    section: usize,
}

/// The fenced blocks of README.md, without the indentation of their fence.
fn blocks() -> Vec<Block> {
    let readme = include_str!("../../README.md");
    let mut blocks = Vec::new();
    let mut section = 0;
    let mut lines = readme.lines();
    while let Some(line) = lines.next() {
        let fence = line.trim_start();
        let indent = line.len() - fence.len();
        if let Some(language) = fence.strip_prefix("```") {
            let text = lines
                .by_ref()
                .take_while(|line| line.trim() != "```")
                .flat_map(|line| [line.get(indent..).unwrap_or_default(), "\n"])
                .collect();
            blocks.push(Block { language: language.to_owned(), text, section });
        } else if line.starts_with('#') {
            section += 1;
        }
    }
    blocks
}

/// The sources of all examples.
fn examples() -> Vec<String> {
    fn collect(directory: &Path, sources: &mut Vec<String>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, sources);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push(fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut sources = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples"), &mut sources);
    sources
}

/// The crates that a program names at the start of a path, apart from std.
fn crates_in(program: &str) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    for line in program.lines().map(str::trim_start).filter(|line| !line.starts_with("//")) {
        if let Some(path) = line.strip_prefix("use ") {
            names.extend(path.split("::").next());
            continue;
        }
        for (at, _) in line.match_indices("::") {
            let start = line[..at].rfind(|c: char| !c.is_alphanumeric() && c != '_').map_or(0, |before| before + 1);
            let name = &line[start..at];
            if !line[..start].ends_with([':', '.']) && name.starts_with(|c: char| c.is_ascii_lowercase()) {
                names.insert(name);
            }
        }
    }
    names.remove("std");
    names
}

#[test]
fn readme_shows_no_hidden_lines() {
    for block in blocks().iter().filter(|block| block.language == "rust") {
        let hidden = block.text.lines().find(|line| line.trim() == "#" || line.trim_start().starts_with("# "));
        assert_eq!(hidden, None);
    }
}

#[test]
fn readme_code_is_in_the_examples() {
    let examples = examples();
    let blocks = blocks();
    let code: Vec<_> = blocks.iter().filter(|block| block.language.starts_with("rust")).collect();
    assert!(!code.is_empty(), "README.md has no code");
    for Block { language, text, .. } in code {
        assert_eq!(language, "rust", "an attribute would be invisible on the page:\n{text}");
        let found = if text.contains("fn main(") {
            examples.contains(text)
        } else {
            examples.iter().any(|example| example.contains(text))
        };
        assert!(found, "this code of README.md is in no file under examples/, or not the whole file:\n{text}");
    }
}

#[test]
fn readme_install_lines_name_the_crates_of_each_program() {
    let blocks = blocks();
    for program in blocks.iter().filter(|block| block.language == "rust" && block.text.contains("fn main(")) {
        let install = blocks
            .iter()
            .find(|block| block.language == "toml" && block.section == program.section)
            .unwrap_or_else(|| panic!("no install lines in the section of:\n{}", program.text));
        let dependencies = install.text.lines().filter_map(|line| line.split_once(" = "));
        let installed: BTreeSet<_> = dependencies.map(|(name, _)| name.replace('-', "_")).collect();
        for name in crates_in(&program.text) {
            assert!(installed.contains(name), "the install lines lack `{name}`:\n{}", program.text);
        }
    }
}
