//! Upstream's own programs, built from Go modules: the end-to-end suite, the programs in its test images, and the real
//! API server with etcd that answers as the oracle and runs as the peer. They judge ours and are never part of it.
//!
//! Everything lands in target/conformance. Go is needed for this alone, and its absence is an error that says so.

pub(crate) mod peers;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::{
    packages,
    sh::{Sh, sh},
    ui,
};

/// The version of Kubernetes that judges: the one whose API we follow.
pub(crate) const VERSION: &str = "1.37.2";
/// The version of etcd beside its API server.
const ETCD_VERSION: &str = "3.7.3";
/// The version of Go that its modules ask for.
const GO_VERSION: &str = "1.26";
const MODULE: &str = "k8s.io/kubernetes";
/// The programs in the images that the suite runs: agnhost serves most of its pods.
const IMAGE_PROGRAMS: &[&str] = &[
    "agnhost",
    "nonewprivs",
    "regression-issue-74839",
    "resource-consumer",
    "resource-consumer/consume-cpu",
];

/// What can be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The suite and its runner.
    Suite,
    /// The programs of its images.
    Images,
    /// The API server and etcd.
    Server,
    /// The scheduler.
    Scheduler,
}

/// Upstream's programs and what is made of them.
pub(crate) struct Upstream {
    /// `target/conformance`
    pub(crate) dir: PathBuf,
}

impl Upstream {
    /// Builds `parts` below `root`/target/conformance, where they are not there yet.
    pub(crate) fn build(root: &Path, parts: &[Part]) -> Result<Self> {
        let upstream = Self { dir: root.join("target/conformance") };
        let missing: Vec<Part> = parts.iter().copied().filter(|part| !upstream.has(*part)).collect();
        if missing.is_empty() {
            return Ok(upstream);
        }
        ensure!(
            packages::present("go"),
            "Go {GO_VERSION} is needed to build the judges from upstream's modules, and for nothing else of this \
             project: install it from https://go.dev/dl and put its bin directory into PATH"
        );
        fs::create_dir_all(upstream.dir.join("bin"))?;
        upstream.prepare_module()?;
        for part in missing {
            upstream.build_part(part)?;
            fs::write(upstream.stamp(part), VERSION)?;
        }
        Ok(upstream)
    }

    /// A built program.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.dir.join("bin").join(name)
    }

    /// Where the module's own sources are: the images take files from there.
    pub(crate) fn source(&self) -> Result<PathBuf> {
        Ok(PathBuf::from(self.go().args(["list", "-m", "-f", "{{.Dir}}", MODULE]).text()?))
    }

    fn stamp(&self, part: Part) -> PathBuf {
        self.dir.join(format!("bin/{part:?}.version"))
    }

    fn has(&self, part: Part) -> bool {
        fs::read_to_string(self.stamp(part)).is_ok_and(|version| version == VERSION)
    }

    fn go(&self) -> Sh {
        sh("go").dir(self.dir.join("mod")).env("GOFLAGS", "-buildvcs=false -mod=mod")
    }

    /// A module that requires upstream's. Upstream's own go.mod points its staging modules at folders that a
    /// download of the module leaves out: they are pointed at their published versions.
    fn prepare_module(&self) -> Result<()> {
        let directory = self.dir.join("mod");
        let manifest = directory.join("go.mod");
        if manifest.is_file() {
            return Ok(());
        }
        fs::create_dir_all(&directory)?;
        ui::step(format!("fetching {MODULE} {VERSION}"), |_| {
            let wanted = format!("{MODULE}@v{VERSION}");
            let told = sh("go").dir(&directory).args(["mod", "download", "-json", &wanted]).text()?;
            let told: serde_json::Value = serde_json::from_str(&told).context("go printed no JSON")?;
            let source = PathBuf::from(told["Dir"].as_str().context("go named no directory")?);
            let theirs = fs::read_to_string(source.join("go.mod"))?;
            fs::copy(source.join("go.sum"), directory.join("go.sum"))?;
            // A copy out of the module cache is read-only, and this one grows.
            sh("chmod").arg("u+w").arg(directory.join("go.sum")).run()?;
            fs::write(&manifest, own_manifest(&theirs))?;
            Ok(String::new())
        })
    }

    fn build_part(&self, part: Part) -> Result<()> {
        let build = |out: &str, package: &str| {
            self.go().env("CGO_ENABLED", "0").args(["build", "-o"]).arg(self.program(out)).arg(package).run()
        };
        match part {
            Part::Suite => ui::step("building upstream's end-to-end suite (10 minutes, once)", |_| {
                let suite = format!("{MODULE}/test/e2e");
                self.go()
                    .args(["test", "-vet=off", "-c", "-o"])
                    .arg(self.program("e2e.test"))
                    .arg(suite)
                    .run()?;
                build("ginkgo", "github.com/onsi/ginkgo/v2/ginkgo")?;
                Ok(String::new())
            }),
            Part::Images => ui::step("building the programs of its images (2 minutes, once)", |step| {
                for path in IMAGE_PROGRAMS {
                    let name = path.rsplit('/').next().unwrap_or(path);
                    step.detail(name);
                    build(name, &format!("{MODULE}/test/images/{path}"))?;
                }
                step.detail("sample-apiserver");
                build("sample-apiserver", "k8s.io/sample-apiserver")?;
                Ok(String::new())
            }),
            Part::Server => ui::step("building upstream's API server and etcd (4 minutes, once)", |step| {
                step.detail("kube-apiserver");
                build("kube-apiserver", &format!("{MODULE}/cmd/kube-apiserver"))?;
                step.detail("etcd");
                self.build_etcd()?;
                Ok(String::new())
            }),
            Part::Scheduler => ui::step("building upstream's scheduler (2 minutes, once)", |_| {
                build("kube-scheduler", &format!("{MODULE}/cmd/kube-scheduler"))?;
                Ok(String::new())
            }),
        }
    }

    /// In a module of its own: etcd and Kubernetes ask for different versions of what they share.
    fn build_etcd(&self) -> Result<()> {
        let directory = self.dir.join("etcd");
        fs::create_dir_all(&directory)?;
        let manifest = directory.join("go.mod");
        if !manifest.is_file() {
            fs::write(&manifest, format!("module gantry.example/etcd\n\ngo {GO_VERSION}.0\n"))?;
        }
        let go = || self.go().dir(&directory).env("CGO_ENABLED", "0");
        let package = "go.etcd.io/etcd/server/v3";
        go().args(["get", &format!("{package}@v{ETCD_VERSION}")]).run()?;
        go().args(["build", "-o"]).arg(self.program("etcd")).arg(package).run()
    }
}

/// Upstream's go.mod under our name, its staging modules at their published versions, itself required.
fn own_manifest(theirs: &str) -> String {
    let minor = VERSION.strip_prefix("1.").unwrap_or(VERSION);
    let line = |line: &str| match line.split_once(" => ./staging/") {
        _ if line.starts_with("module ") => "module gantry.example/conformance".to_owned(),
        Some((module, _)) => {
            let name = module.trim().trim_start_matches("replace ");
            format!("{module} => {name} v0.{minor}")
        }
        None => line.to_owned(),
    };
    let lines: Vec<String> = theirs.lines().map(line).collect();
    format!("{}\n\nrequire {MODULE} v{VERSION}\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staging_modules_are_taken_from_where_they_are_published() {
        let theirs = "module k8s.io/kubernetes\n\ngo 1.26.0\n\nreplace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n)\n";
        let ours = own_manifest(theirs);
        assert!(ours.starts_with("module gantry.example/conformance\n"), "{ours}");
        assert!(ours.contains("\tk8s.io/api => k8s.io/api v0.37.2\n"), "{ours}");
        assert!(ours.ends_with("require k8s.io/kubernetes v1.37.2\n"), "{ours}");
    }
}
