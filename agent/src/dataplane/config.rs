//! Where the datapath attaches and how large its tables are.

use std::path::PathBuf;

/// Settings of the datapath; already validated by the configuration file's reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataplaneConfig {
    /// A directory on a bpf file system, for this agent alone: pins of programs, maps and links.
    pub pins: PathBuf,
    /// The cgroup v2 directory under which connects are translated: all pods and the node's own processes.
    pub cgroup: PathBuf,
    /// The interface by which the node is reached at first; `None`: no NodePort from outside until
    /// [`super::Dataplane::set_uplink`] names one.
    pub uplink: Option<String>,
    /// Translate TCP of pods at connect. Off for meshes that redirect by service address: pods then go through
    /// the packet path.
    pub pod_sockets: bool,
    /// How the packet path is attached.
    pub tc: TcAttachment,
    /// Sizes.
    pub sizes: TableSizes,
}

#[cfg(test)]
impl DataplaneConfig {
    /// Small tables pinned below a scratch directory, which is no cgroup and has no uplink: nothing is attached.
    pub(super) fn scratch(directory: &std::path::Path) -> Self {
        Self {
            pins: directory.join("bpf"),
            cgroup: directory.to_owned(),
            uplink: None,
            pod_sockets: true,
            tc: TcAttachment::default(),
            sizes: TableSizes { frontends: 1024, backends: 8192, affinity: 4096, flows: 4096, pods: 64 },
        }
    }
}

/// How programs get to an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TcAttachment {
    /// By links where the kernel has them for tc, since Linux 6.6; else by filters.
    #[default]
    Newest,
    /// By clsact filters, also where there are links: what older kernels do can then be seen on newer ones.
    Filters,
}

/// Entries per table. The maps are allocated at start; memory is about 64 bytes an entry, 100 for each of the two tables
/// of `flows`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSizes {
    /// Service ports, times the addresses they answer on.
    pub frontends: u32,
    /// Endpoints over all service ports.
    pub backends: u32,
    /// Clients remembered by session affinity.
    pub affinity: u32,
    /// Flows of the packet path, two entries each: TCP, and as many again of UDP.
    pub flows: u32,
    /// Pods on this node.
    pub pods: u32,
}

impl Default for TableSizes {
    fn default() -> Self {
        // Room for 20,000 service ports with NodePorts; Cilium and Calico ship the same order of magnitude.
        Self { frontends: 65_536, backends: 131_072, affinity: 65_536, flows: 131_072, pods: 1024 }
    }
}
