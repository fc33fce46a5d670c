//! What this agent says, as the protocol has it.

use std::collections::BTreeSet;

use gantry_proto::node::v1 as pb;

use crate::model::{
    EventSubject, EventType, FailedKind, FailedObject, NodeCondition, NodeEvent, NodeFacts, NodeName,
    PodReport, StreamEnd, StreamOutput, StreamRefusal, Vitals,
};

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
    unknown_kinds: &BTreeSet<i32>,
) -> pb::AgentMessage {
    let failed = failed
        .map(|f| pb::Failed {
            kind: match f.kind {
                FailedKind::Pod => pb::ObjectKind::Pod,
                FailedKind::Secret => pb::ObjectKind::Secret,
                FailedKind::ConfigMap => pb::ObjectKind::ConfigMap,
                FailedKind::Service => pb::ObjectKind::Service,
                FailedKind::Peer => pb::ObjectKind::Peer,
                FailedKind::EndpointSlice => pb::ObjectKind::EndpointSlice,
                FailedKind::Node => pb::ObjectKind::Node,
            }
            .into(),
            namespace: f.namespace.clone(),
            name: f.name.clone(),
            generation: f.generation,
            message: f.message.clone(),
        })
        .collect();
    let unknown_kinds = unknown_kinds.iter().copied().collect();
    message(pb::agent_message::Kind::Ack(pb::Ack { accepted, programmed, failed, unknown_kinds }))
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
