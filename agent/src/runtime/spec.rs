//! Builds the OCI runtime specification of one container from the decisions in [`ContainerSpec`], the image's
//! configuration and the resolved user. Pure but for listing /dev for a privileged container.

use std::collections::{HashMap, HashSet};

use oci_spec::{
    OciSpecError,
    image::Config as ImageConfig,
    runtime::{
        Capability, Linux, LinuxCapabilities, LinuxCpu, LinuxDeviceCgroup, LinuxMemory, LinuxNamespace,
        LinuxNamespaceType, LinuxPids, LinuxResources, LinuxSeccomp, Mount as OciMount, Process, Root, Spec,
        User,
    },
};

use super::{
    ContainerSpec, Propagation, RuntimeError, Seccomp, capabilities, devices, seccomp, user::Identity,
};
use crate::model::Limits;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Groups the containers of a pod under one shim.
const SHIM_GROUP: &str = "io.containerd.runc.v2.group";

/// The specification. "All" capabilities are those `given`, a bit for each number.
pub(super) fn build(
    spec: &ContainerSpec,
    image: &ImageConfig,
    identity: &Identity,
    shim_group: &str,
    root_propagation: Option<&str>,
    given: u64,
) -> Result<Spec, RuntimeError> {
    let capabilities = if spec.privileged {
        capabilities::among(given)
    } else {
        capabilities::effective(&spec.add_capabilities, &spec.drop_capabilities, given)?
    };
    let mut root = Root::default();
    root.set_path("rootfs".into()).set_readonly(Some(spec.read_only_root));
    let mut oci = Spec::default();
    oci.set_version("1.0.2".to_owned())
        .set_root(Some(root))
        .set_hostname(None)
        .set_process(Some(process(spec, image, identity, &capabilities)?))
        .set_mounts(Some(mounts(spec)))
        .set_linux(Some(linux(spec, &capabilities, root_propagation)?))
        .set_annotations(Some([(SHIM_GROUP.to_owned(), shim_group.to_owned())].into()));
    Ok(oci)
}

fn invalid(error: &OciSpecError) -> RuntimeError {
    RuntimeError::Config { message: format!("OCI specification: {error}") }
}

fn process(
    spec: &ContainerSpec,
    image: &ImageConfig,
    identity: &Identity,
    capabilities: &HashSet<Capability>,
) -> Result<Process, RuntimeError> {
    // The primary group as well: a set-group program must not lose it (CVE-2023-25173).
    let own = [identity.gid];
    let mut groups: Vec<u32> =
        identity.groups.iter().chain(&spec.extra_groups).chain(&own).copied().collect();
    groups.sort_unstable();
    groups.dedup();
    let mut user = User::default();
    user.set_uid(identity.uid).set_gid(identity.gid).set_additional_gids(Some(groups));

    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(capabilities.clone()))
        .set_permitted(Some(capabilities.clone()))
        .set_effective(Some(capabilities.clone()))
        .set_inheritable(None)
        .set_ambient(None);

    let cwd = spec
        .working_dir
        .as_deref()
        .filter(|dir| !dir.is_empty())
        .or(image.working_dir().as_deref().filter(|dir| !dir.is_empty()))
        .unwrap_or("/");
    let mut process = Process::default();
    process
        .set_terminal(Some(spec.tty))
        .set_user(user)
        .set_args(Some(arguments(spec, image)?))
        .set_env(Some(environment(spec, image, identity)))
        .set_cwd(cwd.into())
        .set_capabilities(Some(sets))
        // Inherited from containerd, as under the kubelet: its unit is where an operator sets them.
        .set_rlimits(None)
        .set_no_new_privileges(Some(!spec.allow_privilege_escalation && !spec.privileged))
        .set_oom_score_adj(Some(spec.oom_score_adj));
    Ok(process)
}

/// `command` replaces entry point and arguments of the image, `args` its arguments.
fn arguments(spec: &ContainerSpec, image: &ImageConfig) -> Result<Vec<String>, RuntimeError> {
    let empty = Vec::new();
    let (entrypoint, cmd) =
        (image.entrypoint().as_ref().unwrap_or(&empty), image.cmd().as_ref().unwrap_or(&empty));
    let (head, tail) = match (spec.command.is_empty(), spec.args.is_empty()) {
        (false, _) => (&spec.command, &spec.args),
        (true, false) => (entrypoint, &spec.args),
        (true, true) => (entrypoint, cmd),
    };
    let all: Vec<String> = head.iter().chain(tail).cloned().collect();
    if all.is_empty() {
        return Err(RuntimeError::Config { message: "no command specified".into() });
    }
    Ok(all)
}

fn environment(spec: &ContainerSpec, image: &ImageConfig, identity: &Identity) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    let mut values: HashMap<String, String> = HashMap::new();
    let mut set = |name: &str, value: &str| {
        if values.insert(name.to_owned(), value.to_owned()).is_none() {
            order.push(name.to_owned());
        }
    };
    set("PATH", PATH);
    if spec.tty {
        set("TERM", "xterm");
    }
    if let Some(home) = &identity.home {
        set("HOME", home);
    }
    for entry in image.env().iter().flatten() {
        if let Some((name, value)) = entry.split_once('=') {
            set(name, value);
        }
    }
    for (name, value) in &spec.env {
        set(name, value);
    }
    order.into_iter().map(|name| format!("{name}={}", values.get(&name).map_or("", String::as_str))).collect()
}

fn mount(kind: &str, source: &str, target: &str, options: &[&str]) -> OciMount {
    let mut mount = OciMount::default();
    mount
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.into()))
        .set_destination(target.into())
        .set_options(Some(options.iter().map(|&o| o.to_owned()).collect()));
    mount
}

fn mounts(spec: &ContainerSpec) -> Vec<OciMount> {
    let sys = if spec.privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        mount("proc", "proc", "/proc", &["nosuid", "noexec", "nodev"]),
        mount("tmpfs", "tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "devpts",
            "devpts",
            "/dev/pts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("mqueue", "mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]),
        mount("sysfs", "sysfs", "/sys", &["nosuid", "noexec", "nodev", sys]),
        mount("cgroup", "cgroup", "/sys/fs/cgroup", &["nosuid", "noexec", "nodev", "relatime", sys]),
    ];
    if !spec.mounts.iter().any(|m| m.target.trim_end_matches('/') == "/dev/shm") {
        let options = ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"];
        mounts.push(mount("tmpfs", "shm", "/dev/shm", &options));
    }
    // A parent directory's mount must come before what is mounted below it.
    let mut binds: Vec<_> = spec.mounts.iter().collect();
    binds.sort_by_key(|m| m.target.split('/').filter(|part| !part.is_empty()).count());
    mounts.extend(binds.into_iter().map(|m| {
        let access = if m.read_only { "ro" } else { "rw" };
        let propagation = match m.propagation {
            Propagation::None => "rprivate",
            Propagation::HostToContainer => "rslave",
            Propagation::Bidirectional => "rshared",
        };
        mount("bind", &m.source.to_string_lossy(), &m.target, &["rbind", propagation, access])
    }));
    mounts
}

fn linux(
    spec: &ContainerSpec,
    capabilities: &HashSet<Capability>,
    root_propagation: Option<&str>,
) -> Result<Linux, RuntimeError> {
    let paths = |all: &[&str]| Some(all.iter().map(|&p| p.to_owned()).collect::<Vec<_>>());
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces(spec)))
        .set_cgroups_path(Some(cgroup(spec).into()))
        .set_resources(Some(resources(spec)))
        .set_devices(None)
        // Set in the pod's namespaces before, where a refusal can be told in words of our own.
        .set_sysctl(None)
        .set_rootfs_propagation(root_propagation.map(str::to_owned))
        .set_masked_paths(None)
        .set_readonly_paths(None)
        .set_seccomp(None);
    if spec.privileged {
        linux.set_devices(Some(devices::of_host()?));
    } else {
        linux
            .set_masked_paths(paths(&MASKED_PATHS))
            .set_readonly_paths(paths(&READONLY_PATHS))
            .set_seccomp(seccomp_profile(spec, capabilities)?);
    }
    Ok(linux)
}

/// A cgroup for each attempt: the one before keeps its own, with the facts in it, until its record is removed.
pub(super) fn cgroup(spec: &ContainerSpec) -> String {
    let attempt = spec.id.parts().map_or(0, |(.., attempt)| attempt);
    format!("{}/{attempt}", spec.cgroup)
}

fn seccomp_profile(
    spec: &ContainerSpec,
    capabilities: &HashSet<Capability>,
) -> Result<Option<LinuxSeccomp>, RuntimeError> {
    match &spec.seccomp {
        Seccomp::Unconfined => Ok(None),
        Seccomp::RuntimeDefault => seccomp::default_profile(capabilities).map(Some).map_err(|e| invalid(&e)),
        Seccomp::Localhost(path) => {
            let unusable = |why: String| RuntimeError::Config {
                message: format!("cannot load seccomp profile {path:?}: {why}"),
            };
            let text = std::fs::read(path).map_err(|e| unusable(e.to_string()))?;
            serde_json::from_slice(&text).map(Some).map_err(|e| unusable(e.to_string()))
        }
    }
}

fn namespaces(spec: &ContainerSpec) -> Vec<LinuxNamespace> {
    let namespace = |typ, path| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(typ).set_path(path);
        namespace
    };
    let mut all: Vec<_> =
        [LinuxNamespaceType::Mount, LinuxNamespaceType::Cgroup].map(|typ| namespace(typ, None)).into();
    if !spec.host_pid {
        all.push(namespace(LinuxNamespaceType::Pid, None));
    }
    let joined = [
        (LinuxNamespaceType::Network, &spec.netns),
        (LinuxNamespaceType::Ipc, &spec.ipcns),
        (LinuxNamespaceType::Uts, &spec.utsns),
    ];
    for (typ, path) in joined {
        if let Some(path) = path {
            all.push(namespace(typ, Some(path.clone())));
        }
    }
    all
}

fn resources(spec: &ContainerSpec) -> LinuxResources {
    let mut device = LinuxDeviceCgroup::default();
    device.set_allow(spec.privileged).set_access(Some("rwm".to_owned()));
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(vec![device]));
    limits(&spec.limits, &mut resources);
    resources
}

/// Only what is set: where the controllers are missing, any value would make the start fail.
fn limits(limits: &Limits, resources: &mut LinuxResources) {
    let mut unified = HashMap::new();
    if let Some(weight) = limits.cpu_weight {
        unified.insert("cpu.weight".to_owned(), weight.to_string());
    }
    if limits.cpu_quota_us.is_some() {
        let mut cpu = LinuxCpu::default();
        cpu.set_quota(limits.cpu_quota_us).set_period(limits.cpu_period_us);
        resources.set_cpu(Some(cpu));
    }
    if let Some(max) = limits.memory_max {
        // memory + swap equal to memory: no swap.
        let mut memory = LinuxMemory::default();
        memory.set_limit(Some(max)).set_swap(Some(max));
        resources.set_memory(Some(memory));
    }
    if *limits != Limits::default() {
        // One process killed for memory leaves half a container: the kernel ends all of it, as under the kubelet.
        unified.insert("memory.oom.group".to_owned(), "1".to_owned());
    }
    if let Some(max) = limits.pids_max {
        let mut pids = LinuxPids::default();
        pids.set_limit(max);
        resources.set_pids(Some(pids));
    }
    if !unified.is_empty() {
        resources.set_unified(Some(unified));
    }
}

#[cfg(test)]
mod tests;
