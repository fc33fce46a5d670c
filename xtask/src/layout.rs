//! Where everything of a cluster on this machine lives, by its name: `up` for people, `test` for the suites. Two
//! names never share a path, an address or a link, so both can run at once.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::sh::sh;

/// The project's root: the parent of this crate.
pub(crate) fn root() -> Result<PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has no parent directory")?.to_owned())
}

/// Where the manifests of the tutorial are on machines that have it: beside the project, of which they are no part.
pub(crate) const TUTORIAL: &str = "../shared/tutorial";

/// The tutorial's directory, or why a suite that applies it cannot run.
pub(crate) fn tutorial() -> Result<PathBuf> {
    let directory = root()?.join(TUTORIAL);
    if !directory.join("01-pod.yaml").is_file() {
        bail!(
            "the manifests of the tutorial are not in {} (01-pod.yaml and so on): this suite applies them; \
             CONTRIBUTING.md says more",
            directory.display()
        );
    }
    Ok(directory)
}

/// How the daemons are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Build {
    /// As they are shipped.
    Release,
    /// Quick to compile, slow to run: for work on the daemons themselves.
    Debug,
}

impl Build {
    /// Directory of the binaries below `target`.
    pub(crate) fn directory(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Debug => "debug",
        }
    }
}

/// A cluster's places.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// `up`, `test`, or what its user calls it.
    pub(crate) name: String,
    /// Project root.
    pub(crate) root: PathBuf,
    /// State, logs, kubeconfig: `target/<name>`.
    pub(crate) dir: PathBuf,
    /// Sockets and pins, on tmpfs, short enough for socket addresses: `/run/gantry-<name>`.
    pub(crate) run: PathBuf,
    /// This cluster's cgroup v2 directory.
    pub(crate) cgroup: PathBuf,
    /// Where the daemons' binaries are.
    pub(crate) binaries: PathBuf,
    /// Whether they are of an earlier revision: what their configuration may say is what was known then.
    pub(crate) earlier: bool,
    /// Second byte of its addresses, so that clusters do not meet.
    net: u8,
}

impl Layout {
    /// Copies the daemons' logs of a failed run to `to` below target, where `down` does not remove them, and says so.
    pub(crate) fn keep_logs(&self, to: &str) -> Result<()> {
        let kept = self.root.join("target").join(to);
        sh("rm").arg("-rf").arg(&kept).run()?;
        sh("cp").arg("-r").arg(self.dir.join("logs")).arg(&kept).run()?;
        eprintln!("  the daemons' logs are in {}", kept.display());
        Ok(())
    }

    /// The places of the cluster `name`.
    pub(crate) fn of(name: &str, build: Build) -> Result<Self> {
        let net = net_of(name)?;
        let root = root()?;
        Ok(Self {
            name: name.to_owned(),
            dir: root.join("target").join(name),
            run: PathBuf::from(format!("/run/gantry-{name}")),
            cgroup: cgroup_v2_mount()?.join(format!("gantry-{name}")),
            binaries: root.join("target").join(build.directory()),
            earlier: false,
            root,
            net,
        })
    }

    /// The bridge that joins the nodes.
    pub(crate) fn bridge(&self) -> String {
        format!("gantry-{}", self.name)
    }

    /// Address of this machine on the bridge: scheduler, registry.
    pub(crate) fn host_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.net, 0, 1)
    }

    /// Network of the bridge.
    pub(crate) fn underlay(&self) -> String {
        format!("10.{}.0.0/24", self.net)
    }

    /// All pods.
    pub(crate) fn pod_cidr(&self) -> String {
        format!("10.{}.0.0/16", u16::from(self.net) + 100)
    }

    /// All ClusterIPs.
    pub(crate) fn service_cidr(&self) -> String {
        format!("10.{}.0.0/16", u16::from(self.net) + 40)
    }

    /// Load balancer addresses: on the bridge's network, so that ARP finds their node.
    pub(crate) fn load_balancer_pool(&self) -> String {
        format!("10.{}.0.128/26", self.net)
    }

    /// Port of the Kubernetes API on loopback.
    pub(crate) fn api_port(&self) -> u16 {
        6443 + u16::from(self.net - 88) * 1000
    }

    /// Port for agents, on the bridge.
    pub(crate) const NODE_PORT: u16 = 6444;
    /// Port of the scheduler's metrics on the bridge.
    pub(crate) const METRICS_PORT: u16 = 6445;
    /// Port of the registry, on the bridge.
    pub(crate) const REGISTRY_PORT: u16 = 5000;

    /// Name of the `i`th node, from 1.
    pub(crate) fn node(&self, i: u8) -> Node {
        let name = format!("node-{i}");
        Node {
            address: Ipv4Addr::new(10, self.net, 0, 10 + i),
            netns: format!("gantry-{}-{i}", self.name),
            veth: format!("gnt{}n{i}", self.net),
            mntns: self.run.join("mnt").join(&name),
            run: self.run.join(&name),
            dir: self.dir.join(&name),
            cgroup: self.cgroup.join(&name),
            name,
        }
    }

    /// kubeconfig of the administrator.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }
}

/// Longest name of a cluster: with `gantry-` before it, it is the name of a link.
const MAX_NAME: usize = 8;
/// What the clusters have that are not named here: 91 to 127, so that no range meets another cluster's.
const OTHER_NETS: u32 = 37;

/// Second byte of a cluster's addresses. Names other than the usual ones draw theirs, so two of them can meet.
fn net_of(name: &str) -> Result<u8> {
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(|b| b.is_ascii_lowercase()) {
        bail!("{name:?} cannot name a cluster: {MAX_NAME} lower case letters at most");
    }
    Ok(match name {
        "up" => 88,
        "test" => 89,
        "bench" => 90,
        other => {
            let sum = other.bytes().fold(0_u32, |sum, b| sum.wrapping_mul(31).wrapping_add(u32::from(b)));
            91 + u8::try_from(sum % OTHER_NETS)?
        }
    })
}

/// One node's places.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// `node-1`
    pub(crate) name: String,
    /// Its address on the bridge.
    pub(crate) address: Ipv4Addr,
    /// Its network namespace.
    pub(crate) netns: String,
    /// Host end of its link.
    pub(crate) veth: String,
    /// Pin of its mount namespace.
    pub(crate) mntns: PathBuf,
    /// Sockets and pins.
    pub(crate) run: PathBuf,
    /// State that survives restarts of its daemons.
    pub(crate) dir: PathBuf,
    /// Its cgroup.
    pub(crate) cgroup: PathBuf,
}

/// Where cgroup v2 is mounted: `/sys/fs/cgroup`, or below it on hosts that still mount version 1.
pub(crate) fn cgroup_v2_mount() -> Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            Some((words.next()?, words.next()?))
        })
        .find(|(_, kind)| *kind == "cgroup2")
        .map(|(path, _)| PathBuf::from(path))
        .context("cgroup v2 is not mounted: boot with the unified or hybrid hierarchy")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_clusters_are_names_of_links() {
        for name in ["", "Up", "a b", "ninechars", "../x"] {
            assert!(net_of(name).is_err(), "{name}");
        }
        for name in ["up", "test", "bench", "mine", "zzzzzzzz"] {
            assert!((88..=127).contains(&net_of(name).unwrap()), "{name}");
        }
    }
}
