//! The VM suite: a fresh Debian host with systemd and cgroup v2, on which Gantry is installed as a user installs
//! it. What this machine's own kernel or hierarchy cannot show is shown there: limits, units, OOM kills.
//!
//! The base image (debootstrap) and the kernel are made once and kept below `target/vm`; the host's own programs,
//! configuration and images go in on a second disk. The machine has no network, runs without hardware
//! virtualisation, and is ended when its time is up.

mod guest;
mod image;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{compile, layout, layout::Build, packages, up};

/// What making and running the machine needs besides what a cluster on this machine needs.
const TOOLS: &[packages::Tool] = &[
    ("debootstrap", "debootstrap"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("mke2fs", "e2fsprogs"),
    ("systemctl", "systemd"),
];

/// Where the machine's parts are.
pub(super) struct Places {
    root: PathBuf,
    dir: PathBuf,
}

impl Places {
    fn of(root: PathBuf) -> Result<Self> {
        let dir = root.join("target/vm");
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(Self { root, dir })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// Builds what goes in, boots, and reads the results. Fails unless every assertion held.
pub(crate) fn run() -> Result<()> {
    up::require_root()?;
    layout::tutorial()?;
    for tools in [packages::BUILD, packages::CLUSTER, TOOLS] {
        packages::ensure(tools)?;
    }
    let places = Places::of(layout::root()?)?;
    compile::daemons(Build::Release)?;
    let kubectl = packages::kubectl(&places.root.join("target/tools"), packages::KUBECTL)?;
    image::base(&places)?;
    image::kernel(&places)?;
    image::payload(&places, &kubectl)?;
    guest::boot(&places)
}

/// A file of the suite that is kept with the tests.
pub(super) fn test_file(root: &Path, name: &str) -> PathBuf {
    root.join("tests/vm").join(name)
}
