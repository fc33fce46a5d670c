//! What a plan may look at besides the pod and its observation.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use crate::model::{Desired, NodeView, PodUid};

/// Pods of the node that have a status on record here: whether it is a final one.
pub type Standings = BTreeMap<PodUid, bool>;

/// Everything else that is wanted of the node, and the node's own facts.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Secrets, config maps and services.
    pub desired: &'a Desired,
    /// The node.
    pub node: &'a NodeView,
    /// What is on record of the node's pods; only looked at for a pod that [`is_new`](super::is_new).
    pub standings: &'a Standings,
    /// Problems that were told before are told again: their events do not live for ever.
    pub remind: bool,
}

impl<'a> Context<'a> {
    /// A secret of the namespace.
    pub fn secret(&self, namespace: &Arc<str>, name: &str) -> Option<&'a Secret> {
        let key = (Arc::clone(namespace), Arc::from(name));
        self.desired.secrets.get(&key).map(|shared| &*shared.object)
    }

    /// A config map of the namespace.
    pub fn config_map(&self, namespace: &Arc<str>, name: &str) -> Option<&'a ConfigMap> {
        let key = (Arc::clone(namespace), Arc::from(name));
        self.desired.config_maps.get(&key).map(|shared| &*shared.object)
    }

    /// The cluster's DNS domain.
    pub fn domain(&self) -> &'a str {
        self.node.cluster.as_ref().map_or("cluster.local", |cluster| cluster.domain.as_str())
    }
}
