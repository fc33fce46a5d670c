//! Everything one attempt of a container needs, from the pod's specification to the runtime's.

use std::{collections::BTreeMap, path::PathBuf};

use k8s_openapi::api::core::v1::{Container, Volume, VolumeMount};

use super::{
    context::Context,
    env::{self, Environment},
    expand::expand,
    files::pod_files,
    resources::{container_amounts, oom_score_adj},
    restart::ROUND_LABEL,
    security::security,
    signals,
    standing::{IMAGE_LABEL, LEVEL_LABEL, STOP_SIGNAL_LABEL},
    step::Launch,
    sysctls, unsupported,
};
use crate::{
    model::{ContainerId, ContainerName, DesiredPod, ImageInfo, Limits, ObservedPod, Target, spec as pod},
    runtime::{ContainerSpec, Mount, Propagation},
    volumes::SubPath,
};

/// Where a container's termination message goes by default.
const TERMINATION_PATH: &str = "/dev/termination-log";

/// Memory that the containers of a pod share; with `hostIPC` they share the node's.
const SHARED_MEMORY: &str = "/dev/shm";

/// Which attempt is launched, and how deep in back-off it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    /// From 0.
    pub number: u32,
    /// See [`LEVEL_LABEL`].
    pub level: u32,
    /// See [`ROUND_LABEL`].
    pub round: u32,
}

/// Composes the step, or says why the container cannot be configured (`CreateContainerConfigError`).
pub(super) fn launch(
    context: &Context<'_>,
    pod: &DesiredPod,
    seen: &ObservedPod,
    container: &Container,
    image: &ImageInfo,
    attempt: Attempt,
) -> Result<Launch, String> {
    let layout = &context.node.layout;
    let name = ContainerName::new(container.name.as_str());
    let target = Target {
        id: ContainerId::of(&pod.uid, &name, attempt.number),
        container: name.clone(),
        attempt: attempt.number,
    };
    let environment = env::environment(context, pod, seen, container)?;
    unsupported::refuse(pod, container, context.node)?;
    let stop_signal = signals::of_launch(container, image)?;
    let sysctls = sysctls::values(&pod.pod);
    let security = security(pod, container, image, layout)?;
    let (mounts, sub_paths) = mounts(context, pod, container, &name, attempt.number, &environment)?;
    let known = env::as_map(&environment);
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|argument| expand(argument, &known)).collect()
    };
    let spec = pod.pod.spec.as_ref();
    let host = |field: Option<bool>| field == Some(true);
    let (host_network, host_ipc, host_pid) = (
        pod::host_network(&pod.pod),
        host(spec.and_then(|spec| spec.host_ipc)),
        host(spec.and_then(|spec| spec.host_pid)),
    );
    let network = seen.network.as_ref();
    let limits = if context.node.enforced {
        container_amounts(spec, container).limits(None)
    } else {
        Limits::default()
    };
    let spec = ContainerSpec {
        id: target.id.clone(),
        pod_namespace: pod.name.namespace.to_string(),
        pod_name: pod.name.name.to_string(),
        image: image.local_name.clone(),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().filter(|path| !path.is_empty()),
        env: environment,
        mounts,
        user: security.user,
        group: security.group,
        run_as_non_root: security.run_as_non_root,
        extra_groups: security.extra_groups,
        add_capabilities: security.add_capabilities,
        drop_capabilities: security.drop_capabilities,
        privileged: security.privileged,
        allow_privilege_escalation: security.allow_privilege_escalation,
        read_only_root: security.read_only_root,
        seccomp: security.seccomp,
        netns: network.filter(|_| !host_network).map(|network| network.netns.clone()),
        ipcns: network.filter(|_| !host_ipc).map(|network| network.ipcns.clone()),
        utsns: network.filter(|_| !host_network).map(|network| network.utsns.clone()),
        // Filled by `apply` from the cgroup port, the only one that knows where the tree is rooted.
        cgroup: String::new(),
        limits,
        oom_score_adj: oom_score_adj(&pod.pod, container, context.node.memory_capacity)
            .max(context.node.oom_floor),
        log_path: layout.container_log(&pod.name, &pod.uid, &name, attempt.number),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        handler: spec.and_then(|spec| spec.runtime_class_name.clone()).filter(|name| !name.is_empty()),
        sysctls,
        host_pid,
        labels: BTreeMap::from([
            (IMAGE_LABEL.to_owned(), container.image.clone().unwrap_or_default()),
            (LEVEL_LABEL.to_owned(), attempt.level.to_string()),
            (ROUND_LABEL.to_owned(), attempt.round.to_string()),
            (STOP_SIGNAL_LABEL.to_owned(), stop_signal.to_string()),
        ]),
    };
    let shared_memory = spec.mounts.iter().any(|mount| mount.source == layout.shared_memory(&pod.uid));
    Ok(Launch { target, spec, files: pod_files(context, pod, seen), sub_paths, shared_memory })
}

type Mounts = (Vec<Mount>, Vec<SubPath>);

fn mounts(
    context: &Context<'_>,
    pod: &DesiredPod,
    container: &Container,
    name: &ContainerName,
    attempt: u32,
    environment: &Environment,
) -> Result<Mounts, String> {
    let layout = &context.node.layout;
    let (mut mounts, mut sub_paths) = (Vec::new(), Vec::new());
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let root = source(context, pod, &mount.name).ok_or_else(|| {
            format!("volume {:?} of volumeMount {:?} is not defined", mount.name, mount.mount_path)
        })?;
        let source = match sub_path(mount, environment)? {
            None => root,
            Some(path) => {
                sub_paths.push(SubPath { root, path, container: name.clone(), index });
                layout.sub_path(&pod.uid, name, index)
            }
        };
        let target = if mount.mount_path.starts_with('/') {
            mount.mount_path.clone()
        } else {
            format!("/{}", mount.mount_path)
        };
        let read_only = mount.read_only == Some(true) || always_read_only(pod, &mount.name);
        mounts.push(Mount { source, target, read_only, propagation: propagation(mount) });
    }
    let mut add = |target: &str, source: PathBuf| {
        if !mounts.iter().any(|mount| mount.target == target) {
            let propagation = Propagation::None;
            mounts.push(Mount { source, target: target.to_owned(), read_only: false, propagation });
        }
    };
    for (target, file) in
        [("/etc/hosts", "hosts"), ("/etc/hostname", "hostname"), ("/etc/resolv.conf", "resolv.conf")]
    {
        add(target, layout.pod_file(&pod.uid, file));
    }
    let host_ipc = pod.pod.spec.as_ref().and_then(|spec| spec.host_ipc) == Some(true);
    add(SHARED_MEMORY, if host_ipc { PathBuf::from(SHARED_MEMORY) } else { layout.shared_memory(&pod.uid) });
    let message_path = container.termination_message_path.as_deref().filter(|path| !path.is_empty());
    add(message_path.unwrap_or(TERMINATION_PATH), layout.termination_log(&pod.uid, name, attempt));
    // A mount below another must come after it, or it would be hidden.
    mounts.sort_by_key(|mount| mount.target.split('/').filter(|part| !part.is_empty()).count());
    Ok((mounts, sub_paths))
}

fn volume<'a>(pod: &'a DesiredPod, name: &str) -> Option<&'a Volume> {
    pod.pod.spec.as_ref()?.volumes.iter().flatten().find(|volume| volume.name == name)
}

fn source(context: &Context<'_>, pod: &DesiredPod, name: &str) -> Option<PathBuf> {
    let volume = volume(pod, name)?;
    Some(match &volume.host_path {
        Some(host_path) => PathBuf::from(&host_path.path),
        None => context.node.layout.volume_dir(&pod.uid, name),
    })
}

fn propagation(mount: &VolumeMount) -> Propagation {
    match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => Propagation::HostToContainer,
        Some("Bidirectional") => Propagation::Bidirectional,
        _ => Propagation::None,
    }
}

/// Projected content is the agent's to write, as upstream has it.
fn always_read_only(pod: &DesiredPod, name: &str) -> bool {
    volume(pod, name).is_some_and(|volume| {
        volume.config_map.is_some()
            || volume.secret.is_some()
            || volume.downward_api.is_some()
            || volume.projected.is_some()
    })
}

fn sub_path(mount: &VolumeMount, environment: &Environment) -> Result<Option<String>, String> {
    let plain = mount.sub_path.as_deref().filter(|path| !path.is_empty());
    let path = match mount.sub_path_expr.as_deref().filter(|path| !path.is_empty()) {
        Some(expression) => {
            let path = expand(expression, &env::as_map(environment));
            if path.contains("$(") {
                return Err(format!("missing value for subPathExpr {expression:?}"));
            }
            path
        }
        None => match plain {
            Some(path) => path.to_owned(),
            None => return Ok(None),
        },
    };
    if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(format!("subPath {path:?} must be a relative path without '..'"));
    }
    Ok(Some(path))
}
