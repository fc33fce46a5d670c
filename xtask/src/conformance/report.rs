//! The result of a run of upstream's suite: the score by area, each failure with the reason that the project names for
//! it or, without one, with the first words of the suite's message. Read from Ginkgo's report; written to
//! docs/conformance.md between two marks, so that the rest of that page stays.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    io::BufReader,
    path::Path,
};

use anyhow::{Context, Result};
use serde::Deserialize;

/// How much of a failure's message is shown.
const SHOWN_CHARACTERS: usize = 240;
const REASONS_FILE: &str = "docs/conformance/absent.toml";
const BEGIN: &str = "<!-- conformance: written by `cargo xtask conformance` -->";
const END: &str = "<!-- conformance: end -->";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SuiteReport {
    spec_reports: Option<Vec<SpecReport>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SpecReport {
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    leaf_node_text: String,
    leaf_node_location: Location,
    state: String,
    failure: Option<Failure>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Location {
    #[serde(default)]
    file_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    #[serde(default)]
    message: String,
}

/// One spec that ran.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Spec {
    name: String,
    passed: bool,
    message: String,
}

/// The specs that ran, by area: the file that holds them, below upstream's test/e2e.
#[derive(Clone, Debug, Default)]
pub(super) struct Score {
    areas: BTreeMap<String, Vec<Spec>>,
}

impl Score {
    /// From Ginkgo's JSON report. Specs that were not selected do not count.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let suites: Vec<SuiteReport> = serde_json::from_reader(BufReader::new(file))
            .with_context(|| format!("{} is no report of Ginkgo", path.display()))?;
        let mut score = Self::default();
        for spec in suites.into_iter().flat_map(|suite| suite.spec_reports.unwrap_or_default()) {
            let counts =
                spec.leaf_node_type == "It" && !["skipped", "pending"].contains(&spec.state.as_str());
            if counts {
                let area = area(&spec.leaf_node_location.file_name);
                score.areas.entry(area).or_default().push(Spec::of(spec));
            }
        }
        Ok(score)
    }

    /// Adds another run's specs.
    pub(super) fn merge(&mut self, other: Self) {
        for (area, specs) in other.areas {
            self.areas.entry(area).or_default().extend(specs);
        }
    }

    fn specs(&self) -> impl Iterator<Item = (&str, &Spec)> {
        self.areas.iter().flat_map(|(area, specs)| specs.iter().map(move |spec| (area.as_str(), spec)))
    }

    /// `234 of 462 pass`
    pub(super) fn summary(&self) -> String {
        let all = self.specs().count();
        let passed = self.specs().filter(|(_, spec)| spec.passed).count();
        format!("{passed} of {all} pass")
    }

    /// Failures that the project names no reason for.
    pub(super) fn unexplained(&self, reasons: &Reasons) -> Vec<String> {
        let failed = self.specs().filter(|(_, spec)| !spec.passed);
        failed
            .filter(|(area, spec)| reasons.of(area, &spec.name).is_none())
            .map(|(area, spec)| format!("{area}: {}", spec.name))
            .collect()
    }

    /// Score and failures for the terminal.
    pub(super) fn table(&self, reasons: &Reasons) -> String {
        let mut out = String::new();
        for (area, spec) in self.specs().filter(|(_, spec)| !spec.passed) {
            let _ = writeln!(out, "failed  {area}: {}\n        {}", spec.name, explain(area, spec, reasons));
        }
        for (area, specs) in &self.areas {
            let passed = specs.iter().filter(|spec| spec.passed).count();
            let _ = writeln!(out, "{passed:4} of {:4}  {area}", specs.len());
        }
        out + &self.summary()
    }

    fn markdown(&self, reasons: &Reasons) -> String {
        let mut out = format!(
            "Upstream {}'s specs with the label `Conformance`: **{}**.\n\n| area | pass | of |\n|---|---:|---:|\n",
            crate::upstream::VERSION,
            self.summary()
        );
        for (area, specs) in &self.areas {
            let passed = specs.iter().filter(|spec| spec.passed).count();
            let _ = writeln!(out, "| {area} | {passed} | {} |", specs.len());
        }
        out.push_str("\nWhat fails, and why:\n\n");
        for (area, spec) in self.specs().filter(|(_, spec)| !spec.passed) {
            let _ = writeln!(out, "- {area}: {}: {}", spec.name, explain(area, spec, reasons));
        }
        out
    }
}

fn explain(area: &str, spec: &Spec, reasons: &Reasons) -> String {
    reasons.of(area, &spec.name).map_or_else(|| format!("NO REASON KNOWN: {}", spec.message), str::to_owned)
}

impl Spec {
    fn of(spec: SpecReport) -> Self {
        let mut texts = spec.container_hierarchy_texts.unwrap_or_default();
        texts.push(spec.leaf_node_text);
        let message = spec.failure.map(|f| f.message).unwrap_or_default();
        Self {
            name: without_labels(&texts.join(" ")),
            passed: spec.state == "passed",
            message: one_line(&message),
        }
    }
}

/// `common/node/pods` of the path of a spec's source.
fn area(path: &str) -> String {
    let inside = path.split_once("test/e2e/").map_or(path, |(_, inside)| inside);
    inside.strip_suffix(".go").unwrap_or(inside).to_owned()
}

/// Without `[Conformance]` and its like.
fn without_labels(name: &str) -> String {
    let mut kept = String::new();
    let mut rest = name;
    while let Some((before, after)) = rest.split_once('[') {
        kept.push_str(before);
        rest = after.split_once(']').map_or("", |(_, after)| after);
    }
    kept.push_str(rest);
    kept.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SHOWN_CHARACTERS).collect()
}

/// Why specs fail that are known to: kinds and features that are not there yet.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reasons {
    absent: Vec<Reason>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reason {
    /// What is absent.
    reason: String,
    /// Areas all of whose failures it explains.
    #[serde(default)]
    areas: Vec<String>,
    /// Parts of the names of single specs.
    #[serde(default)]
    specs: Vec<String>,
}

impl Reasons {
    /// From docs/conformance/absent.toml.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let path = root.join(REASONS_FILE);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} does not hold what it should", path.display()))
    }

    fn of(&self, area: &str, spec: &str) -> Option<&str> {
        let explains = |reason: &&Reason| {
            reason.areas.iter().any(|a| a == area) || reason.specs.iter().any(|part| spec.contains(part))
        };
        self.absent.iter().find(explains).map(|reason| reason.reason.as_str())
    }
}

/// Puts the score between the marks of the page at `path`; a page without them gets them at its end.
pub(super) fn write(path: &Path, score: &Score, reasons: &Reasons) -> Result<()> {
    let page = fs::read_to_string(path).unwrap_or_else(|_| "# What upstream's judges say\n".to_owned());
    let section = format!("{BEGIN}\n{}{END}", score.markdown(reasons));
    let page = match (page.find(BEGIN), page.find(END)) {
        (Some(from), Some(to)) if from < to => {
            format!("{}{section}{}", &page[..from], &page[to + END.len()..])
        }
        _ => format!("{}\n\n## Conformance\n\n{section}\n", page.trim_end()),
    };
    fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"[{"SpecReports": [
        {"LeafNodeType": "BeforeSuite", "LeafNodeText": "", "LeafNodeLocation": {}, "State": "passed"},
        {"LeafNodeType": "It", "ContainerHierarchyTexts": ["[sig-node] Pods"], "LeafNodeText": "start [Conformance]",
         "LeafNodeLocation": {"FileName": "k8s.io/kubernetes@v1/test/e2e/common/node/pods.go"}, "State": "passed"},
        {"LeafNodeType": "It", "ContainerHierarchyTexts": ["[sig-apps] Job"], "LeafNodeText": "end",
         "LeafNodeLocation": {"FileName": "/test/e2e/apps/job.go"}, "State": "failed",
         "Failure": {"Message": "no\n  jobs"}},
        {"LeafNodeType": "It", "LeafNodeText": "other", "LeafNodeLocation": {"FileName": "x.go"}, "State": "skipped"}
    ]}]"#;

    fn score() -> Score {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), REPORT).unwrap();
        Score::read(file.path()).unwrap()
    }

    #[test]
    fn only_specs_that_ran_count() {
        assert_eq!(score().summary(), "1 of 2 pass");
        let spec = &score().areas["apps/job"][0];
        assert_eq!((spec.name.as_str(), spec.message.as_str()), ("Job end", "no jobs"));
    }

    #[test]
    fn a_failure_has_a_reason_or_is_told() {
        let reasons: Reasons = toml::from_str("[[absent]]\nreason = 'jobs'\nareas = ['apps/job']").unwrap();
        assert!(score().unexplained(&reasons).is_empty());
        let none = Reasons { absent: Vec::new() };
        assert_eq!(score().unexplained(&none), ["apps/job: Job end"]);
        assert!(score().table(&none).contains("NO REASON KNOWN: no jobs"));
    }

    #[test]
    fn the_rest_of_the_page_stays() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "# Page\n\nbefore\n").unwrap();
        let reasons = Reasons { absent: Vec::new() };
        write(file.path(), &score(), &reasons).unwrap();
        let once = fs::read_to_string(file.path()).unwrap();
        fs::write(file.path(), once.clone() + "after\n").unwrap();
        write(file.path(), &score(), &reasons).unwrap();
        assert_eq!(fs::read_to_string(file.path()).unwrap(), once + "after\n");
    }

    #[test]
    fn the_projects_own_reasons_are_readable() {
        Reasons::read(&crate::layout::root().unwrap()).unwrap();
    }
}
