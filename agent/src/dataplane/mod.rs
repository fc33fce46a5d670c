//! The user side of the eBPF datapath: loads and attaches programs, owns pins and maps, publishes the service
//! table by the insert-only protocol. What it publishes survives the agent: programs and maps are pinned.

mod alloc;
mod config;
mod endpoints;
mod grace;
mod kernel;
mod links;
mod loader;
mod maps;
#[cfg(any(test, feature = "testing"))]
#[cfg_attr(not(test), expect(dead_code, reason = "kills and readers are for the tests of the table itself"))]
mod memory;
#[cfg(any(test, feature = "testing"))]
mod memory_node;
mod pods;
mod snapshot;
mod table;

use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::{net::IpAddr, path::Path};

use crate::model::{NodeName, PodAddresses, PodUid, ServiceId, ServiceTable};

#[cfg(any(test, feature = "testing"))]
pub use self::memory_node::MemoryDataplane;
pub use self::{
    config::{DataplaneConfig, TableSizes, TcAttachment},
    kernel::EbpfDataplane,
    loader::SetupError,
    snapshot::Snapshot,
    table::Fill,
};
pub(crate) use endpoints::unserved;

/// Failure of the datapath.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// A program or map could not be loaded, pinned or attached.
    #[error("datapath: cannot {operation} {subject}")]
    Kernel {
        /// `load`, `attach`, `pin`, `update`.
        operation: &'static str,
        /// Program, map or link.
        subject: String,
        /// Cause, with the verifier's log when there is one.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A map is full.
    #[error("datapath: {map} is full ({capacity} entries): raise {option} in [dataplane]")]
    Full {
        /// Map.
        map: &'static str,
        /// Entries.
        capacity: u32,
        /// Configuration key.
        option: &'static str,
    },
    /// Some services could not be programmed; all others are.
    #[error("datapath: {} services cannot be programmed", failed.len())]
    Services {
        /// Which, each with its reason.
        failed: Vec<(ServiceId, String)>,
        /// The first reason.
        #[source]
        first: Box<DataplaneError>,
    },
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Programmed {
    /// Service ports published or changed.
    pub changed: usize,
    /// Removed.
    pub removed: usize,
    /// Left as they were.
    pub kept: usize,
}

/// The port.
pub trait Dataplane: Send + Sync {
    /// Makes the kernel's table equal to `services`. `node` and `node_addresses` decide locality and NodePorts.
    /// On return every change is visible to new connections. A service that cannot be programmed does not hold up the
    /// others: the error names it, and it is tried again with the next call.
    fn publish(
        &self,
        services: &ServiceTable,
        node: &NodeName,
        node_addresses: &[IpAddr],
    ) -> Result<Programmed, DataplaneError>;
    /// Names the interface at which the outside reaches the node; `None`: there is none, and no NodePort or load balancer
    /// address answers. Idempotent.
    fn set_uplink(&self, interface: Option<&str>) -> Result<(), DataplaneError>;
    /// Attaches the per-packet path to a pod's host-side interface; before its first process starts. `netns` is
    /// the path of the pod's pinned network namespace: its cookie tells the socket path whose connect it sees.
    /// Idempotent: called again for a pod that is attached, it changes nothing.
    fn attach_pod(&self, uid: &PodUid, netns: &Path, addresses: &PodAddresses) -> Result<(), DataplaneError>;
    /// Forgets a pod's interface (its links vanish with it).
    fn detach_pod(&self, uid: &PodUid) -> Result<(), DataplaneError>;
}

/// The datapath's tables stay usable after a panic elsewhere: every change to them is complete or repeated.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
