//! Between wire and Kubernetes types. Pure.

use bytes::Bytes;
use gantry_proto::node::v1 as pb;
use k8s_openapi::api::core::v1::{Node, Taint};
use prost::Message;
use serde_json::json;

use super::projection::{Body, Item, ItemKind, NodeFacts};
use crate::{kinds::meant_address, model::Revision};

/// Keeps a node from answering for load balancer addresses, as upstream.
const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

pub(super) fn message(kind: pb::scheduler_message::Kind) -> pb::SchedulerMessage {
    pb::SchedulerMessage { kind: Some(kind) }
}

/// What tells a node of an item. What all nodes are told alike is encoded for the first of them.
pub(super) fn update(item: &Item) -> pb::SchedulerMessage {
    use pb::update::Body as Wire;
    let encoded = match &item.body {
        Body::Removed => encode(item, None),
        Body::Json(json) => encode(item, Some(Wire::Json(json.clone()))),
        Body::Service(service) => {
            service.encoded(|service| encode(item, Some(Wire::Service(service.clone()))))
        }
        Body::Slice(slice) => slice.encoded(|slice| encode(item, Some(Wire::EndpointSlice(slice.clone())))),
        Body::Whole(parts) => parts.encoded(|parts| encode(item, Some(Wire::Service(parts.joined())))),
        Body::Peer(peer) => peer.encoded(|peer| encode(item, Some(Wire::Peer(peer.clone())))),
    };
    message(pb::scheduler_message::Kind::Update(encoded))
}

fn encode(item: &Item, body: Option<pb::update::Body>) -> Bytes {
    let kind = match item.key.kind {
        ItemKind::Pod => pb::ObjectKind::Pod,
        ItemKind::Secret => pb::ObjectKind::Secret,
        ItemKind::ConfigMap => pb::ObjectKind::ConfigMap,
        ItemKind::Service => pb::ObjectKind::Service,
        ItemKind::Peer => pb::ObjectKind::Peer,
        ItemKind::Slice => pb::ObjectKind::EndpointSlice,
        ItemKind::Node => pb::ObjectKind::Node,
    };
    let update = pb::Update {
        generation: item.generation,
        kind: kind.into(),
        namespace: item.key.name.namespace.to_string(),
        name: item.key.name.name.to_string(),
        uid: item.key.uid.to_string(),
        removed: body.is_none(),
        body,
    };
    update.encode_to_vec().into()
}

/// What the projection needs of a node.
pub(super) fn node_facts(node: &Node, revision: Revision) -> NodeFacts {
    let status = node.status.as_ref();
    let addresses = status.and_then(|s| s.addresses.as_ref()).into_iter().flatten();
    let conditions = status.and_then(|s| s.conditions.as_ref()).into_iter().flatten();
    let ready = conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True");
    let excluded = node.metadata.labels.as_ref().is_some_and(|l| l.contains_key(EXCLUDE));
    NodeFacts {
        // Nothing is routed to what is no address; other nodes would refuse all that is said of this one.
        addresses: addresses
            .filter(|a| a.type_ == "InternalIP")
            .filter_map(|a| meant_address(&a.address))
            .collect(),
        pod_cidrs: pod_cidrs(node),
        announces: ready && !excluded,
        own: own(node),
        revision,
    }
}

/// The ranges of a node's pods.
pub(super) fn pod_cidrs(node: &Node) -> Vec<String> {
    let spec = node.spec.as_ref();
    match spec.and_then(|s| s.pod_cidrs.clone()) {
        Some(ranges) if !ranges.is_empty() => ranges,
        _ => spec.and_then(|s| s.pod_cidr.clone()).into_iter().collect(),
    }
}

/// Of a node, what it is told of itself: by what it refuses pods that were bound to it without being asked.
fn own(node: &Node) -> Bytes {
    let taint = |taint: &Taint| json!({"key": taint.key, "value": taint.value, "effect": taint.effect});
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).map(taint);
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let own = json!({"metadata": {"name": node.metadata.name, "labels": labels},
        "spec": {"taints": taints.collect::<Vec<_>>()}});
    own.to_string().into()
}
