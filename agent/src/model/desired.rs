//! What the scheduler wants of this node. Replaced as a whole per object; carries the generation it came with.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::api::core::v1 as core;

use super::{NodeName, PeerNode, PodName, PodUid, ServiceTable};

/// Everything this node should be.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// Epoch and generation of the last accepted update.
    pub epoch: u64,
    /// See `epoch`.
    pub generation: u64,
    /// Pods bound to this node, deletions in progress included.
    pub pods: BTreeMap<PodUid, Arc<DesiredPod>>,
    /// Secrets that a pod here names, by (namespace, name).
    pub secrets: BTreeMap<(Arc<str>, Arc<str>), SharedObject<core::Secret>>,
    /// Config maps that a pod here names, by (namespace, name).
    pub config_maps: BTreeMap<(Arc<str>, Arc<str>), SharedObject<core::ConfigMap>>,
    /// The node as the API has it; `None` until the scheduler told.
    pub node: Option<Arc<OwnNode>>,
    /// Pods that are wanted in a way that this agent does not understand: whatever there is of one that is not in
    /// `pods` is left alone.
    pub held: BTreeSet<PodUid>,
    /// Services and other nodes; `None` until a snapshot or the ledger told them, which is not to say that there are
    /// none.
    pub table: Option<Arc<Table>>,
}

impl Desired {
    /// The table, which is known from then on.
    pub fn table_mut(&mut self) -> &mut Table {
        Arc::make_mut(self.table.get_or_insert_default())
    }
}

/// What the Node object says of where pods may be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OwnNode {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    pub taints: Vec<core::Taint>,
}

/// What all nodes are told alike.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// All services with their endpoints.
    pub services: ServiceTable,
    /// The other nodes.
    pub peers: BTreeMap<NodeName, PeerNode>,
}

/// A pod bound to this node.
#[derive(Clone, Debug)]
pub struct DesiredPod {
    /// Its uid.
    pub uid: PodUid,
    /// Its namespace and name.
    pub name: PodName,
    /// The generation that brought this state of it.
    pub generation: u64,
    /// The whole object; `metadata.deletionTimestamp` with `deletionGracePeriodSeconds` asks for its end.
    pub pod: core::Pod,
}

/// A Secret or ConfigMap with the generation that brought it. Missing objects are absent from the map: the
/// scheduler sends them as soon as they exist.
#[derive(Clone, Debug)]
pub struct SharedObject<T> {
    /// The generation that brought this state of it.
    pub generation: u64,
    /// The object.
    pub object: Arc<T>,
}
