//! The cgroup port on the file system. `<root>/pods` holds guaranteed pods directly and one directory for each of the
//! other classes, as the kubelet's tree does. Plain files are all the kernel offers here, so plain file code is all
//! there is (docs/adr/0011-cgroup-files.md).

use std::{
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{CgroupError, Cgroups, Enforcement, Qos, Usage, usage};
use crate::model::{Limits, PodUid};

/// Without these there are no limits.
const REQUIRED: [&str; 3] = ["cpu", "memory", "pids"];
/// Taken where they are.
const WANTED: [&str; 5] = ["cpu", "memory", "pids", "io", "cpuset"];

const PODS: &str = "pods";
const BURSTABLE: &str = "burstable";
const BEST_EFFORT: &str = "besteffort";

/// Killed processes are gone within this time, unless they are stuck in the kernel.
const EMPTY_TIMEOUT: Duration = Duration::from_secs(5);

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
            None => own_cgroup(Path::new("/proc/self/cgroup"))?,
        };
        let directory = settings.mount.join(&root);
        make(&directory)?;
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
        make(directory)?;
        if self.enforced() {
            delegate_controllers(directory)?;
        }
        self.limit(directory, limits)
    }

    fn limit(&self, directory: &Path, limits: &Limits) -> Result<(), CgroupError> {
        if !self.enforced() {
            return Ok(());
        }
        let or_max = |value: Option<i64>| value.map_or_else(|| "max".to_owned(), |v| v.to_string());
        let period = limits.cpu_period_us.unwrap_or(100_000);
        let cpu_max = format!("{} {period}", or_max(limits.cpu_quota_us));
        write(&directory.join("cpu.weight"), &limits.cpu_weight.unwrap_or(100).clamp(1, 10_000).to_string())?;
        write(&directory.join("cpu.max"), &cpu_max)?;
        write(&directory.join("memory.max"), &or_max(limits.memory_max))?;
        write(&directory.join("pids.max"), &or_max(limits.pids_max))
    }

    /// Burstable pods together weigh what they weigh each: against the guaranteed ones beside their class they then
    /// get the shares they asked for.
    fn weigh_burstable(&self) -> Result<(), CgroupError> {
        if !self.enforced() {
            return Ok(());
        }
        let class = self.class(Qos::Burstable);
        let weights = pods_in(&class)?.into_iter().filter_map(|pod| {
            let weight = fs::read_to_string(class.join(pod_directory(&pod)).join("cpu.weight")).ok()?;
            weight.trim().parse::<u64>().ok()
        });
        let sum = weights.sum::<u64>().clamp(1, 10_000);
        write(&class.join("cpu.weight"), &sum.to_string())
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

fn failed(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError::Path { operation, path: path.clone(), source }
}

fn make(directory: &Path) -> Result<(), CgroupError> {
    fs::create_dir_all(directory).map_err(failed("create", directory))
}

fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    fs::write(path, value).map_err(|source| CgroupError::Write {
        path: path.to_owned(),
        value: value.to_owned(),
        source,
    })
}

/// The line `0::<path>` of /proc/self/cgroup.
fn own_cgroup(file: &Path) -> Result<PathBuf, CgroupError> {
    let text = fs::read_to_string(file).map_err(failed("read", file))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    // After a restart in place the agent is in its leaf already.
    let path = Path::new(path);
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
    let leaf = root.join(LEAF);
    make(&leaf)?;
    pids.lines().try_for_each(|pid| write(&leaf.join("cgroup.procs"), pid))
}

/// Turns the controllers on from the mount down to the root's children; returns those that are not to be had.
fn take_controllers(mount: &Path, root: &Path) -> Vec<String> {
    let mut directory = mount.to_owned();
    // Above the root somebody else may forbid it: what counts is what arrives.
    let _ = delegate_controllers(&directory);
    for part in root.components() {
        directory.push(part);
        let _ = delegate_controllers(&directory);
    }
    let given = fs::read_to_string(directory.join("cgroup.subtree_control")).unwrap_or_default();
    let given: Vec<&str> = given.split_ascii_whitespace().map(|c| c.trim_start_matches('+')).collect();
    REQUIRED.iter().filter(|c| !given.contains(c)).map(|&c| c.to_owned()).collect()
}

/// Gives a directory's controllers to its children.
fn delegate_controllers(directory: &Path) -> Result<(), CgroupError> {
    let file = directory.join("cgroup.controllers");
    let available = fs::read_to_string(&file).map_err(failed("read", &file))?;
    let available: Vec<&str> = available.split_ascii_whitespace().collect();
    let wanted: Vec<String> =
        WANTED.iter().filter(|c| available.contains(c)).map(|controller| format!("+{controller}")).collect();
    if wanted.is_empty() {
        Ok(())
    } else {
        write(&directory.join("cgroup.subtree_control"), &wanted.join(" "))
    }
}

/// Kills what is in it and removes it with everything below.
fn remove(directory: &Path) -> Result<(), CgroupError> {
    kill(directory)?;
    wait_until_empty(directory)?;
    remove_tree(directory)
}

fn kill(directory: &Path) -> Result<(), CgroupError> {
    let file = directory.join("cgroup.kill");
    match write(&file, "1") {
        Err(CgroupError::Write { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The kernel signals a change of cgroup.events as an exceptional condition of the file.
fn wait_until_empty(directory: &Path) -> Result<(), CgroupError> {
    let path = directory.join("cgroup.events");
    let deadline = Instant::now() + EMPTY_TIMEOUT;
    loop {
        let Ok(file) = fs::File::open(&path) else { return Ok(()) };
        let text = io::read_to_string(&file).map_err(failed("read", &path))?;
        let left = deadline.saturating_duration_since(Instant::now());
        if !text.lines().any(|line| line == "populated 1") || left.is_zero() {
            return Ok(());
        }
        let mut polled = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        poll(&mut polled, timeout).map_err(|error| failed("read", &path)(error.into()))?;
    }
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
