//! `cargo xtask ebpf`: compiles agent-ebpf for the BPF target to target/ebpf/gantry-datapath.o.
//!
//! Two toolchains can: a rustup nightly with rust-src (`-Z build-std=core`), or Debian's rustc-web with its
//! prebuilt `core`. The first is taken where it is present, else the second, which is installed when missing.
//! The object is embedded by agent/build.rs; nothing else ever compiles for BPF.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

const TARGET: &str = "bpfel-unknown-none";
const LINKER_VERSION: &str = "0.13.0";
const LLVM: &str = "/usr/lib/llvm-22";
const DEBIAN_PACKAGES: [&str; 5] =
    ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf", "rust-web-llvm", "llvm-22-dev"];

/// What compiles the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Toolchain {
    /// rustup nightly with rust-src.
    Nightly,
    /// Debian's rustc-web.
    Debian,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nightly => "nightly with rust-src",
            Self::Debian => "Debian rustc-web",
        })
    }
}

/// Builds target/ebpf/gantry-datapath.o when its sources changed.
pub(crate) fn build(root: &Path) -> Result<()> {
    let directory = root.join("target/ebpf");
    let object = directory.join("gantry-datapath.o");
    let toolchain = choose();
    let fingerprint = fingerprint(root, toolchain)?;
    let stamp = directory.join("gantry-datapath.stamp");
    if object.is_file() && fs::read_to_string(&stamp).is_ok_and(|old| old == fingerprint) {
        println!("ebpf: {} is up to date", object.display());
        return Ok(());
    }
    println!("ebpf: building with {toolchain}");
    install(toolchain)?;
    let build_dir = root.join("target/ebpf-build");
    let status =
        cargo(toolchain, root, &build_dir).status().context("cannot run cargo for the BPF target")?;
    ensure!(status.success(), "the eBPF programs do not build (see above)");
    fs::create_dir_all(&directory)?;
    let built = build_dir.join(TARGET).join("release/gantry-datapath");
    // The rename makes the object appear whole to a build of the agent that runs at the same time.
    let fresh = directory.join("gantry-datapath.new");
    fs::copy(&built, &fresh).with_context(|| format!("cannot copy {}", built.display()))?;
    fs::rename(&fresh, &object)?;
    fs::write(&stamp, fingerprint)?;
    println!("ebpf: wrote {}", object.display());
    Ok(())
}

fn choose() -> Toolchain {
    let installed =
        Command::new("rustup").args(["component", "list", "--installed", "--toolchain", "nightly"]).output();
    let nightly = installed.is_ok_and(|output| {
        output.status.success()
            && String::from_utf8_lossy(&output.stdout).lines().any(|line| line == "rust-src")
    });
    if nightly { Toolchain::Nightly } else { Toolchain::Debian }
}

/// A digest of everything the object is made from: the sources, the locked aya crates, the toolchain.
fn fingerprint(root: &Path, toolchain: Toolchain) -> Result<String> {
    let mut files = Vec::new();
    collect(&root.join("agent-ebpf"), &mut files)?;
    files.sort();
    let mut digest = Sha256::new();
    digest.update(toolchain.to_string());
    for file in &files {
        digest.update(file.strip_prefix(root)?.as_os_str().as_encoded_bytes());
        digest.update(fs::read(file).with_context(|| format!("cannot read {}", file.display()))?);
    }
    let lock = fs::read_to_string(root.join("Cargo.lock"))?;
    for package in lock.split("\n\n").filter(|package| package.contains("name = \"aya")) {
        digest.update(package);
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

fn install(toolchain: Toolchain) -> Result<()> {
    if toolchain == Toolchain::Debian {
        install_packages()?;
    }
    if linker().is_some() {
        return Ok(());
    }
    println!("ebpf: installing bpf-linker {LINKER_VERSION} (one to two minutes)");
    let mut cargo = Command::new("cargo");
    cargo.args(["install", "--locked", "bpf-linker", "--version", LINKER_VERSION]);
    if toolchain == Toolchain::Debian {
        cargo.args(["--no-default-features", "--features", "llvm-22"]);
        // Without LLVM_PREFIX the link step does not find libLLVM.
        cargo.env("LLVM_SYS_221_PREFIX", LLVM).env("LLVM_PREFIX", LLVM);
    }
    run(cargo)?;
    ensure!(linker().is_some(), "cargo installed bpf-linker, but it is not in PATH or ~/.cargo/bin");
    Ok(())
}

fn install_packages() -> Result<()> {
    let missing: Vec<&str> = DEBIAN_PACKAGES.into_iter().filter(|package| !installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if Command::new("apt-get").arg("--version").output().is_err() {
        bail!(
            "no toolchain for BPF here: `rustup toolchain install nightly --component rust-src` and run again \
             (the other way, Debian's {}, needs apt-get)",
            DEBIAN_PACKAGES[0]
        );
    }
    println!("ebpf: installing {}", missing.join(" "));
    let mut update = Command::new("apt-get");
    update.args(["update", "-q"]);
    run(update)?;
    let mut install = Command::new("apt-get");
    install.args(["install", "-y", "-q", "--no-install-recommends"]).args(missing);
    install.env("DEBIAN_FRONTEND", "noninteractive");
    run(install)
}

fn installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status}", package])
        .output()
        .is_ok_and(|output| output.stdout == b"installed")
}

/// bpf-linker in PATH, or where `cargo install` puts it.
fn linker() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    std::env::split_paths(&path)
        .chain(home.map(|home| home.join("bin")))
        .map(|directory| directory.join("bpf-linker"))
        .find(|candidate| candidate.is_file())
}

fn cargo(toolchain: Toolchain, root: &Path, build_dir: &Path) -> Command {
    let linker = linker().unwrap_or_else(|| "bpf-linker".into());
    let flags = format!("-C linker={} -C debuginfo=2 -C link-arg=--btf", linker.display());
    let mut command = match toolchain {
        Toolchain::Nightly => {
            let mut command = Command::new("cargo");
            // `rustup run` would be overridden by the variable that the outer cargo's proxy has set.
            command.env("RUSTUP_TOOLCHAIN", "nightly").env_remove("RUSTC");
            command.args(["build", "-Z", "build-std=core"]);
            command
        }
        Toolchain::Debian => {
            let mut command = Command::new("/usr/bin/cargo");
            command.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1").arg("build");
            command
        }
    };
    command.args(["--release", "--locked", "--package", "agent-ebpf", "--target", TARGET]);
    command.current_dir(root).env_remove("CARGO_BUILD_BUILD_DIR").env("CARGO_TARGET_DIR", build_dir);
    command.env("RUSTFLAGS", flags);
    // The workspace's release profile strips debug information, of which BTF is made.
    command.env("CARGO_PROFILE_RELEASE_STRIP", "none").env("CARGO_PROFILE_RELEASE_DEBUG", "2");
    command.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3");
    command
}

fn run(mut command: Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}
