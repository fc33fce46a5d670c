//! cgroups, mounts and what else a cluster leaves in the kernel: removing it, and looking whether anything is
//! left. Only ever touches what carries the cluster's name.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::network;
use crate::{layout::Layout, sh::sh};

/// How long killed processes may take to leave their cgroup.
const KILL_TIME: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Passes the controllers that `group` has on to its children; none where the host has none for version 2.
pub(crate) fn delegate_controllers(group: &Path) -> Result<()> {
    let available = fs::read_to_string(group.join("cgroup.controllers"))?;
    for controller in available.split_whitespace().filter(|c| matches!(*c, "cpu" | "memory" | "pids" | "io"))
    {
        fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"))
            .with_context(|| format!("cannot delegate {controller} below {}", group.display()))?;
    }
    Ok(())
}

/// Whether limits can be enforced in `group`.
pub(crate) fn has_controllers(group: &Path) -> Result<bool> {
    let available = fs::read_to_string(group.join("cgroup.controllers"))?;
    Ok(["cpu", "memory", "pids"].iter().all(|c| available.split_whitespace().any(|a| a == *c)))
}

/// Kills everything in the cgroup and removes it with all below.
pub(crate) fn remove_cgroup(group: &Path) -> Result<()> {
    if !group.is_dir() {
        return Ok(());
    }
    fs::write(group.join("cgroup.kill"), "1")
        .with_context(|| format!("cannot kill what is in {}", group.display()))?;
    let end = Instant::now() + KILL_TIME;
    while fs::read_to_string(group.join("cgroup.events"))?.contains("populated 1") {
        ensure!(Instant::now() < end, "processes in {} do not die", group.display());
        std::thread::sleep(LOOK_EVERY);
    }
    let mut directories = vec![group.to_owned()];
    let mut i = 0;
    while i < directories.len() {
        let below: Vec<PathBuf> =
            fs::read_dir(&directories[i])?.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect();
        directories.extend(below);
        i += 1;
    }
    for directory in directories.iter().rev() {
        fs::remove_dir(directory).with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    Ok(())
}

/// Unmounts whatever is mounted at or below `directory`, innermost first.
pub(crate) fn remove_mounts(directory: &Path) -> Result<()> {
    for mount in mounts_below(directory)?.iter().rev() {
        sh("umount").arg("--lazy").arg(mount).run()?;
    }
    Ok(())
}

/// What is left of the cluster, in words; empty when nothing is.
pub(crate) fn find(layout: &Layout) -> Result<Vec<String>> {
    let mut left = Vec::new();
    let prefix = format!("gantry-{}-", layout.name);
    left.extend(
        network::namespaces()?.into_iter().filter(|n| n.starts_with(&prefix)).map(|n| format!("netns {n}")),
    );
    for directory in [&layout.run, &layout.dir] {
        left.extend(mounts_below(directory)?.into_iter().map(|m| format!("mount {}", m.display())));
    }
    if layout.cgroup.exists() {
        left.push(format!("cgroup {}", layout.cgroup.display()));
    }
    if network::link_exists(&layout.bridge()) {
        left.push(format!("link {}", layout.bridge()));
    }
    left.extend(processes_naming(&[&layout.run, &layout.dir])?);
    Ok(left)
}

/// Processes whose command line names one of the cluster's directories.
fn processes_naming(directories: &[&PathBuf]) -> Result<Vec<String>> {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        if pid == own || !pid.bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        let Ok(bytes) = fs::read(entry.path().join("cmdline")) else { continue };
        let command = String::from_utf8_lossy(&bytes).replace('\0', " ");
        // A directory as a whole word's prefix: `target/up/x`, not an editor that has `target/upper` open.
        if directories.iter().any(|d| command.contains(&format!("{}/", d.display()))) {
            found.push(format!("process {pid} {command}"));
        }
    }
    Ok(found)
}

fn mounts_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    Ok(mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(PathBuf::from)
        .filter(|path| path.starts_with(directory))
        .collect())
}
