//! Checks of the tree itself: lint tables that nobody inherits, a map that names what is gone, files that grew
//! past reading.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// A file longer than this, tests in it not counted, is two subjects in one.
const MAX_LINES: usize = 600;

/// A lint table that a crate does not inherit protects nothing.
pub(crate) fn every_crate_inherits_lints(root: &Path) -> Result<String> {
    let manifest: toml::Table = std::fs::read_to_string(root.join("Cargo.toml"))?.parse()?;
    let members = manifest["workspace"]["members"].as_array().context("no workspace members")?;
    for member in members.iter().filter_map(toml::Value::as_str) {
        let path = root.join(member).join("Cargo.toml");
        let table: toml::Table = std::fs::read_to_string(&path)?.parse()?;
        let inherits = table.get("lints").and_then(|l| l.get("workspace")).and_then(toml::Value::as_bool);
        ensure!(inherits == Some(true), "{} does not say [lints] workspace = true", path.display());
    }
    Ok(format!("{} crates", members.len()))
}

/// Every path in backquotes in ARCHITECTURE.md exists.
pub(crate) fn the_map_is_true(root: &Path) -> Result<String> {
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md"))?;
    let named: Vec<&str> = text.split('`').skip(1).step_by(2).filter(|w| is_path(w)).collect();
    let gone: Vec<&str> = named.iter().copied().filter(|path| !root.join(path).exists()).collect();
    ensure!(gone.is_empty(), "ARCHITECTURE.md names what does not exist: {}", gone.join(", "));
    Ok(format!("{} paths", named.len()))
}

fn is_path(word: &str) -> bool {
    word.contains('/') && word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
}

/// Every source file can be read in one sitting and says at its top what it is for.
pub(crate) fn files_are_readable(root: &Path) -> Result<String> {
    let mut files = Vec::new();
    for directory in ["agent", "agent-ebpf", "exposition", "scheduler", "proto", "tests", "xtask"] {
        collect(&root.join(directory), &mut files)?;
    }
    let mut faults = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file)?;
        let name = file.strip_prefix(root).unwrap_or(file).display();
        let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
        if lines > MAX_LINES {
            faults.push(format!(
                "{name}: {lines} lines above its tests, {MAX_LINES} at most: split it by subject"
            ));
        }
        // A `tests.rs` belongs to the module beside it, which says so.
        let headed = file.file_name().is_some_and(|n| n == "tests.rs");
        if !headed && !text.starts_with("//!") && !text.contains("\n//!") {
            faults.push(format!("{name}: no `//!` that says what the module owns"));
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(format!("{} files", files.len()))
}

pub(crate) fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() && path.file_name().is_none_or(|n| n != "target") {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
