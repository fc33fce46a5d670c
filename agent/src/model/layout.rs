//! Where the agent keeps things on the node. Several agents on one host have several layouts; nothing outside
//! of this file composes such a path.

use std::path::PathBuf;

use super::{ContainerName, PodName, PodUid};

/// The three directories of the configuration, and every path below them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Survives a reboot: ledger, pod records, emptyDir volumes, config maps.
    pub state_dir: PathBuf,
    /// Emptied by a reboot, as the processes are: pinned namespaces, shared memory.
    pub run_dir: PathBuf,
    /// Container logs.
    pub log_dir: PathBuf,
}

impl Layout {
    /// Directory of all pods' lasting files.
    pub fn pods_dir(&self) -> PathBuf {
        self.state_dir.join("pods")
    }

    /// A pod's lasting files.
    pub fn pod_dir(&self, pod: &PodUid) -> PathBuf {
        self.pods_dir().join(pod.as_str())
    }

    /// A volume of a pod.
    pub fn volume_dir(&self, pod: &PodUid, volume: &str) -> PathBuf {
        self.pod_dir(pod).join("volumes").join(volume)
    }

    /// Bind mounts of sub paths, one directory per container.
    pub fn sub_path(&self, pod: &PodUid, container: &ContainerName, index: usize) -> PathBuf {
        self.pod_dir(pod).join("subpaths").join(container.as_str()).join(index.to_string())
    }

    /// A file the agent writes for a pod: `hosts`, `hostname`, `resolv.conf`.
    pub fn pod_file(&self, pod: &PodUid, name: &str) -> PathBuf {
        self.pod_dir(pod).join("etc").join(name)
    }

    /// The termination message file of one attempt.
    pub fn termination_log(&self, pod: &PodUid, container: &ContainerName, attempt: u32) -> PathBuf {
        self.pod_dir(pod).join("containers").join(container.as_str()).join(attempt.to_string())
    }

    /// What the agent has made for good of a pod's volumes: an empty file for each.
    pub fn made_volume(&self, pod: &PodUid, volume: &str) -> PathBuf {
        self.pod_dir(pod).join("made").join(volume)
    }

    /// Shared memory of all pods.
    pub fn shared_memory_dir(&self) -> PathBuf {
        self.run_dir.join("shm")
    }

    /// What the containers of a pod have as /dev/shm.
    pub fn shared_memory(&self, pod: &PodUid) -> PathBuf {
        self.shared_memory_dir().join(pod.as_str())
    }

    /// Directory of the pod records: that a pod has ended must survive a reboot.
    pub fn records_dir(&self) -> PathBuf {
        self.state_dir.join("records")
    }

    /// Pinned namespaces, one directory per pod.
    pub fn namespaces_dir(&self) -> PathBuf {
        self.run_dir.join("namespaces")
    }

    /// Ports of the node that the agent reserved.
    pub fn reserved_ports_file(&self) -> PathBuf {
        self.run_dir.join("reserved-ports")
    }

    /// Which pod has which address, and which addresses rest after use.
    pub fn addresses_file(&self) -> PathBuf {
        self.state_dir.join("addresses.json")
    }

    /// A pod's log directory, named as upstream names it: log collectors parse it.
    pub fn pod_log_dir(&self, name: &PodName, pod: &PodUid) -> PathBuf {
        self.log_dir.join(format!("{}_{}_{pod}", name.namespace, name.name))
    }

    /// The log of one attempt.
    pub fn container_log(
        &self,
        name: &PodName,
        pod: &PodUid,
        container: &ContainerName,
        attempt: u32,
    ) -> PathBuf {
        self.pod_log_dir(name, pod).join(container.as_str()).join(format!("{attempt}.log"))
    }
}
