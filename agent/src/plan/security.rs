//! Pod and container security contexts into what the runtime is told, container before pod. Refusals carry
//! upstream's text and show under `CreateContainerConfigError`.

use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SeccompProfile, SecurityContext};

use crate::{
    model::{DesiredPod, ImageInfo, Layout, spec::formatted},
    runtime::Seccomp,
};

/// The security part of a container's specification.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Security {
    /// See `ContainerSpec`.
    pub user: Option<u32>,
    /// See `ContainerSpec`.
    pub group: Option<u32>,
    /// See `ContainerSpec`.
    pub run_as_non_root: bool,
    /// See `ContainerSpec`.
    pub extra_groups: Vec<u32>,
    /// See `ContainerSpec`.
    pub add_capabilities: Vec<String>,
    /// See `ContainerSpec`.
    pub drop_capabilities: Vec<String>,
    /// See `ContainerSpec`.
    pub privileged: bool,
    /// See `ContainerSpec`.
    pub allow_privilege_escalation: bool,
    /// See `ContainerSpec`.
    pub read_only_root: bool,
    /// See `ContainerSpec`.
    pub seccomp: Seccomp,
}

/// `fsGroup`, which volumes belong to.
pub(super) fn fs_group(pod: &Pod) -> Option<u32> {
    pod.spec.as_ref()?.security_context.as_ref()?.fs_group.and_then(|group| u32::try_from(group).ok())
}

/// Joins both contexts and checks runAsNonRoot against the image.
pub(super) fn security(
    pod: &DesiredPod,
    container: &Container,
    image: &ImageInfo,
    layout: &Layout,
) -> Result<Security, String> {
    let default_pod = PodSecurityContext::default();
    let default_own = SecurityContext::default();
    let spec = pod.pod.spec.as_ref();
    let outer = spec.and_then(|spec| spec.security_context.as_ref()).unwrap_or(&default_pod);
    let own = container.security_context.as_ref().unwrap_or(&default_own);
    let user = own.run_as_user.or(outer.run_as_user).map(|user| id("runAsUser", user)).transpose()?;
    let group = own.run_as_group.or(outer.run_as_group).map(|group| id("runAsGroup", group)).transpose()?;
    let run_as_non_root = own.run_as_non_root.or(outer.run_as_non_root).unwrap_or(false);
    if run_as_non_root {
        verify_non_root(pod, container, user, image)?;
    }
    let privileged = own.privileged.unwrap_or(false);
    let capabilities = own.capabilities.clone().unwrap_or_default();
    let fs_group = outer.fs_group.iter().map(|group| id("fsGroup", *group));
    let supplemental =
        outer.supplemental_groups.iter().flatten().map(|group| id("supplementalGroups", *group));
    let mut extra_groups = fs_group.chain(supplemental).collect::<Result<Vec<u32>, _>>()?;
    extra_groups.sort_unstable();
    extra_groups.dedup();
    Ok(Security {
        user,
        group,
        run_as_non_root,
        extra_groups,
        add_capabilities: names(capabilities.add),
        drop_capabilities: names(capabilities.drop),
        privileged,
        allow_privilege_escalation: privileged || own.allow_privilege_escalation.unwrap_or(true),
        read_only_root: own.read_only_root_filesystem.unwrap_or(false),
        seccomp: if privileged {
            Seccomp::Unconfined
        } else {
            seccomp(own.seccomp_profile.as_ref().or(outer.seccomp_profile.as_ref()), layout)
        },
    })
}

/// What is no id must not be taken for none: the image's own may be root's.
fn id(field: &str, value: i64) -> Result<u32, String> {
    u32::try_from(value).map_err(|_| format!("{field} {value} is no id"))
}

fn names(list: Option<Vec<String>>) -> Vec<String> {
    let plain = |name: String| name.strip_prefix("CAP_").map(str::to_owned).unwrap_or(name);
    list.unwrap_or_default().into_iter().map(plain).collect()
}

/// Without a profile the built-in default confines: it costs nothing and its absence is never meant.
fn seccomp(profile: Option<&SeccompProfile>, layout: &Layout) -> Seccomp {
    match profile.map(|profile| (profile.type_.as_str(), profile.localhost_profile.as_deref())) {
        Some(("Unconfined", _)) => Seccomp::Unconfined,
        Some(("Localhost", Some(path))) => Seccomp::Localhost(layout.state_dir.join("seccomp").join(path)),
        _ => Seccomp::RuntimeDefault,
    }
}

fn verify_non_root(
    pod: &DesiredPod,
    container: &Container,
    user: Option<u32>,
    image: &ImageInfo,
) -> Result<(), String> {
    let whose = format!("(pod: {:?}, container: {})", formatted(pod), container.name);
    match user {
        Some(0) => return Err(format!("container's runAsUser breaks non-root policy {whose}")),
        Some(_) => return Ok(()),
        None => {}
    }
    let name = image.user.split(':').next().unwrap_or_default();
    match name.parse::<u32>() {
        Ok(0) => Err(format!("container has runAsNonRoot and image will run as root {whose}")),
        Ok(_) => Ok(()),
        Err(_) if name.is_empty() => {
            Err(format!("container has runAsNonRoot and image will run as root {whose}"))
        }
        Err(_) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {whose}"
        )),
    }
}
