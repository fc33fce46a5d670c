//! The Node object: created or taken up when a session starts, its status kept true while it lasts, and the
//! node's Lease. All writes are made as the node itself.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use gantry_proto::node::v1 as pb;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{
            ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec,
            NodeStatus, NodeSystemInfo, Taint,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time},
    },
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    acks::OUTDATED,
    keys::{self, Keys},
    labels::{self, Labels},
};
use crate::{
    cache::MetaExt,
    kinds::{KUBERNETES_VERSION, Subresource},
    model::{ApiError, ObjectError, Reason, Resource},
    objects::{Objects, Patch, WriteOptions},
    pki::KeyRecord,
};

/// Where node leases live.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// An unchanged status is written again so often, as upstream: the lease is what proves life.
const STATUS_REFRESH: Duration = Duration::from_secs(300);
/// As upstream's `nodeStatusMaxImages`.
const MAX_IMAGES: usize = 50;

/// A write about the node failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RegistrationError {
    /// Refused by the API machine.
    #[error(transparent)]
    Refused(#[from] ApiError),
    /// The stored Node does not decode.
    #[error(transparent)]
    Decode(#[from] ObjectError),
    /// The Node was deleted while this agent ran.
    #[error("its Node object was deleted: restart the agent to register the node again")]
    Deleted,
    /// Our own object does not encode.
    #[error("cannot encode the Node object")]
    Encode(#[from] serde_json::Error),
}

/// Writes about one node.
pub(super) struct NodeWriter {
    objects: Objects,
    options: WriteOptions,
    name: String,
    info: pb::NodeInfo,
    labels: Labels,
    /// The key of the certificate that the node came with.
    key: KeyRecord,
    boot_id: String,
    release: String,
    lease_seconds: i32,
    written: Option<Instant>,
}

impl NodeWriter {
    pub(super) fn new(
        objects: Objects,
        options: WriteOptions,
        name: &str,
        hello: &pb::AgentHello,
        key: KeyRecord,
        lease: Duration,
    ) -> Self {
        let (labels, _) = labels::sorted_out(&hello.node.clone().unwrap_or_default().labels);
        Self {
            objects,
            labels,
            key,
            options,
            name: name.to_owned(),
            info: hello.node.clone().unwrap_or_default(),
            boot_id: hello.boot_id.clone(),
            release: hello.agent_version.clone(),
            lease_seconds: i32::try_from(lease.as_secs()).unwrap_or(i32::MAX),
            written: None,
        }
    }

    /// Creates the Node, or takes the existing one up: the key of its certificate is recorded, labels are set as [`labels`] says, and taints are those of its
    /// creation or of whoever changed them since. An agent that was `known` is not let in again without its Node:
    /// somebody has deleted it, and that must not be undone behind their back.
    pub(super) async fn register(&mut self, known: bool) -> Result<(), RegistrationError> {
        match self.get().await {
            Ok(node) => self.update_metadata(&node).await?,
            Err(RegistrationError::Refused(e)) if e.reason == Reason::NotFound && known => {
                return Err(RegistrationError::Deleted);
            }
            Err(RegistrationError::Refused(e)) if e.reason == Reason::NotFound => self.create().await?,
            Err(error) => return Err(error),
        }
        let conditions = self.info.conditions.clone();
        self.status(&conditions, None).await
    }

    pub(super) async fn get(&self) -> Result<Node, RegistrationError> {
        Ok(self.objects.get(Resource::NODES, None, &self.name).await?.decode()?)
    }

    async fn create(&self) -> Result<(), RegistrationError> {
        let taint = |t: &pb::Taint| Taint {
            key: t.key.clone(),
            value: Some(t.value.clone()).filter(|v| !v.is_empty()),
            effect: t.effect.clone(),
            time_added: None,
        };
        let taints: Vec<Taint> = self.info.taints.iter().map(taint).collect();
        let node = Node {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(self.labels.clone()),
                annotations: Some(self.annotations()?),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec { taints: (!taints.is_empty()).then_some(taints), ..NodeSpec::default() }),
            status: None,
        };
        let body = serde_json::to_value(node)?;
        match self.objects.create(Resource::NODES, None, body, &self.options).await {
            Ok(_) => tracing::info!(node = self.name, "node registered"),
            Err(error) if error.reason == Reason::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// What the node's identity hangs on, and what it gave itself.
    fn annotations(&self) -> Result<BTreeMap<String, String>, RegistrationError> {
        let given = (labels::GIVEN.to_owned(), serde_json::to_string(&self.labels)?);
        Ok([given, (keys::ANNOTATION.to_owned(), Keys::only(self.key.clone()).text())].into())
    }

    async fn update_metadata(&self, node: &Node) -> Result<(), RegistrationError> {
        let present = node.metadata.labels.clone().unwrap_or_default();
        let gave = node.metadata.annotation(labels::GIVEN).and_then(|text| serde_json::from_str(text).ok());
        let known = gave.is_some();
        let gave: Labels = gave.unwrap_or_default();
        let changes = labels::changes(&present, &gave, &self.labels);
        let annotations = self.annotations()?;
        let recorded =
            node.metadata.annotation(keys::ANNOTATION) == annotations.get(keys::ANNOTATION).map(|k| &**k);
        if changes.is_empty() && known && gave == self.labels && recorded {
            return Ok(());
        }
        let patch = Patch::Merge(json!({"metadata": {"labels": changes, "annotations": annotations}}));
        self.objects.patch(Resource::NODES, None, &self.name, None, patch, &self.options).await?;
        Ok(())
    }

    /// Writes the status if it changed or was not written for a while. `images` `None` leaves them.
    pub(super) async fn status(
        &mut self,
        conditions: &[pb::NodeCondition],
        images: Option<&[String]>,
    ) -> Result<(), RegistrationError> {
        let node = self.get().await?;
        let old = node.status.clone().unwrap_or_default();
        let new = self.merged(&old, conditions, images, Timestamp::now());
        let due = self.written.is_none_or(|at| at.elapsed() >= STATUS_REFRESH);
        if !due && without_heartbeats(&old) == without_heartbeats(&new) {
            return Ok(());
        }
        let mut body: Value = serde_json::to_value(&node)?;
        body["status"] = serde_json::to_value(&new)?;
        let sub = Some(Subresource::Status);
        match self.objects.update(Resource::NODES, None, &self.name, sub, body, &self.options).await {
            Ok(_) => self.written = Some(Instant::now()),
            // Somebody else was faster: the next heartbeat sees what they wrote.
            Err(error) if error.reason == Reason::Conflict => self.written = None,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn merged(
        &self,
        old: &NodeStatus,
        conditions: &[pb::NodeCondition],
        images: Option<&[String]>,
        now: Timestamp,
    ) -> NodeStatus {
        let quantities = |map: &std::collections::HashMap<String, String>| {
            Some(map.iter().map(|(k, v)| (k.clone(), Quantity(v.clone()))).collect())
        };
        let address = |a: &pb::Address| NodeAddress { type_: a.r#type.clone(), address: a.address.clone() };
        let image = |name: &String| ContainerImage { names: Some(vec![name.clone()]), size_bytes: None };
        NodeStatus {
            capacity: quantities(&self.info.capacity),
            allocatable: quantities(&self.info.allocatable),
            addresses: Some(self.info.addresses.iter().map(address).collect()),
            daemon_endpoints: (self.info.kubelet_port > 0).then(|| NodeDaemonEndpoints {
                kubelet_endpoint: Some(DaemonEndpoint {
                    port: i32::try_from(self.info.kubelet_port).unwrap_or_default(),
                }),
            }),
            node_info: Some(NodeSystemInfo {
                architecture: self.info.architecture.clone(),
                boot_id: self.boot_id.clone(),
                container_runtime_version: self.info.container_runtime.clone(),
                kernel_version: self.info.kernel_version.clone(),
                // As clients parse it: the API that the node serves pods by; Gantry's own version follows.
                kubelet_version: format!("{KUBERNETES_VERSION}+gantry-{}", self.release),
                machine_id: self.info.machine_id.clone(),
                system_uuid: self.info.machine_id.clone(),
                operating_system: "linux".to_owned(),
                os_image: self.info.os_image.clone(),
                ..NodeSystemInfo::default()
            }),
            images: match images {
                Some(names) => Some(names.iter().take(MAX_IMAGES).map(image).collect()),
                None => old.images.clone(),
            },
            conditions: Some(merged_conditions(
                old.conditions.as_deref().unwrap_or_default(),
                conditions,
                now,
            )),
            ..old.clone()
        }
    }

    /// Creates or renews the node's lease.
    pub(super) async fn renew_lease(&self) -> Result<(), RegistrationError> {
        let now = MicroTime(Timestamp::now());
        let namespace = Some(LEASE_NAMESPACE);
        let patch = Patch::Merge(json!({"spec": {
            "holderIdentity": self.name, "leaseDurationSeconds": self.lease_seconds, "renewTime": now,
        }}));
        let renewed =
            self.objects.patch(Resource::LEASES, namespace, &self.name, None, patch, &self.options).await;
        match renewed {
            Ok(_) => return Ok(()),
            Err(error) if error.reason == Reason::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        self.ensure_lease_namespace().await?;
        let node = self.get().await?;
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(LEASE_NAMESPACE.to_owned()),
                owner_references: Some(vec![OwnerReference {
                    api_version: "v1".to_owned(),
                    kind: "Node".to_owned(),
                    name: self.name.clone(),
                    uid: node.metadata.uid.unwrap_or_default(),
                    ..OwnerReference::default()
                }]),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.name.clone()),
                lease_duration_seconds: Some(self.lease_seconds),
                renew_time: Some(now),
                ..LeaseSpec::default()
            }),
        };
        self.objects.create(Resource::LEASES, namespace, serde_json::to_value(lease)?, &self.options).await?;
        Ok(())
    }

    async fn ensure_lease_namespace(&self) -> Result<(), RegistrationError> {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": LEASE_NAMESPACE}});
        match self.objects.create(Resource::NAMESPACES, None, body, &self.options).await {
            Err(error) if error.reason != Reason::AlreadyExists => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// The reported conditions over the stored ones: those of others stay, a transition is dated when the status
/// changes. A session is what makes a node ready, unless the agent says why it is not.
fn merged_conditions(
    old: &[NodeCondition],
    reported: &[pb::NodeCondition],
    now: Timestamp,
) -> Vec<NodeCondition> {
    let ready = pb::NodeCondition {
        r#type: "Ready".to_owned(),
        status: "True".to_owned(),
        reason: "KubeletReady".to_owned(),
        message: "gantry-agent is posting ready status".to_owned(),
    };
    let says_ready = reported.iter().any(|c| c.r#type == "Ready");
    // The end of a trouble is told where the trouble was.
    let is_news = |c: &&pb::NodeCondition| {
        c.r#type != OUTDATED || c.status != "False" || old.iter().any(|o| o.type_ == OUTDATED)
    };
    let reported: Vec<&pb::NodeCondition> =
        reported.iter().filter(is_news).chain((!says_ready).then_some(&ready)).collect();
    let convert = |c: &&pb::NodeCondition| {
        let before = old.iter().find(|o| o.type_ == c.r#type && o.status == c.status);
        NodeCondition {
            type_: c.r#type.clone(),
            status: c.status.clone(),
            reason: Some(c.reason.clone()),
            message: Some(c.message.clone()),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: before.and_then(|o| o.last_transition_time.clone()).or(Some(Time(now))),
        }
    };
    let foreign = old.iter().filter(|o| !reported.iter().any(|c| c.r#type == o.type_)).cloned();
    foreign.chain(reported.iter().map(convert)).collect()
}

fn without_heartbeats(status: &NodeStatus) -> NodeStatus {
    let mut status = status.clone();
    for condition in status.conditions.iter_mut().flatten() {
        condition.last_heartbeat_time = None;
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(kind: &str, status: &str) -> pb::NodeCondition {
        pb::NodeCondition { r#type: kind.to_owned(), status: status.to_owned(), ..Default::default() }
    }

    #[test]
    fn conditions_keep_the_time_of_their_last_change_and_those_of_others() {
        let start = Timestamp::from_second(1_000).unwrap();
        let later = Timestamp::from_second(2_000).unwrap();
        let first = merged_conditions(&[], &[reported("MemoryPressure", "False")], start);
        let types: Vec<_> = first.iter().map(|c| (c.type_.as_str(), c.status.as_str())).collect();
        assert_eq!(types, [("MemoryPressure", "False"), ("Ready", "True")]);

        let mut stored = first;
        stored.push(NodeCondition {
            type_: "NetworkUnavailable".into(),
            status: "False".into(),
            ..Default::default()
        });
        // The node lifecycle controller lost sight of it.
        stored[1].status = "Unknown".to_owned();
        let second = merged_conditions(&stored, &[reported("MemoryPressure", "False")], later);
        let find = |kind: &str| second.iter().find(|c| c.type_ == kind).unwrap();
        assert_eq!(find("MemoryPressure").last_transition_time, Some(Time(start)));
        assert_eq!(find("MemoryPressure").last_heartbeat_time, Some(Time(later)));
        assert_eq!(find("Ready").last_transition_time, Some(Time(later)));
        assert_eq!(find("NetworkUnavailable").status, "False");
    }

    #[test]
    fn an_agent_can_say_that_it_is_not_ready() {
        let merged = merged_conditions(&[], &[reported("Ready", "False")], Timestamp::UNIX_EPOCH);
        assert_eq!(merged.len(), 1);
        assert_eq!(merged[0].status, "False");
    }
}
