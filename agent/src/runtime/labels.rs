//! The facts about a container that containerd keeps for us as labels: who it is, and what became of it. They
//! survive the agent, the shim, containerd and the machine's restart.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::{ContainerId, ContainerSpec};

// Labels that other tools know already.
const POD_NAME: &str = "io.kubernetes.pod.name";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Also what the observation of one pod filters by.
pub(super) const POD_UID: &str = "io.kubernetes.pod.uid";
const CONTAINER: &str = "io.kubernetes.container.name";

/// Our [`ContainerId`]: containerd's own is shorter for long names.
pub(super) const ID: &str = "gantry.dev/id";
/// `repository@digest` at creation.
pub(super) const IMAGE_ID: &str = "gantry.dev/image-id";
/// The attempt's log file.
pub const LOG: &str = "gantry.dev/log";
/// `true` or absent: the first client that attaches to the input ends it.
pub const STDIN_ONCE: &str = "gantry.dev/stdin-once";
/// Below the cgroup mount.
pub(super) const CGROUP: &str = "gantry.dev/cgroup";
/// Unix milliseconds; absent before the start.
pub(super) const STARTED: &str = "gantry.dev/started-ms";
/// Its first process on the node: says whether it lives when its shim does not answer. Absent before the start.
pub(super) const PID: &str = "gantry.dev/pid";
/// The boot it was made in.
pub(super) const BOOT: &str = "gantry.dev/boot-id";
/// Unix milliseconds; set with the exit code.
pub(super) const FINISHED: &str = "gantry.dev/finished-ms";
/// As in the pod's status.
pub(super) const EXIT_CODE: &str = "gantry.dev/exit-code";
/// `true` or absent.
pub(super) const OOM_KILLED: &str = "gantry.dev/oom-killed";
/// Why the container could not be started (`StartError`). Its state is then `Exited` with code 128.
pub const START_ERROR: &str = "gantry.dev/start-error";

/// containerd allows a label's name and value 4096 bytes together.
const MAX_VALUE: usize = 3072;

/// What identifies the container.
pub(super) fn of(spec: &ContainerSpec, image_id: &str, boot: &str) -> HashMap<String, String> {
    let mut labels: HashMap<_, _> = spec.labels.clone().into_iter().collect();
    labels.extend([
        (ID.to_owned(), spec.id.to_string()),
        (POD_NAMESPACE.to_owned(), spec.pod_namespace.clone()),
        (POD_NAME.to_owned(), spec.pod_name.clone()),
        (IMAGE_ID.to_owned(), image_id.to_owned()),
        (BOOT.to_owned(), boot.to_owned()),
        (CGROUP.to_owned(), super::spec::cgroup(spec)),
        (LOG.to_owned(), spec.log_path.to_string_lossy().into_owned()),
    ]);
    if spec.stdin_once {
        labels.insert(STDIN_ONCE.to_owned(), "true".to_owned());
    }
    if let Some((pod, container, _)) = spec.id.parts() {
        labels.insert(POD_UID.to_owned(), pod.to_string());
        labels.insert(CONTAINER.to_owned(), container.to_string());
    }
    labels
}

/// Cut at a character so that the label fits.
pub(super) fn fitting(value: &str) -> String {
    let end = (0..=MAX_VALUE.min(value.len())).rev().find(|&i| value.is_char_boundary(i)).unwrap_or(0);
    value[..end].to_owned()
}

/// containerd's id of a container: ours, or a digest in its place where containerd's rules (76 characters, no two
/// separators in a row) do not allow the container's name.
pub(super) fn native_id(id: &ContainerId) -> String {
    let text = id.as_str();
    let separators = |pair: &[u8]| pair.iter().all(|b| !b.is_ascii_alphanumeric());
    if text.len() <= 76 && !text.as_bytes().windows(2).any(separators) {
        return text.to_owned();
    }
    format!("x{:x}", Sha256::digest(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_ids_are_kept() {
        let id = ContainerId::new("0b6f0f3e-8f0e-4d6a-9a52-0a4d2f9a3f77.web.0");
        assert_eq!(native_id(&id), id.as_str());
    }

    #[test]
    fn ids_that_containerd_refuses_become_digests() {
        for container in ["a--b", &"n".repeat(63)] {
            let id = format!("0b6f0f3e-8f0e-4d6a-9a52-0a4d2f9a3f77.{container}.0");
            let native = native_id(&ContainerId::new(id));
            assert!(native.len() <= 76 && native.bytes().all(|b| b.is_ascii_alphanumeric()), "{native}");
        }
    }

    #[test]
    fn long_messages_are_cut_at_a_character() {
        let text = "ä".repeat(4000);
        let cut = fitting(&text);
        assert!(cut.len() <= MAX_VALUE && text.starts_with(&cut));
    }
}
