//! What a pod may ask for and this node does not do. To run it all the same, with less isolation or other behaviour
//! than it was promised, would be worse than to say so (`CreateContainerConfigError`).

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, ContainerPort, PodSecurityContext, SecurityContext,
};

use crate::model::{DesiredPod, NodeView};

/// Annotations that asked for an AppArmor profile before there was a field; the container's name follows.
const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// The first thing that cannot be had, with what to do.
pub(super) fn refuse(pod: &DesiredPod, container: &Container, node: &NodeView) -> Result<(), String> {
    let (no_pod, no_own) = (PodSecurityContext::default(), SecurityContext::default());
    let spec = pod.pod.spec.as_ref();
    let outer = spec.and_then(|spec| spec.security_context.as_ref()).unwrap_or(&no_pod);
    let own = container.security_context.as_ref().unwrap_or(&no_own);
    let not = |wrong: bool, message: &str| if wrong { Err(message.to_owned()) } else { Ok(()) };
    not(
        spec.is_some_and(|spec| spec.host_users == Some(false)),
        "hostUsers: false is not supported by this node: it makes no user namespaces",
    )?;
    not(
        spec.is_some_and(|spec| spec.share_process_namespace == Some(true)),
        "shareProcessNamespace is not supported by this node: use hostPID, or exec into the container",
    )?;
    not(
        spec.and_then(|spec| spec.os.as_ref()).is_some_and(|os| os.name != "linux"),
        "os.name is not that of this node: it runs linux",
    )?;
    not(
        outer.supplemental_groups_policy.as_deref().is_some_and(|policy| policy != "Merge"),
        "supplementalGroupsPolicy Strict is not supported by this node: use Merge",
    )?;
    not(
        own.proc_mount.as_deref().is_some_and(|kind| kind != "Default"),
        "procMount Unmasked is not supported by this node: use Default",
    )?;
    not(
        container.volume_devices.as_ref().is_some_and(|devices| !devices.is_empty()),
        "volumeDevices are not supported by this node",
    )?;
    apparmor(own.app_armor_profile.as_ref().or(outer.app_armor_profile.as_ref()), node)?;
    let annotation = pod.pod.metadata.annotations.iter().flatten().find_map(|(name, value)| {
        (name.strip_prefix(APPARMOR_ANNOTATION)? == container.name).then_some(value.as_str())
    });
    not(
        annotation.is_some_and(|value| value.starts_with("localhost/")),
        "AppArmor profile Localhost is not supported by this node",
    )?;
    // In the node's own network the container listens there itself.
    let host_network = spec.is_some_and(|spec| spec.host_network == Some(true));
    let asks_for_port = |port: &ContainerPort| port.host_port.is_some_and(|port| port != 0);
    not(
        !host_network && container.ports.iter().flatten().any(asks_for_port),
        "hostPort is not supported by this node: use a Service of type NodePort, or hostNetwork",
    )?;
    mounts(container)
}

fn apparmor(profile: Option<&AppArmorProfile>, node: &NodeView) -> Result<(), String> {
    match profile.map(|profile| profile.type_.as_str()) {
        None | Some("Unconfined") => Ok(()),
        // There is nothing that could confine it, which is what upstream makes of it there.
        Some("RuntimeDefault") if !node.apparmor => Ok(()),
        Some(other) => Err(format!("AppArmor profile {other} is not supported by this node: use Unconfined")),
    }
}

fn mounts(container: &Container) -> Result<(), String> {
    for mount in container.volume_mounts.iter().flatten() {
        if let Some(other) = mount.mount_propagation.as_deref().filter(|kind| *kind != "None") {
            let name = &mount.name;
            return Err(format!(
                "mountPropagation {other} of volumeMount {name:?} is not supported by this node: use None"
            ));
        }
        if mount.recursive_read_only.as_deref() == Some("Enabled") {
            let name = &mount.name;
            return Err(format!(
                "recursiveReadOnly Enabled of volumeMount {name:?} is not supported by this node: use IfPossible"
            ));
        }
    }
    Ok(())
}
