//! Small questions about a pod's specification that several modules ask.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::{ContainerName, DesiredPod};

/// `metadata.deletionGracePeriodSeconds` when none is given anywhere.
const DEFAULT_GRACE_SECONDS: i64 = 30;

/// A restartable init container.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// `spec.restartPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Whatever its exit code was.
    Always,
    /// When it failed.
    OnFailure,
    /// Not at all.
    Never,
}

/// The pod's policy for its regular containers.
pub fn restart_policy(spec: &PodSpec) -> RestartPolicy {
    match spec.restart_policy.as_deref() {
        Some("Never") => RestartPolicy::Never,
        Some("OnFailure") => RestartPolicy::OnFailure,
        _ => RestartPolicy::Always,
    }
}

/// The policy that holds for this very container.
pub fn container_policy(spec: &PodSpec, container: &Container, init: bool) -> RestartPolicy {
    match (init, restart_policy(spec)) {
        (true, _) if is_sidecar(container) => RestartPolicy::Always,
        // An init container that succeeded is done whatever the policy.
        (true, RestartPolicy::Always) => RestartPolicy::OnFailure,
        (_, policy) => policy,
    }
}

/// Regular containers, then init containers, with whether it is one of the latter.
pub fn all_containers(spec: &PodSpec) -> impl Iterator<Item = (&Container, bool)> {
    let init = spec.init_containers.iter().flatten().map(|container| (container, true));
    spec.containers.iter().map(|container| (container, false)).chain(init)
}

/// The containers that run side by side: sidecars and regular ones.
pub fn restartable_and_main(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().filter(|container| is_sidecar(container)).chain(&spec.containers)
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
pub fn deleted(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// How long its containers may take to end, in milliseconds.
pub fn grace_ms(pod: &Pod) -> i64 {
    let spec = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    let deletion = deleted(pod).then_some(pod.metadata.deletion_grace_period_seconds).flatten();
    deletion.or(spec).unwrap_or(DEFAULT_GRACE_SECONDS).max(0).saturating_mul(1000)
}

/// What a pod is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodHost {
    /// Its short name.
    pub name: String,
    /// The domain below which the short name is known.
    pub domain: Option<String>,
}

/// `hostnameOverride`, or `hostname`, or the pod's name; with a `subdomain` known below it, unless overridden.
pub fn host(pod: &DesiredPod, cluster_domain: &str) -> PodHost {
    let spec = pod.pod.spec.as_ref();
    let given = |field: fn(&PodSpec) -> &Option<String>| spec.and_then(|spec| field(spec).clone());
    let over = given(|spec| &spec.hostname_override);
    let subdomain = given(|spec| &spec.subdomain).filter(|name| !name.is_empty() && over.is_none());
    let own = || given(|spec| &spec.hostname).filter(|name| !name.is_empty());
    let mut name = over.or_else(own).unwrap_or_else(|| pod.name.name.to_string());
    // The kernel takes 63 characters; upstream cuts and drops what may not end a name.
    name.truncate(63);
    PodHost {
        name: name.trim_end_matches(['-', '.']).to_owned(),
        domain: subdomain.map(|subdomain| format!("{subdomain}.{}.svc.{cluster_domain}", pod.name.namespace)),
    }
}

/// Longest name that the kernel takes.
const MAX_KERNEL_NAME: usize = 64;

/// The name that the kernel has for the pod, or why there is none (upstream's words).
pub fn kernel_name(pod: &DesiredPod, cluster_domain: &str) -> Result<String, String> {
    let PodHost { name, domain } = host(pod, cluster_domain);
    let whole = pod.pod.spec.as_ref().and_then(|spec| spec.set_hostname_as_fqdn) == Some(true);
    let Some(domain) = domain.filter(|_| whole) else { return Ok(name) };
    let fqdn = format!("{name}.{domain}");
    if fqdn.len() > MAX_KERNEL_NAME {
        return Err(format!(
            "Failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long \
             ({MAX_KERNEL_NAME} is the max, {} characters requested)",
            fqdn.len()
        ));
    }
    Ok(fqdn)
}

/// What its containers find as their host name. One that is too long keeps the pod from getting its network, and so its
/// containers from asking.
pub fn name_of(pod: &DesiredPod, cluster_domain: &str) -> String {
    kernel_name(pod, cluster_domain).unwrap_or_else(|_| host(pod, cluster_domain).name)
}

/// `spec.hostNetwork`.
pub fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
}

/// The pull policy, with upstream's default by tag where the API server set none.
pub fn pull_policy(container: &Container) -> &str {
    if let Some(policy) = container.image_pull_policy.as_deref() {
        return policy;
    }
    let image = container.image.as_deref().unwrap_or_default();
    let after_slash = image.rsplit('/').next().unwrap_or(image);
    let latest = !image.contains('@') && (!after_slash.contains(':') || after_slash.ends_with(":latest"));
    if latest { "Always" } else { "IfNotPresent" }
}
