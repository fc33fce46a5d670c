//! What a pod may ask for and this node does not do. To run it all the same, with less isolation or other behaviour
//! than it was promised, would be worse than to say so (`CreateContainerConfigError`).

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{AppArmorProfile, Container, PodSecurityContext, SecurityContext};

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
    host_ports(container, spec.is_some_and(|spec| spec.host_network == Some(true)))?;
    mounts(container)
}

/// In the node's own network the container listens there itself.
fn host_ports(container: &Container, host_network: bool) -> Result<(), String> {
    for port in
        container.ports.iter().flatten().filter(|port| !host_network && port.host_port.unwrap_or(0) != 0)
    {
        let at = port.host_ip.as_deref().filter(|text| !text.is_empty());
        let at = at.map(|text| text.parse::<IpAddr>().map_err(|_| format!("hostIP {text:?} is no address")));
        match port.protocol.as_deref() {
            None | Some("TCP" | "UDP") => {}
            Some(other) => {
                return Err(format!(
                    "hostPort of protocol {other} is not supported by this node: use hostNetwork"
                ));
            }
        }
        if let Some(ip) = at.transpose()?.filter(|ip| ip.is_ipv6() && !ip.is_unspecified()) {
            return Err(format!("hostIP {ip} is not supported by this node: it has IPv4 pods only"));
        }
    }
    Ok(())
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
        if mount.recursive_read_only.as_deref() == Some("Enabled") {
            let name = &mount.name;
            return Err(format!(
                "recursiveReadOnly Enabled of volumeMount {name:?} is not supported by this node: use IfPossible"
            ));
        }
    }
    Ok(())
}
