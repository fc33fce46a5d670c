//! What the node says of itself: once per session (facts) and with every heartbeat (vitals).

use std::collections::BTreeMap;

use super::{ContainerName, PodUid};

/// What kubectl shows of the machine. Quantities are Kubernetes strings (`2`, `16Gi`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// `cpu`, `memory`, `pods`, `ephemeral-storage`.
    pub capacity: BTreeMap<String, String>,
    /// What of it pods may have.
    pub allocatable: BTreeMap<String, String>,
    /// `kubernetes.io/hostname`, `kubernetes.io/arch`, `kubernetes.io/os`, and those of the configuration.
    pub labels: BTreeMap<String, String>,
    /// Registered once, when the Node object is created.
    pub taints: Vec<NodeTaint>,
    /// Type (`InternalIP`, `ExternalIP`, `Hostname`) and address.
    pub addresses: Vec<(String, String)>,
    /// `6.1.0-13-amd64`
    pub kernel_version: String,
    /// `Debian GNU/Linux 12 (bookworm)`
    pub os_image: String,
    /// `containerd://1.6.20`
    pub container_runtime: String,
    /// `amd64`
    pub architecture: String,
    /// `/etc/machine-id`
    pub machine_id: String,
    /// `/proc/sys/kernel/random/boot_id`
    pub boot_id: String,
    /// As in [`Vitals`].
    pub conditions: Vec<NodeCondition>,
    /// Where metrics and health are served; `None`: nowhere.
    pub kubelet_port: Option<u16>,
}

/// A taint of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeTaint {
    /// Key.
    pub key: String,
    /// Value, mostly empty.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule`, `NoExecute`.
    pub effect: String,
}

/// A condition of the node besides Ready, or Ready itself when the node must not get pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeCondition {
    /// `MemoryPressure`, `LimitsEnforced`, ...
    pub kind: String,
    /// `True`, `False`, `Unknown`.
    pub status: String,
    /// One word in CamelCase.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// What goes with a heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vitals {
    /// Conditions as they are now.
    pub conditions: Vec<NodeCondition>,
    /// The whole node; `None` when it cannot be read.
    pub node: Option<NodeUsage>,
    /// Containers that run.
    pub containers: Vec<ContainerUsage>,
    /// Images present on the node.
    pub images: Vec<String>,
}

/// Usage of the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeUsage {
    /// Cumulative CPU time.
    pub cpu_nano_seconds: u64,
    /// Working set.
    pub memory_working_set_bytes: u64,
    /// When it was read (Unix milliseconds).
    pub time_ms: i64,
}

/// Usage of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerUsage {
    /// Its pod.
    pub pod: PodUid,
    /// Its name.
    pub container: ContainerName,
    /// CPU time since the container started.
    pub cpu_nano_seconds: u64,
    /// Working set.
    pub memory_working_set_bytes: u64,
    /// When it was read (Unix milliseconds).
    pub time_ms: i64,
}
