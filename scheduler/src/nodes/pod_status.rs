//! Pod statuses from nodes into the store, as the node, and only for pods that are bound to it.

use std::net::IpAddr;

use gantry_proto::node::v1 as pb;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{HostIP, Pod, PodCondition, PodStatus};
use serde_json::Value;

use crate::{
    kinds::Subresource,
    model::{ApiError, Chain, Key, Object, Reason, Resource},
    objects::{DeleteOptions, Objects, WriteOptions},
};

/// Attempts at a write that others race with.
const ATTEMPTS: usize = 8;
/// Conditions that are the agent's to set. All others belong to the scheduler, to controllers or to users.
const AGENT_CONDITIONS: [&str; 7] = [
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodReadyToStartContainers",
    "PodResizePending",
    "PodResizeInProgress",
    "AllContainersRestarting",
];

/// The node that reports, and the addresses that are its to give out.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    pub(super) node: String,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) pod_ranges: Vec<IpNet>,
}

/// Why a report is not stored.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// The pod is not there, or another one has its name now.
    #[error("the pod is gone")]
    Gone,
    /// The pod is another node's, or nobody's.
    #[error("the pod is not bound to this node")]
    Foreign,
    /// The status claims an address outside of the node's ranges.
    #[error("{0} is not in the node's pod ranges")]
    Address(String),
    /// Not a PodStatus.
    #[error("the status does not decode")]
    Malformed(#[source] serde_json::Error),
    /// The API machine refused.
    #[error(transparent)]
    Refused(#[from] ApiError),
}

/// Stores the reports of one node.
#[derive(Clone)]
pub(super) struct StatusWriter {
    objects: Objects,
    options: WriteOptions,
    place: Place,
}

impl StatusWriter {
    pub(super) fn new(objects: Objects, options: WriteOptions, place: Place) -> Self {
        Self { objects, options, place }
    }

    /// The answer to a report that is not about a pod of this node, by the index of the stored pod alone.
    pub(super) fn refusal(&self, update: &pb::PodStatusUpdate) -> Option<pb::PodStatusReply> {
        let key = Key::namespaced(Resource::PODS, &update.namespace, &update.name);
        let bound = |pod: &Object| pod.fields.get("spec.nodeName").is_some_and(|n| n == &*self.place.node);
        match self.objects.stored(&key) {
            Some(pod) if !bound(&pod) => {
                let (node, namespace, pod, uid) =
                    (&self.place.node, &update.namespace, &update.name, &update.uid);
                tracing::warn!(%node, %namespace, %pod, %uid, error = %Refusal::Foreign, "pod status refused");
            }
            Some(pod) if *pod.uid == *update.uid => return None,
            _ => {}
        }
        Some(pb::PodStatusReply { uid: update.uid.clone(), sequence: update.sequence, gone: true })
    }

    /// Stores one report; `None` when it should be sent again later.
    pub(super) async fn store(&self, update: &pb::PodStatusUpdate) -> Option<pb::PodStatusReply> {
        let reply = |gone| pb::PodStatusReply { uid: update.uid.clone(), sequence: update.sequence, gone };
        let node = &self.place.node;
        let (namespace, pod, uid) = (&update.namespace, &update.name, &update.uid);
        match self.try_store(update).await {
            Ok(finished) => Some(reply(finished)),
            Err(Refusal::Gone) => Some(reply(true)),
            Err(error @ (Refusal::Foreign | Refusal::Address(_))) => {
                tracing::warn!(%node, %namespace, %pod, %uid, %error, "pod status refused");
                Some(reply(true))
            }
            Err(error @ Refusal::Malformed(_)) => {
                tracing::warn!(%node, %namespace, %pod, %uid, error = %Chain(&error), "pod status refused");
                Some(reply(true))
            }
            Err(Refusal::Refused(error)) => {
                tracing::warn!(%node, %namespace, %pod, %uid, %error, "pod status not stored");
                // What validation refuses will be refused again; everything else may pass.
                matches!(error.reason, Reason::Invalid | Reason::BadRequest).then(|| reply(false))
            }
        }
    }

    /// Whether the object is gone afterwards.
    async fn try_store(&self, update: &pb::PodStatusUpdate) -> Result<bool, Refusal> {
        let reported: PodStatus = serde_json::from_slice(&update.status_json).map_err(Refusal::Malformed)?;
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let pod = self.read(update).await?;
            let deleting = pod.metadata.deletion_timestamp.is_some();
            match self.write(update, pod, &reported).await {
                Ok(()) if update.finished && deleting => return self.finish(update).await,
                Ok(()) => return Ok(false),
                Err(Refusal::Refused(error)) if error.reason == Reason::Conflict => last = Some(error),
                Err(Refusal::Refused(error)) if error.reason == Reason::NotFound => {
                    return Err(Refusal::Gone);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.map_or(Refusal::Gone, Refusal::Refused))
    }

    async fn read(&self, update: &pb::PodStatusUpdate) -> Result<Pod, Refusal> {
        let object = match self.objects.get(Resource::PODS, Some(&update.namespace), &update.name).await {
            Ok(object) => object,
            Err(error) if error.reason == Reason::NotFound => return Err(Refusal::Gone),
            Err(error) => return Err(error.into()),
        };
        let pod: Pod =
            object.decode().map_err(|e| ApiError::new(Reason::InternalError, Chain(&e).to_string()))?;
        // Whose pod it is comes before everything else: another node's must not even learn that it changed.
        let bound = pod.spec.as_ref().and_then(|s| s.node_name.as_deref());
        if bound != Some(&*self.place.node) {
            return Err(Refusal::Foreign);
        }
        if *object.uid != *update.uid {
            return Err(Refusal::Gone);
        }
        Ok(pod)
    }

    async fn write(
        &self,
        update: &pb::PodStatusUpdate,
        mut pod: Pod,
        reported: &PodStatus,
    ) -> Result<(), Refusal> {
        let host_network = pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false);
        self.place.check_addresses(reported, host_network)?;
        let stored = pod.status.take().unwrap_or_default();
        let merged = merge(&stored, reported.clone(), &self.place);
        if merged == stored {
            return Ok(());
        }
        pod.status = Some(merged);
        let body: Value = serde_json::to_value(&pod).map_err(Refusal::Malformed)?;
        let sub = Some(Subresource::Status);
        let (namespace, name) = (Some(update.namespace.as_str()), update.name.as_str());
        self.objects.update(Resource::PODS, namespace, name, sub, body, &self.options).await?;
        Ok(())
    }

    async fn finish(&self, update: &pb::PodStatusUpdate) -> Result<bool, Refusal> {
        let delete = DeleteOptions {
            grace_seconds: Some(0),
            uid: Some(update.uid.clone()),
            ..DeleteOptions::default()
        };
        let (namespace, name) = (Some(update.namespace.as_str()), update.name.as_str());
        match self.objects.delete(Resource::PODS, namespace, name, &delete, &self.options).await {
            Ok(_) => Ok(true),
            // A successor has the name already.
            Err(e) if matches!(e.reason, Reason::NotFound | Reason::Conflict) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

impl Place {
    /// A node gives out addresses of its own range alone: with another's, it would get the other's traffic.
    fn check_addresses(&self, status: &PodStatus, host_network: bool) -> Result<(), Refusal> {
        let listed = status.pod_ips.iter().flatten().map(|p| p.ip.as_str());
        for text in status.pod_ip.as_deref().into_iter().chain(listed).filter(|t| !t.is_empty()) {
            let own = text.parse::<IpAddr>().is_ok_and(|ip| {
                if host_network {
                    self.addresses.contains(&ip)
                } else {
                    self.pod_ranges.iter().any(|r| r.contains(&ip))
                }
            });
            if !own {
                return Err(Refusal::Address(text.to_owned()));
            }
        }
        Ok(())
    }
}

/// What is stored: the report, but for what is not the agent's to say.
fn merge(stored: &PodStatus, mut reported: PodStatus, place: &Place) -> PodStatus {
    let terminal = |s: &PodStatus| matches!(s.phase.as_deref(), Some("Succeeded" | "Failed"));
    if terminal(stored) && !terminal(&reported) {
        // The end of a pod is final: a late report of its life changes nothing.
        return stored.clone();
    }
    reported.conditions = Some(merged_conditions(
        stored.conditions.as_deref().unwrap_or_default(),
        reported.conditions.take().unwrap_or_default(),
    ));
    if reported.pod_ip.as_deref().is_none_or(str::is_empty) {
        // An address once given is kept in the record, as long as no other takes its place.
        reported.pod_ip.clone_from(&stored.pod_ip);
        reported.pod_ips.clone_from(&stored.pod_ips);
    }
    if let [first, ..] = place.addresses.as_slice() {
        reported.host_ip = Some(first.to_string());
        reported.host_ips = Some(place.addresses.iter().map(|a| HostIP { ip: a.to_string() }).collect());
    }
    reported.start_time = stored.start_time.clone().or(reported.start_time);
    reported.qos_class = stored.qos_class.clone().or(reported.qos_class);
    reported.nominated_node_name.clone_from(&stored.nominated_node_name);
    reported.resource_claim_statuses.clone_from(&stored.resource_claim_statuses);
    reported.observed_generation = reported.observed_generation.or(stored.observed_generation);
    reported
}

fn merged_conditions(stored: &[PodCondition], reported: Vec<PodCondition>) -> Vec<PodCondition> {
    let owned = |c: &PodCondition| AGENT_CONDITIONS.contains(&c.type_.as_str());
    let dated = |mut c: PodCondition| {
        let before = stored.iter().find(|s| s.type_ == c.type_ && s.status == c.status);
        if let Some(before) = before {
            c.last_transition_time.clone_from(&before.last_transition_time);
        }
        c
    };
    let foreign = stored.iter().filter(|c| !owned(c)).cloned();
    reported.into_iter().filter(owned).map(dated).chain(foreign).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }

    fn place() -> Place {
        Place {
            node: "n".to_owned(),
            addresses: vec!["192.0.2.1".parse().unwrap()],
            pod_ranges: vec!["10.1.0.0/24".parse().unwrap()],
        }
    }

    #[test]
    fn conditions_of_others_and_what_is_not_the_agents_stay() {
        let stored = status(
            json!({"qosClass": "Burstable", "podIP": "10.1.0.2", "podIPs": [{"ip": "10.1.0.2"}],
            "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "example.com/gate", "status": "True"},
                {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}),
        );
        let reported = status(json!({"phase": "Running", "conditions": [
            {"type": "Ready", "status": "False", "lastTransitionTime": "2026-02-02T00:00:00Z"},
            {"type": "PodScheduled", "status": "False"}, {"type": "DisruptionTarget", "status": "True"}]}));
        let merged = merge(&stored, reported, &place());
        let conditions = serde_json::to_value(&merged.conditions).unwrap();
        assert_eq!(
            conditions,
            json!([{"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                {"type": "PodScheduled", "status": "True"}, {"type": "example.com/gate", "status": "True"}])
        );
        assert_eq!(merged.pod_ip.as_deref(), Some("10.1.0.2"));
        assert_eq!(merged.host_ip.as_deref(), Some("192.0.2.1"));
        assert_eq!(merged.qos_class.as_deref(), Some("Burstable"));
    }

    #[test]
    fn the_end_of_a_pod_is_final() {
        let stored = status(json!({"phase": "Failed", "reason": "Evicted"}));
        assert_eq!(merge(&stored, status(json!({"phase": "Running"})), &place()), stored);
    }

    #[test]
    fn a_node_gives_out_its_own_addresses_alone() {
        let check = |ip: &str, host| place().check_addresses(&status(json!({"podIP": ip})), host).is_ok();
        assert!(check("10.1.0.9", false) && check("192.0.2.1", true));
        assert!(!check("10.2.0.9", false) && !check("192.0.2.2", true) && !check("192.0.2.1", false));
        assert!(!check("rubbish", false));
        let second = status(json!({"podIP": "10.1.0.9", "podIPs": [{"ip": "10.1.0.9"}, {"ip": "10.9.0.1"}]}));
        assert!(place().check_addresses(&second, false).is_err());
    }
}
