//! The half of a session that reads: statuses, heartbeats, events, acknowledgements and renewals of the agent.

use std::{sync::Arc, time::SystemTime};

use gantry_proto::node::v1 as pb;
use k8s_openapi::{api::core::v1::ObjectReference, jiff::Timestamp};

use super::{
    Connection, Ended,
    beats::{Dropped, Heard},
    node_options, say,
};
use crate::{
    events::{Record, Severity},
    model::{Chain, Key, Resource},
    nodes::{
        acks::{self, Acks, News},
        keys, listener,
        registry::Session,
        status_queue::StatusQueue,
    },
    pki::Validity,
};

/// What the agent says.
pub(super) struct Reader {
    pub(super) connection: Connection,
    pub(super) session: Arc<Session>,
    pub(super) queue: StatusQueue,
    pub(super) heartbeats: Heard,
    pub(super) acks: Acks,
    /// The agent's version.
    pub(super) release: String,
}

impl Reader {
    pub(super) async fn run(mut self) -> Ended {
        let lease = self.connection.shared.config.lease;
        loop {
            let expiry = self.connection.expires.duration_since(SystemTime::now()).unwrap_or_default();
            // Cancel-safe: `message` keeps a partly read message in the stream, the queue keeps what ended, and
            // timers begin anew.
            let step = tokio::select! {
                message = self.connection.inbound.message(), if self.queue.has_room() => match message {
                    Ok(Some(message)) => self.take(message).await,
                    Ok(None) => Err(Ended::Closed),
                    Err(status) => Err(Ended::Broken(Box::new(status))),
                },
                Some(reply) = self.queue.next() => {
                    say(&self.connection.outbound, pb::scheduler_message::Kind::PodStatus(reply)).await
                }
                () = tokio::time::sleep(expiry) => Err(Ended::Expired),
                // Whoever does not listen cannot say that nothing was said.
                () = tokio::time::sleep(lease), if self.queue.has_room() => Err(Ended::Silent),
            };
            if let Err(ended) = step {
                return ended;
            }
        }
    }

    async fn take(&mut self, message: pb::AgentMessage) -> Result<(), Ended> {
        use pb::agent_message::Kind;
        self.session.hear();
        let shared = &self.connection.shared;
        match message.kind {
            Some(Kind::Ack(ack)) => self.acknowledge(&ack),
            Some(Kind::PodStatus(update)) => {
                shared.metrics.statuses.inc();
                if let Some(refusal) = self.queue.push(update) {
                    let reply = pb::scheduler_message::Kind::PodStatus(refusal);
                    return say(&self.connection.outbound, reply).await;
                }
            }
            Some(Kind::Event(event)) => self.record(event),
            Some(Kind::Heartbeat(heartbeat)) => {
                if let Err(dropped) = self.heartbeats.push(heartbeat) {
                    let Dropped { waiting, storing, since_last } = dropped;
                    let node = &self.connection.node;
                    tracing::warn!(%node, waiting, ?storing, ?since_last, "heartbeat dropped, others wait to be stored");
                }
            }
            Some(Kind::Renew(renew)) => return self.renew(&renew).await,
            Some(Kind::StreamRefused(refused)) => shared.streams.refuse(&self.connection.node, refused),
            Some(Kind::Hello(_)) | None => {
                tracing::debug!(node = self.connection.node, "message of an unknown kind ignored");
            }
        }
        Ok(())
    }

    fn acknowledge(&mut self, ack: &pb::Ack) {
        self.session.acknowledge(ack.accepted, ack.programmed);
        self.session.lacks(ack.unknown_kinds.iter().copied().collect());
        let News { failed, unknown } = self.acks.take(ack);
        let node = &self.connection.node;
        for failed in failed {
            let pb::Failed { kind, namespace, name, message, .. } = &failed;
            tracing::warn!(%node, kind, namespace, name, error = message, "object not programmed on node");
            self.warn(self.failed_object(&failed), "NotProgrammed", failure(&failed));
        }
        if let Some(kinds) = unknown {
            tracing::warn!(%node, kinds, agent = self.release, "the agent does not know what it was sent");
            self.warn(self.about_node(), "UnknownKinds", acks::lacking(&kinds, &self.release));
        }
    }

    fn about_node(&self) -> ObjectReference {
        // Upstream gives events about nodes the node's name for a uid: `kubectl describe node` looks for it.
        let node = Some(self.connection.node.clone());
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: node.clone(),
            uid: node,
            ..ObjectReference::default()
        }
    }

    /// The object that a node fails at, where it is one that the node may speak of; else the node.
    fn failed_object(&self, failed: &pb::Failed) -> ObjectReference {
        let (kind, resource) = match failed.kind() {
            pb::ObjectKind::Pod if self.owns_pod(&failed.namespace, &failed.name) => ("Pod", Resource::PODS),
            pb::ObjectKind::Service | pb::ObjectKind::EndpointSlice => ("Service", Resource::SERVICES),
            _ => return self.about_node(),
        };
        // A slice is named after its service.
        let name = failed.name.split('/').next().unwrap_or_default();
        let key = Key::namespaced(resource, &failed.namespace, name);
        let Some(object) = self.connection.shared.objects.stored(&key) else { return self.about_node() };
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some(kind.to_owned()),
            namespace: Some(failed.namespace.clone()),
            name: Some(name.to_owned()),
            uid: Some(object.uid.to_string()),
            ..ObjectReference::default()
        }
    }

    fn warn(&self, about: ObjectReference, reason: &str, message: String) {
        self.connection.shared.recorder.publish(Record {
            about,
            severity: Severity::Warning,
            reason: reason.to_owned(),
            message,
            component: "kubelet".to_owned(),
            host: Some(self.connection.node.clone()),
            time: Timestamp::now(),
        });
    }

    /// An event about a pod of this node or about the node itself.
    fn record(&self, event: pb::Event) {
        let node = &self.connection.node;
        let about_node = event.object_kind == "Node" && event.object_name == *node;
        let own_pod = || event.object_kind == "Pod" && self.owns_pod(&event.namespace, &event.object_name);
        if !about_node && !own_pod() {
            tracing::warn!(%node, kind = event.object_kind, namespace = event.namespace,
                name = event.object_name, "event about a foreign object refused");
            return;
        }
        // Upstream gives events about nodes the node's name for a uid: `kubectl describe node` looks for it.
        let uid = if about_node { node.clone() } else { event.object_uid };
        self.connection.shared.recorder.publish(Record {
            about: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some(event.object_kind),
                name: Some(event.object_name),
                namespace: Some(event.namespace).filter(|n| !n.is_empty()),
                uid: Some(uid),
                field_path: Some(event.field_path).filter(|p| !p.is_empty()),
                resource_version: None,
            },
            severity: if event.r#type == "Warning" { Severity::Warning } else { Severity::Normal },
            reason: event.reason,
            message: event.message,
            component: "kubelet".to_owned(),
            host: Some(node.clone()),
            time: Timestamp::from_millisecond(event.time_ms).unwrap_or_else(|_| Timestamp::now()),
        });
    }

    fn owns_pod(&self, namespace: &str, name: &str) -> bool {
        let key = Key::namespaced(Resource::PODS, namespace, name);
        let pod = self.connection.shared.objects.stored(&key);
        pod.is_some_and(|pod| pod.fields.get("spec.nodeName").is_some_and(|n| n == &*self.connection.node))
    }

    async fn renew(&mut self, renew: &pb::RenewRequest) -> Result<(), Ended> {
        let node = &self.connection.node;
        let authority = &self.connection.shared.authority;
        let validity = Validity::starting(SystemTime::now(), self.connection.shared.gate.lifetime);
        let signed = match authority.sign_node(&renew.csr_der, node, validity) {
            Ok(signed) => signed,
            Err(error) => {
                tracing::warn!(%node, error = %Chain(&error), "certificate renewal refused");
                return Ok(());
            }
        };
        let (objects, options) = (&self.connection.shared.objects, node_options(node));
        let held = Some(&self.connection.key);
        // Seldom, and large: not a part of every session.
        let recorded = Box::pin(keys::given(objects, &options, node, held, &signed.key)).await;
        if let Err(error) = recorded {
            // Its agent asks again.
            tracing::warn!(%node, error = %Chain(&error), "certificate not renewed, its key cannot be recorded");
            return Ok(());
        }
        tracing::info!(%node, "node certificate renewed");
        self.connection.expires = validity.until;
        listener::put_off(&self.connection.deadline, validity.until);
        let reply = pb::RenewResponse {
            certificate_pem: signed.certificate_pem.into(),
            ca_pem: authority.ca_pem().to_owned().into(),
            not_after: validity.until_unix(),
        };
        say(&self.connection.outbound, pb::scheduler_message::Kind::Renewed(reply)).await
    }
}

/// An object that is not as it should be on a node, in words.
fn failure(failed: &pb::Failed) -> String {
    let kind = failed.kind().as_str_name().to_lowercase().replace('_', " ");
    match (failed.namespace.is_empty(), failed.name.is_empty()) {
        (_, true) => format!("The node is not as it should be: {}", failed.message),
        (true, false) => format!("The node cannot take up {kind} {}: {}", failed.name, failed.message),
        (false, false) => {
            format!("The node cannot take up {kind} {}/{}: {}", failed.namespace, failed.name, failed.message)
        }
    }
}
