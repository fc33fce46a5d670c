//! `cargo xtask conformance`: upstream's own end-to-end suite against a cluster on this machine.
//!
//! Builds the suite and its images, starts a cluster of two nodes, runs the specs that may run beside each other, then
//! the serial ones, prints the score by area with every failure, and writes it into docs/conformance.md when all
//! Conformance specs ran. Judges only: nothing here changes the cluster or the suite.

mod images;
mod report;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, ensure};

use crate::{
    cluster::Cluster,
    layout::{self, Build},
    sh::sh,
    ui, up,
    upstream::{Part, Upstream},
};
use report::Score;

/// The cluster's name: it runs beside those of `up` and `test`.
const CLUSTER: &str = "judge";
const NODES: u8 = 2;
/// Specs that run beside each other: most of them wait.
const PROCESSES: u32 = 8;
/// A spec whose feature is absent waits its whole time-out: the suite ends all the same.
const SUITE_TIME: Duration = Duration::from_secs(100 * 60);
/// What counts by default.
const CONFORMANCE: &str = "Conformance";

/// What to run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    /// Specs whose name matches this regular expression.
    pub(crate) focus: Option<String>,
    /// Specs with these labels, in Ginkgo's language.
    pub(crate) labels: Option<String>,
    /// Only the specs that must run alone.
    pub(crate) serial: bool,
}

impl Selection {
    /// Whether the result is the score of the project.
    fn is_whole(&self) -> bool {
        self.focus.is_none() && self.labels.is_none() && !self.serial
    }

    fn labels(&self, serial: bool) -> String {
        let labels = self.labels.as_deref().unwrap_or(CONFORMANCE);
        format!("({labels}) && {}Serial", if serial { "" } else { "!" })
    }
}

/// Builds what is missing, runs, prints, writes.
pub(crate) fn run(selection: &Selection) -> Result<()> {
    let root = layout::root()?;
    up::require_root()?;
    ui::heading("Preparing the judge");
    // etcd is one of the images.
    let upstream = Upstream::build(&root, &[Part::Suite, Part::Images, Part::Server])?;
    ui::heading("Preparing the cluster");
    let cluster = up::start(CLUSTER, NODES, Build::Release)?;
    let judged = judge(&cluster, &upstream, selection);
    // Ended in any case; what it leaves behind is a failure of its own.
    let stopped = cluster.stop();
    let score = judged?;
    stopped?;
    let reasons = report::Reasons::read(&root)?;
    println!("{}", score.table(&reasons));
    if selection.is_whole() {
        let path = root.join("docs/conformance.md");
        report::write(&path, &score, &reasons)?;
        println!("written to {}", path.display());
    }
    let unexplained = score.unexplained(&reasons);
    ensure!(
        unexplained.is_empty(),
        "{} specs failed that docs/conformance/absent.toml has no reason for:\n  {}",
        unexplained.len(),
        unexplained.join("\n  ")
    );
    Ok(())
}

fn judge(cluster: &Cluster, upstream: &Upstream, selection: &Selection) -> Result<Score> {
    images::build_and_push(upstream, &cluster.registry())?;
    ui::heading("Running upstream's suite");
    let mut score = Score::default();
    for serial in [false, true] {
        if selection.serial && !serial {
            continue;
        }
        let what = if serial { "specs that run alone" } else { "specs that run beside each other" };
        ui::step(what, |_| {
            let suite = Suite { cluster, upstream, serial };
            let report = suite.run(&selection.labels(serial), selection.focus.as_deref())?;
            let part = Score::read(&report)?;
            let told = part.summary();
            score.merge(part);
            Ok(told)
        })?;
    }
    Ok(score)
}

struct Suite<'a> {
    cluster: &'a Cluster,
    upstream: &'a Upstream,
    serial: bool,
}

impl Suite<'_> {
    /// Runs it; returns the path of its report. Failed specs are in the report and no error.
    fn run(&self, labels: &str, focus: Option<&str>) -> Result<PathBuf> {
        let name = if self.serial { "serial" } else { "parallel" };
        let out = self.upstream.dir.join(format!("report-{name}"));
        sh("rm").arg("-rf").arg(&out).run()?;
        fs::create_dir_all(&out)?;
        let registries = self.registries()?;
        let mut ginkgo = sh(self.upstream.program("ginkgo"))
            .env("KUBECONFIG", self.cluster.layout.kubeconfig())
            .env("KUBE_TEST_REPO_LIST", &registries)
            .arg("run")
            .arg(format!("--procs={}", if self.serial { 1 } else { PROCESSES }))
            .args(["--no-color", "--silence-skips"])
            .arg(format!("--timeout={}m", SUITE_TIME.as_secs() / 60))
            .arg(format!("--label-filter={labels}"));
        if let Some(focus) = focus {
            ginkgo = ginkgo.arg(format!("--focus={focus}"));
        }
        let ginkgo = ginkgo.arg(self.upstream.program("e2e.test")).arg("--").args(self.suite_arguments(&out));
        let ended = ginkgo.logged(&out.join("suite.log"))?;
        let report = out.join("ginkgo/report.json");
        ensure!(
            report.is_file(),
            "the suite ended with {ended} and without a report: {}",
            out.join("suite.log").display()
        );
        Ok(report)
    }

    fn suite_arguments(&self, out: &Path) -> Vec<String> {
        vec![
            "--provider=skeleton".to_owned(),
            format!("--kubeconfig={}", self.cluster.layout.kubeconfig().display()),
            format!("--kubectl-path={}", self.cluster.kubectl.display()),
            // Until namespaces get their ServiceAccount.
            "--e2e-verify-service-account=false".to_owned(),
            "--dump-logs-on-failure=false".to_owned(),
            "--disable-log-dump".to_owned(),
            "--system-daemonsets-startup-timeout=1s".to_owned(),
            "--system-pods-startup-timeout=5s".to_owned(),
            "--node-schedulable-timeout=1m".to_owned(),
            format!("--num-nodes={NODES}"),
            format!("--report-dir={}", out.display()),
            "--report-complete-ginkgo=true".to_owned(),
        ]
    }

    /// Tells the suite that all of its images come from the cluster's registry.
    fn registries(&self) -> Result<PathBuf> {
        let registry = self.cluster.registry();
        let text = format!(
            "promoterE2eRegistry: {registry}/e2e\ngcRegistry: {registry}\ngcEtcdRegistry: {registry}\n\
             buildImageRegistry: {registry}/e2e\nsigStorageRegistry: {registry}/e2e\n"
        );
        let path = self.upstream.dir.join("registries.yaml");
        fs::write(&path, text)?;
        Ok(path)
    }
}
