//! What this agent says, as the protocol has it; and the desired state as the ledger has it.

use gantry_proto::node::v1 as pb;
use prost::Message;

use crate::{
    control::ledger::Section,
    model::{
        Desired, Endpoint, EventSubject, EventType, FailedKind, FailedObject, NodeCondition, NodeEvent,
        NodeFacts, NodeName, PodReport, Protocol, ServicePort, ServiceSpec, ServiceType, StreamEnd,
        StreamOutput, StreamRefusal, Vitals,
    },
};

/// Appends one section of the desired state as bytes for the ledger: updates, each with its length before it.
pub(in crate::control) fn encode(desired: &Desired, section: Section, out: &mut Vec<u8>) {
    let mut put = |update: pb::Update| {
        // A Vec grows as needed: encoding into it cannot fail.
        let _ = update.encode_length_delimited(out);
    };
    match section {
        Section::Work => work_updates(desired).for_each(&mut put),
        Section::Table => table_updates(desired).for_each(&mut put),
    }
}

fn work_updates(desired: &Desired) -> impl Iterator<Item = pb::Update> + '_ {
    let pods = desired.pods.values().map(|p| {
        let (namespace, name) = (&p.name.namespace, &p.name.name);
        let mut update = object(pb::ObjectKind::Pod, p.generation, namespace, name, to_json(&p.pod));
        update.uid = p.uid.to_string();
        update
    });
    let secrets = desired.secrets.iter().map(|((namespace, name), s)| {
        object(pb::ObjectKind::Secret, s.generation, namespace, name, to_json(&*s.object))
    });
    let config_maps = desired.config_maps.iter().map(|((namespace, name), c)| {
        object(pb::ObjectKind::ConfigMap, c.generation, namespace, name, to_json(&*c.object))
    });
    pods.chain(secrets).chain(config_maps)
}

fn table_updates(desired: &Desired) -> impl Iterator<Item = pb::Update> + '_ {
    let services = desired.services.iter().map(|(id, spec)| {
        let body = pb::update::Body::Service(wire_service(spec));
        object(pb::ObjectKind::Service, spec.generation, &id.namespace, &id.name, Some(body))
    });
    let peers = desired.peers.iter().map(|(name, peer)| {
        let body = pb::update::Body::Peer(pb::Peer {
            addresses: texts(&peer.addresses),
            pod_cidrs: texts(&peer.pod_cidrs),
        });
        object(pb::ObjectKind::Peer, 0, "", name.as_str(), Some(body))
    });
    services.chain(peers)
}

fn object(
    kind: pb::ObjectKind,
    generation: u64,
    namespace: &str,
    name: &str,
    body: Option<pb::update::Body>,
) -> pb::Update {
    pb::Update {
        generation,
        kind: kind.into(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        body,
        ..pb::Update::default()
    }
}

fn to_json(object: &impl serde::Serialize) -> Option<pb::update::Body> {
    // Types of k8s-openapi have string keys alone, so they always serialise.
    serde_json::to_vec(object).ok().map(|json| pb::update::Body::Json(json.into()))
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

fn wire_service(spec: &ServiceSpec) -> pb::Service {
    let announcer = |n: &Option<NodeName>| n.as_ref().map(ToString::to_string).unwrap_or_default();
    pb::Service {
        r#type: match spec.kind {
            ServiceType::ClusterIp => "ClusterIP",
            ServiceType::NodePort => "NodePort",
            ServiceType::LoadBalancer => "LoadBalancer",
            ServiceType::ExternalName => "ExternalName",
        }
        .to_owned(),
        cluster_ips: texts(&spec.cluster_ips),
        headless: spec.headless,
        external_name: spec.external_name.clone().unwrap_or_default(),
        external_ips: texts(&spec.external_ips),
        load_balancer_ips: spec.load_balancer_ips.iter().map(|(ip, _)| ip.to_string()).collect(),
        announcers: spec.load_balancer_ips.iter().map(|(_, n)| announcer(n)).collect(),
        affinity_seconds: spec.affinity.map_or(0, |a| u32::try_from(a.as_secs()).unwrap_or(u32::MAX)),
        internal_local: spec.internal_local,
        external_local: spec.external_local,
        publish_not_ready: spec.publish_not_ready,
        ports: spec.ports.iter().map(wire_port).collect(),
        source_ranges: texts(&spec.source_ranges),
        health_check_node_port: spec.health_port.unwrap_or(0).into(),
    }
}

fn wire_port(port: &ServicePort) -> pb::ServicePort {
    let endpoint = |e: &Endpoint| pb::Endpoint {
        address: e.address.ip().to_string(),
        port: e.address.port().into(),
        node: e.node.as_ref().map(ToString::to_string).unwrap_or_default(),
        ready: e.ready,
        serving: e.serving,
        terminating: e.terminating,
        hostname: e.hostname.clone(),
        pod_uid: e.pod.clone(),
    };
    pb::ServicePort {
        name: port.name.clone(),
        protocol: match port.protocol {
            Protocol::Tcp => pb::Protocol::Tcp,
            Protocol::Udp => pb::Protocol::Udp,
            Protocol::Sctp => pb::Protocol::Sctp,
        }
        .into(),
        port: port.port.into(),
        node_port: port.node_port.unwrap_or(0).into(),
        endpoints: port.endpoints.iter().map(endpoint).collect(),
    }
}

pub(in crate::control) fn message(kind: pb::agent_message::Kind) -> pb::AgentMessage {
    pb::AgentMessage { kind: Some(kind) }
}

pub(in crate::control) fn node_info(facts: NodeFacts) -> pb::NodeInfo {
    let taint = |t: crate::model::NodeTaint| pb::Taint { key: t.key, value: t.value, effect: t.effect };
    let address = |(r#type, address): (String, String)| pb::Address { r#type, address };
    pb::NodeInfo {
        capacity: facts.capacity.into_iter().collect(),
        allocatable: facts.allocatable.into_iter().collect(),
        labels: facts.labels.into_iter().collect(),
        taints: facts.taints.into_iter().map(taint).collect(),
        addresses: facts.addresses.into_iter().map(address).collect(),
        kernel_version: facts.kernel_version,
        os_image: facts.os_image,
        container_runtime: facts.container_runtime,
        architecture: facts.architecture,
        machine_id: facts.machine_id,
        conditions: facts.conditions.into_iter().map(condition).collect(),
        kubelet_port: facts.kubelet_port.unwrap_or(0).into(),
    }
}

fn condition(c: NodeCondition) -> pb::NodeCondition {
    pb::NodeCondition { r#type: c.kind, status: c.status, reason: c.reason, message: c.message }
}

pub(in crate::control) fn heartbeat(sequence: u64, vitals: Vitals) -> pb::AgentMessage {
    let node = vitals.node.map(|n| pb::NodeUsage {
        cpu_nano_seconds: n.cpu_nano_seconds,
        memory_working_set_bytes: n.memory_working_set_bytes,
        time_ms: n.time_ms,
    });
    let container = |c: crate::model::ContainerUsage| pb::ContainerUsage {
        pod_uid: c.pod.to_string(),
        container: c.container.to_string(),
        cpu_nano_seconds: c.cpu_nano_seconds,
        memory_working_set_bytes: c.memory_working_set_bytes,
        time_ms: c.time_ms,
    };
    message(pb::agent_message::Kind::Heartbeat(pb::Heartbeat {
        sequence,
        conditions: vitals.conditions.into_iter().map(condition).collect(),
        node,
        containers: vitals.containers.into_iter().map(container).collect(),
        image_names: vitals.images,
    }))
}

pub(in crate::control) fn pod_status(report: &PodReport, sequence: u64) -> pb::AgentMessage {
    message(pb::agent_message::Kind::PodStatus(pb::PodStatusUpdate {
        namespace: report.name.namespace.to_string(),
        name: report.name.name.to_string(),
        uid: report.uid.to_string(),
        sequence,
        // As with `to_json`: a PodStatus always serialises.
        status_json: serde_json::to_vec(&*report.status).unwrap_or_default().into(),
        finished: report.finished,
    }))
}

pub(in crate::control) fn event(event: NodeEvent, node: &NodeName) -> pb::AgentMessage {
    let mut wire = pb::Event {
        r#type: match event.kind {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
        .to_owned(),
        reason: event.reason.to_string(),
        message: event.message,
        time_ms: event.time_ms,
        ..pb::Event::default()
    };
    match event.subject {
        EventSubject::Pod { uid, name, field_path } => {
            wire.object_kind = "Pod".to_owned();
            wire.namespace = name.namespace.to_string();
            wire.object_name = name.name.to_string();
            wire.object_uid = uid.to_string();
            wire.field_path = field_path.unwrap_or_default();
        }
        EventSubject::Node => {
            wire.object_kind = "Node".to_owned();
            wire.object_name = node.to_string();
        }
    }
    message(pb::agent_message::Kind::Event(wire))
}

pub(in crate::control) fn ack<'a>(
    accepted: u64,
    programmed: u64,
    failed: impl Iterator<Item = &'a FailedObject>,
) -> pb::AgentMessage {
    let failed = failed
        .map(|f| pb::Failed {
            kind: match f.kind {
                FailedKind::Pod => pb::ObjectKind::Pod,
                FailedKind::Secret => pb::ObjectKind::Secret,
                FailedKind::ConfigMap => pb::ObjectKind::ConfigMap,
                FailedKind::Service => pb::ObjectKind::Service,
                FailedKind::Peer => pb::ObjectKind::Peer,
            }
            .into(),
            namespace: f.namespace.clone(),
            name: f.name.clone(),
            generation: f.generation,
            message: f.message.clone(),
        })
        .collect();
    message(pb::agent_message::Kind::Ack(pb::Ack { accepted, programmed, failed }))
}

pub(in crate::control) fn stream_refused(id: String, refusal: StreamRefusal) -> pb::AgentMessage {
    message(pb::agent_message::Kind::StreamRefused(pb::StreamRefused {
        id,
        code: refusal.code.into(),
        message: refusal.message,
    }))
}

pub(in crate::control) fn stream_open(id: String) -> pb::StreamFrame {
    pb::StreamFrame { kind: Some(pb::stream_frame::Kind::Open(id)) }
}

pub(in crate::control) fn stream_output(output: StreamOutput) -> pb::StreamFrame {
    use pb::stream_frame::Kind;
    let kind = match output {
        StreamOutput::Stdout(bytes) => Kind::Stdout(bytes),
        StreamOutput::Stderr(bytes) => Kind::Stderr(bytes),
    };
    pb::StreamFrame { kind: Some(kind) }
}

pub(in crate::control) fn stream_end(end: StreamEnd) -> pb::StreamFrame {
    let end = pb::StreamEnd { exit_code: end.exit_code, error: end.error.unwrap_or_default() };
    pb::StreamFrame { kind: Some(pb::stream_frame::Kind::End(end)) }
}
