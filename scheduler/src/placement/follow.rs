//! What happens in the cluster, as the loop is told of it: the changes of the cache's tables, in order.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use tokio::sync::mpsc;

use super::{
    COMPONENT,
    hint::{Hint, NodeChange},
    queue::Attempt,
    resources::Amounts,
};
use crate::cache::{Cache, Id, MetaExt, Pod};

/// What the loop is told.
pub(super) enum Told {
    Pod {
        id: Id,
        old: Option<Arc<Pod>>,
        new: Option<Arc<Pod>>,
    },
    Node {
        name: String,
        node: Option<Arc<Node>>,
        hint: Option<Hint>,
    },
    Namespace {
        name: String,
        namespace: Option<Arc<Namespace>>,
    },
    Service {
        id: Id,
        service: Option<Arc<Service>>,
    },
    /// A binding was refused.
    NotBound {
        attempt: Attempt,
        uid: Arc<str>,
    },
}

/// Sends every later change.
pub(super) fn subscribe(cache: &Cache, sender: &mpsc::UnboundedSender<Told>) {
    let to = sender.clone();
    // The loop may have ended: nobody is left to tell.
    cache.pods.on_change(move |change| {
        let Some(pod) = change.either() else { return };
        let id = Id::of(&pod.metadata);
        let _ = to.send(Told::Pod { id, old: change.old.cloned(), new: change.new.cloned() });
    });
    let to = sender.clone();
    cache.nodes.on_change(move |change| {
        let Some(node) = change.either() else { return };
        let hint = match (change.old, change.new) {
            (Some(old), Some(new)) => changed(old, new).map(Hint::NodeChanged),
            (None, _) => Some(Hint::NodeCame),
            (Some(_), None) => Some(Hint::NodeLeft),
        };
        // A heartbeat is nothing to placement; images are.
        let same = change.old.zip(change.new).is_some_and(|(old, new)| images(old) == images(new));
        if hint.is_none() && same {
            return;
        }
        let name = node.metadata.name_str().to_owned();
        let _ = to.send(Told::Node { name, node: change.new.cloned(), hint });
    });
    let to = sender.clone();
    cache.namespaces.on_change(move |change| {
        let Some(namespace) = change.either() else { return };
        let name = namespace.metadata.name_str().to_owned();
        let _ = to.send(Told::Namespace { name, namespace: change.new.cloned() });
    });
    let to = sender.clone();
    cache.services.on_change(move |change| {
        let Some(service) = change.either() else { return };
        let _ = to.send(Told::Service { id: Id::of(&service.metadata), service: change.new.cloned() });
    });
}

fn images(node: &Node) -> Option<&Vec<k8s_openapi::api::core::v1::ContainerImage>> {
    node.status.as_ref().and_then(|s| s.images.as_ref())
}

/// What of a node changed that matters for where pods can go; `None` after a heartbeat.
fn changed(old: &Node, new: &Node) -> Option<NodeChange> {
    let quantities = |n: &Node| n.status.as_ref().and_then(|s| s.allocatable.clone());
    let taints = |n: &Node| {
        let spec = n.spec.as_ref();
        let taints = spec.and_then(|s| s.taints.clone()).unwrap_or_default();
        (taints, spec.and_then(|s| s.unschedulable).unwrap_or(false))
    };
    let (before, after) = (quantities(old), quantities(new));
    let mut change = NodeChange {
        labels: old.metadata.labels != new.metadata.labels,
        taints: taints(old) != taints(new),
        ..NodeChange::default()
    };
    if before != after {
        let (before, after) = (Amounts::parse(before.as_ref()), Amounts::parse(after.as_ref()));
        let grown = after.iter().filter(|(name, amount)| *amount > before.get(name));
        change.more = grown.map(|(name, _)| name.to_owned()).collect();
        change.less = before.iter().any(|(name, amount)| amount > after.get(name));
    }
    (change != NodeChange::default()).then_some(change)
}

pub(super) fn is_pending(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let ours = spec.and_then(|s| s.scheduler_name.as_deref()).is_none_or(|n| n == COMPONENT);
    ours && pod.node().is_none() && !pod.metadata.deleting() && !pod.is_finished()
}

pub(super) fn is_gated(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|s| s.scheduling_gates.as_ref().is_some_and(|g| !g.is_empty()))
}

/// Whether both states of a pod weigh the same where it is.
pub(super) fn same_place(old: &Pod, new: &Pod) -> bool {
    let (before, after) = (&old.metadata, &new.metadata);
    old.node_name == new.node_name
        && old.same_spec(new)
        && old.labels == new.labels
        && before.owner_references == after.owner_references
        && before.deleting() == after.deleting()
}
