//! The cgroup port on the file system. `<root>/pods` holds guaranteed pods directly and one directory for each of the
//! other classes, as the kubelet's tree does.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{CgroupError, Cgroups, Enforcement, Qos, Usage, failed, files, group::Group, usage};
use crate::{
    failpoint,
    model::{Limits, PodUid},
    proc::{Proc, SELF},
};

/// Without these there are no limits.
const REQUIRED: [&str; 3] = ["cpu", "memory", "pids"];
/// Taken where they are.
const WANTED: [&str; 5] = ["cpu", "memory", "pids", "io", "cpuset"];

const PODS: &str = "pods";
const BURSTABLE: &str = "burstable";
const BEST_EFFORT: &str = "besteffort";

/// Where the tree is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeSettings {
    /// Where cgroup v2 is mounted.
    pub mount: PathBuf,
    /// Directory below it, `/gantry`; `None`: the cgroup that this process was started in.
    pub root: Option<String>,
    /// Refuse to go on where limits cannot hold.
    pub required: bool,
    /// What all pods together may have.
    pub allocatable: Limits,
}

/// The adapter.
#[derive(Debug)]
pub struct CgroupTree {
    mount: PathBuf,
    /// Below the mount, without a slash at either end.
    pods: PathBuf,
    enforcement: Enforcement,
}

impl CgroupTree {
    /// Makes the directories down to the classes and takes the controllers. When the agent itself is in the root, it
    /// moves into a leaf of it: a cgroup that has limits for its children may not have processes.
    pub fn open(settings: &TreeSettings) -> Result<Self, CgroupError> {
        let root = match &settings.root {
            Some(root) => PathBuf::from(root.trim_matches('/')),
            None => own_cgroup(&Proc::new())?,
        };
        let directory = settings.mount.join(&root);
        Group::at(&directory).create()?;
        leave(&directory, &settings.mount)?;
        let missing = take_controllers(&settings.mount, &root);
        if settings.required && !missing.is_empty() {
            return Err(CgroupError::ControllersMissing { root: directory, missing: missing.join(", ") });
        }
        let enforcement =
            if missing.is_empty() { Enforcement::Enforced } else { Enforcement::BestEffort { missing } };
        let tree = Self { mount: settings.mount.clone(), pods: root.join(PODS), enforcement };
        for class in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
            tree.ensure(&tree.class(class), &Limits::default())?;
        }
        tree.limit(&tree.class(Qos::Guaranteed), &settings.allocatable)?;
        // Pods that asked for nothing get what is left over.
        tree.limit(&tree.class(Qos::BestEffort), &Limits { cpu_weight: Some(1), ..Limits::default() })?;
        Ok(tree)
    }

    fn enforced(&self) -> bool {
        self.enforcement == Enforcement::Enforced
    }

    /// Below the mount.
    fn class_path(&self, qos: Qos) -> PathBuf {
        match qos {
            Qos::Guaranteed => self.pods.clone(),
            Qos::Burstable => self.pods.join(BURSTABLE),
            Qos::BestEffort => self.pods.join(BEST_EFFORT),
        }
    }

    fn class(&self, qos: Qos) -> PathBuf {
        self.mount.join(self.class_path(qos))
    }

    fn find_pod(&self, pod: &PodUid) -> Option<PathBuf> {
        let name = pod_directory(pod);
        let classes = [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort];
        classes.into_iter().map(|class| self.class(class).join(&name)).find(|path| path.is_dir())
    }

    /// The directory, with its controllers given on to its children.
    fn ensure(&self, directory: &Path, limits: &Limits) -> Result<(), CgroupError> {
        let group = Group::at(directory);
        group.create()?;
        failpoint::reach("cgroup.ensure.made", &directory.to_string_lossy());
        if self.enforced() {
            files::delegate(directory, &WANTED)?;
            group.limit(limits)?;
        }
        Ok(())
    }

    fn limit(&self, directory: &Path, limits: &Limits) -> Result<(), CgroupError> {
        if self.enforced() { Group::at(directory).limit(limits) } else { Ok(()) }
    }

    /// Burstable pods together weigh what they weigh each: against the guaranteed ones beside their class they then
    /// get the shares they asked for.
    fn weigh_burstable(&self) -> Result<(), CgroupError> {
        if !self.enforced() {
            return Ok(());
        }
        let class = self.class(Qos::Burstable);
        let pods = pods_in(&class)?.into_iter();
        let sum = pods.filter_map(|pod| Group::at(&class.join(pod_directory(&pod))).weight()).sum();
        Group::at(&class).weigh(sum)
    }
}

impl Cgroups for CgroupTree {
    fn enforcement(&self) -> Enforcement {
        self.enforcement.clone()
    }

    fn ensure_pod(&self, pod: &PodUid, qos: Qos, limits: &Limits) -> Result<(), CgroupError> {
        self.ensure(&self.class(qos).join(pod_directory(pod)), limits)?;
        if qos == Qos::Burstable { self.weigh_burstable() } else { Ok(()) }
    }

    fn container_path(&self, pod: &PodUid, qos: Qos, container: &str) -> String {
        format!("/{}", self.class_path(qos).join(pod_directory(pod)).join(container).display())
    }

    fn remove_pod(&self, pod: &PodUid) -> Result<(), CgroupError> {
        let Some(directory) = self.find_pod(pod) else { return Ok(()) };
        remove(&directory)?;
        if directory.starts_with(self.class(Qos::Burstable)) { self.weigh_burstable() } else { Ok(()) }
    }

    fn list_pods(&self) -> Result<Vec<PodUid>, CgroupError> {
        let mut pods = Vec::new();
        for class in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
            pods.extend(pods_in(&self.class(class))?);
        }
        Ok(pods)
    }

    fn container_usage(&self, pod: &PodUid, container: &str) -> Result<Option<Usage>, CgroupError> {
        let Some(directory) = self.find_pod(pod) else { return Ok(None) };
        usage::read(&directory.join(container))
    }

    fn node_usage(&self) -> Result<Usage, CgroupError> {
        Ok(usage::read(&self.mount.join(&self.pods))?.unwrap_or_default())
    }
}

fn pod_directory(pod: &PodUid) -> String {
    format!("pod{pod}")
}

fn pods_in(class: &Path) -> Result<Vec<PodUid>, CgroupError> {
    let entries = fs::read_dir(class).map_err(failed("read", class))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter_map(|name| name.strip_prefix("pod").map(PodUid::from)).collect())
}

/// The cgroup that this process is in, without a slash at its front.
fn own_cgroup(proc: &Proc) -> Result<PathBuf, CgroupError> {
    let path = proc.cgroup(SELF).map_err(failed("read", Path::new("/proc/self/cgroup")))?.unwrap_or_default();
    // After a restart in place the agent is in its leaf already.
    let path = Path::new(path.trim_start_matches('/'));
    Ok(if path.ends_with(LEAF) { path.parent().unwrap_or(path).to_owned() } else { path.to_owned() })
}

/// The agent's own leaf.
const LEAF: &str = "agent";

/// Moves every process of the root (the agent itself, under systemd) into a leaf. The hierarchy's own root may keep
/// its processes.
fn leave(root: &Path, mount: &Path) -> Result<(), CgroupError> {
    let procs = root.join("cgroup.procs");
    if root.components().eq(mount.components()) || !procs.exists() {
        return Ok(());
    }
    let pids = fs::read_to_string(&procs).map_err(failed("read", &procs))?;
    if pids.trim().is_empty() {
        return Ok(());
    }
    let leaf = Group::at(&root.join(LEAF));
    leaf.create()?;
    // 0 is one that this namespace does not see; written, it would mean the writer.
    pids.lines().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid != 0).try_for_each(|pid| leaf.take(pid))
}

/// Turns the controllers on from the mount down to the root's children; returns those that are not to be had.
fn take_controllers(mount: &Path, root: &Path) -> Vec<String> {
    let mut directory = mount.to_owned();
    // Above the root somebody else may forbid it: what counts is what arrives.
    let _ = files::delegate(&directory, &WANTED);
    for part in root.components() {
        directory.push(part);
        let _ = files::delegate(&directory, &WANTED);
    }
    let given = fs::read_to_string(directory.join("cgroup.subtree_control")).unwrap_or_default();
    let given: Vec<&str> = given.split_ascii_whitespace().map(|c| c.trim_start_matches('+')).collect();
    REQUIRED.iter().filter(|c| !given.contains(c)).map(|&c| c.to_owned()).collect()
}

/// Kills what is in it and removes it with everything below.
fn remove(directory: &Path) -> Result<(), CgroupError> {
    Group::at(directory).kill()?;
    files::wait_until_empty(directory)?;
    failpoint::reach("cgroup.remove.emptied", &directory.to_string_lossy());
    remove_tree(directory)
}

fn remove_tree(directory: &Path) -> Result<(), CgroupError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("read", directory)(error)),
    };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&entry.path())?;
    }
    match fs::remove_dir(directory) {
        // The runtime removes its containers' cgroups at the same time.
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", directory)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
