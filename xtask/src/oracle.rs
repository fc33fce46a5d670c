//! `cargo xtask oracle`: upstream's own kube-apiserver and ours answer the same requests, and the answers are compared.
//! Starts both on loopback ([`crate::upstream`]), runs the scripts in tests/oracle, and writes the scores into
//! docs/conformance.md between two marks, so that the rest of that page stays.
//!
//! Never part of `cargo xtask test`, which replays the recorded answers instead: upstream's server is built with Go.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::{
    compile,
    layout::{self, Build},
    packages,
    sh::sh,
    upstream::{Part, Upstream, VERSION, peers},
};

const BEGIN: &str = "<!-- oracle: begin -->";
const END: &str = "<!-- oracle: end -->";

/// What is asked.
pub(crate) struct Options {
    /// Comma-separated; all when absent.
    pub(crate) kinds: Option<String>,
    /// Comma-separated; all when absent.
    pub(crate) scripts: Option<String>,
    /// Picks the cases.
    pub(crate) seed: u32,
    /// The share of the cases that is tried.
    pub(crate) every: f64,
    /// Record upstream's answers instead of comparing.
    pub(crate) record: bool,
}

/// Runs the comparison, or records.
pub(crate) fn run(options: &Options) -> Result<()> {
    let root = layout::root()?;
    if !sh("python3").args(["-c", "import yaml"]).succeeds() {
        packages::ensure(&[("python3", "python3"), ("python3-yaml", "python3-yaml")])?;
    }
    let kubectl = packages::kubectl(&root.join("target/tools"), packages::KUBECTL)?;
    let upstream = Upstream::build(&root, &[Part::Server])?;
    compile::daemons(Build::Release)?;
    let theirs = upstream.start(&kubectl)?;
    let ours = peers::start_ours(&root, &kubectl, Build::Release, peers::LEASE)?;
    let answers = root.join("target/oracle");
    let mut script = sh("python3")
        .arg(root.join("tests/oracle/run.py"))
        .arg("--oracle")
        .arg(&theirs.kubeconfig)
        .arg("--ours")
        .arg(&ours.kubeconfig)
        .arg("--out")
        .arg(&answers)
        .args(["--seed", &options.seed.to_string(), "--every", &options.every.to_string()]);
    for (flag, value) in [("--kinds", &options.kinds), ("--scripts", &options.scripts)] {
        if let Some(value) = value {
            script = script.args([flag, value]);
        }
    }
    if options.record {
        let file = root.join("tests/oracle/recorded/writes.jsonl.gz");
        return script.arg("--record").arg(file).shown();
    }
    script.shown()?;
    let table = fs::read_to_string(answers.join("scores.md"))?;
    let page = root.join("docs/conformance.md");
    write(&page, &section(options, &table))?;
    println!("\nscores: {}; each different answer: {}", page.display(), answers.display());
    Ok(())
}

fn section(options: &Options, table: &str) -> String {
    format!(
        "{BEGIN}\nThe same requests to upstream's kube-apiserver {VERSION} and to ours: `cargo xtask oracle --seed {} \
         --every {}`.\n\n{}\n{END}",
        options.seed,
        options.every,
        table.trim_end()
    )
}

/// Puts the section between its marks; a page without them gets them at its end.
fn write(path: &Path, section: &str) -> Result<()> {
    let page = fs::read_to_string(path).unwrap_or_else(|_| "# What upstream's judges say\n".to_owned());
    fs::write(path, with_section(&page, section)).with_context(|| format!("cannot write {}", path.display()))
}

fn with_section(page: &str, section: &str) -> String {
    match page.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1))) {
        Some((before, after)) => format!("{before}{section}{after}"),
        None => format!("{}\n\n## Oracle\n\n{section}\n", page.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_section_is_replaced() {
        let options = Options { kinds: None, scripts: None, seed: 1, every: 1.0, record: false };
        let first = with_section("# Page\n\nSuite.\n", &section(&options, "| old |"));
        assert!(first.starts_with("# Page\n\nSuite.\n\n## Oracle\n\n<!-- oracle: begin -->\n"), "{first}");
        let page = format!("{first}\n## More\n");
        let second = with_section(&page, &section(&options, "| new |"));
        assert!(second.ends_with("| new |\n<!-- oracle: end -->\n\n## More\n"), "{second}");
        assert!(!second.contains("old"), "{second}");
    }
}
