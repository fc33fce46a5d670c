//! Small questions about a pod's specification that several parts of the plan ask.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use crate::model::{ContainerName, DesiredPod};

/// `metadata.deletionGracePeriodSeconds` when none is given anywhere.
const DEFAULT_GRACE_SECONDS: i64 = 30;

/// A restartable init container.
pub(super) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// `spec.restartPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RestartPolicy {
    /// Whatever its exit code was.
    Always,
    /// When it failed.
    OnFailure,
    /// Not at all.
    Never,
}

/// The pod's policy for its regular containers.
pub(super) fn restart_policy(spec: &PodSpec) -> RestartPolicy {
    match spec.restart_policy.as_deref() {
        Some("Never") => RestartPolicy::Never,
        Some("OnFailure") => RestartPolicy::OnFailure,
        _ => RestartPolicy::Always,
    }
}

/// The policy that holds for this very container.
pub(super) fn container_policy(spec: &PodSpec, container: &Container, init: bool) -> RestartPolicy {
    match (init, restart_policy(spec)) {
        (true, _) if is_sidecar(container) => RestartPolicy::Always,
        // An init container that succeeded is done whatever the policy.
        (true, RestartPolicy::Always) => RestartPolicy::OnFailure,
        (_, policy) => policy,
    }
}

/// Regular containers, then init containers, with whether it is one of the latter.
pub(super) fn all_containers(spec: &PodSpec) -> impl Iterator<Item = (&Container, bool)> {
    let init = spec.init_containers.iter().flatten().map(|container| (container, true));
    spec.containers.iter().map(|container| (container, false)).chain(init)
}

/// The container of this name.
pub fn find<'a>(spec: &'a PodSpec, name: &ContainerName) -> Option<&'a Container> {
    all_containers(spec).map(|(container, _)| container).find(|container| container.name == name.as_str())
}

/// `name_namespace(uid)`, as upstream writes a pod in messages.
pub fn formatted(pod: &DesiredPod) -> String {
    format!("{}_{}({})", pod.name.name, pod.name.namespace, pod.uid)
}

/// The pod is to go.
pub(super) fn deleted(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// How long its containers may take to end, in milliseconds.
pub fn grace_ms(pod: &Pod) -> i64 {
    let spec = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    let deletion = deleted(pod).then_some(pod.metadata.deletion_grace_period_seconds).flatten();
    deletion.or(spec).unwrap_or(DEFAULT_GRACE_SECONDS).max(0).saturating_mul(1000)
}

/// The host name its containers see.
pub(super) fn hostname(pod: &DesiredPod) -> String {
    let name = pod.pod.spec.as_ref().and_then(|spec| spec.hostname.clone());
    let mut name = name.unwrap_or_else(|| pod.name.name.to_string());
    // The kernel takes 63 characters; upstream cuts and drops what may not end a name.
    name.truncate(63);
    name.trim_end_matches(['-', '.']).to_owned()
}

/// `spec.hostNetwork`.
pub fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
}

/// The pull policy, with upstream's default by tag where the API server set none.
pub(super) fn pull_policy(container: &Container) -> &str {
    if let Some(policy) = container.image_pull_policy.as_deref() {
        return policy;
    }
    let image = container.image.as_deref().unwrap_or_default();
    let after_slash = image.rsplit('/').next().unwrap_or(image);
    let latest = !image.contains('@') && (!after_slash.contains(':') || after_slash.ends_with(":latest"));
    if latest { "Always" } else { "IfNotPresent" }
}
