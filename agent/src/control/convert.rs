//! Between the wire and the model: the only user of protocol types besides the calls themselves. Pure.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::{Buf, Bytes};
use gantry_proto::node::v1 as pb;
use ipnet::IpNet;
use prost::Message;
use serde::de::DeserializeOwned;

use super::ledger::Section;
use crate::model::{
    ClusterNetwork, ContainerName, Desired, DesiredPod, Endpoint, EventSubject, EventType, ExecRequest,
    FailedKind, FailedObject, LogsRequest, NodeCondition, NodeEvent, NodeFacts, NodeName, PeerNode, PodName,
    PodReport, PodUid, PortForwardRequest, Protocol, ServiceId, ServicePort, ServiceSpec, ServiceType,
    SharedObject, StreamEnd, StreamInput, StreamOutput, StreamRefusal, StreamRequest, Vitals,
};

/// A message of the scheduler that makes no sense to this agent.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// A field that must be there is not, or is not what it should be.
    #[error("{0} is missing or malformed")]
    Field(&'static str),
    /// An object's JSON.
    #[error("{kind} {name} does not decode")]
    Json {
        /// `Pod`, `Secret`, `ConfigMap`.
        kind: &'static str,
        /// Which.
        name: String,
        /// What the decoder says; without the object's content.
        #[source]
        source: serde_json::Error,
    },
    /// The ledger's own framing.
    #[error("the ledger does not decode")]
    Ledger,
}

/// One update of the desired state.
pub(super) struct Change {
    pub(super) generation: u64,
    pub(super) section: Section,
    apply: Box<dyn FnOnce(&mut Desired) + Send>,
}

impl Change {
    pub(super) fn apply(self, desired: &mut Desired) {
        (self.apply)(desired);
    }
}

/// Reads an update.
pub(super) fn change(update: pb::Update) -> Result<Change, ConvertError> {
    let kind = update.kind();
    let (generation, name) = (update.generation, format!("{}/{}", update.namespace, update.name));
    let id = (Arc::from(update.namespace), Arc::from(update.name));
    let section = match kind {
        pb::ObjectKind::Service | pb::ObjectKind::Peer => Section::Table,
        _ => Section::Work,
    };
    let removed = update.removed;
    let apply: Box<dyn FnOnce(&mut Desired) + Send> = match (kind, update.body) {
        (pb::ObjectKind::Pod, body) => {
            let uid = PodUid::new(update.uid);
            if removed {
                Box::new(move |d| drop(d.pods.remove(&uid)))
            } else {
                let pod = json(body, "Pod", &name)?;
                let pod_name = PodName { namespace: id.0, name: id.1 };
                let pod = Arc::new(DesiredPod { uid: uid.clone(), name: pod_name, generation, pod });
                Box::new(move |d| drop(d.pods.insert(uid, pod)))
            }
        }
        (pb::ObjectKind::Secret, _) if removed => Box::new(move |d| drop(d.secrets.remove(&id))),
        (pb::ObjectKind::Secret, body) => {
            // The decoder's message may quote what it stumbled over: not out of a secret.
            let secret = json(body, "Secret", &name).map_err(|_| ConvertError::Field("secret"))?;
            let object = SharedObject { generation, object: Arc::new(secret) };
            Box::new(move |d| drop(d.secrets.insert(id, object)))
        }
        (pb::ObjectKind::ConfigMap, _) if removed => Box::new(move |d| drop(d.config_maps.remove(&id))),
        (pb::ObjectKind::ConfigMap, body) => {
            let object = SharedObject { generation, object: Arc::new(json(body, "ConfigMap", &name)?) };
            Box::new(move |d| drop(d.config_maps.insert(id, object)))
        }
        (pb::ObjectKind::Service, body) => {
            let service_id = ServiceId { namespace: id.0, name: id.1 };
            match body {
                None if removed => Box::new(move |d| drop(d.services.remove(&service_id))),
                Some(pb::update::Body::Service(service)) => {
                    let spec = Arc::new(service_spec(service, generation)?);
                    Box::new(move |d| drop(d.services.insert(service_id, spec)))
                }
                _ => return Err(ConvertError::Field("service")),
            }
        }
        (pb::ObjectKind::Peer, body) => {
            let node = NodeName::new(id.1);
            match body {
                None if removed => Box::new(move |d| drop(d.peers.remove(&node))),
                Some(pb::update::Body::Peer(peer)) => {
                    let peer =
                        PeerNode { addresses: parsed(&peer.addresses), pod_cidrs: parsed(&peer.pod_cidrs) };
                    Box::new(move |d| drop(d.peers.insert(node, peer)))
                }
                _ => return Err(ConvertError::Field("peer")),
            }
        }
        // A kind of a newer scheduler: nothing that this agent could do with it.
        (pb::ObjectKind::Unspecified, _) => Box::new(|_| {}),
    };
    Ok(Change { generation, section, apply })
}

fn json<T: DeserializeOwned>(
    body: Option<pb::update::Body>,
    kind: &'static str,
    name: &str,
) -> Result<T, ConvertError> {
    let Some(pb::update::Body::Json(bytes)) = body else { return Err(ConvertError::Field("json")) };
    serde_json::from_slice(&bytes).map_err(|source| ConvertError::Json {
        kind,
        name: name.to_owned(),
        source,
    })
}

/// What parses; the scheduler validated them, and one bad address must not take a service down.
fn parsed<T: std::str::FromStr>(texts: &[String]) -> Vec<T> {
    texts.iter().filter_map(|t| t.parse().ok()).collect()
}

fn service_spec(service: pb::Service, generation: u64) -> Result<ServiceSpec, ConvertError> {
    let kind = match service.r#type.as_str() {
        "ClusterIP" => ServiceType::ClusterIp,
        "NodePort" => ServiceType::NodePort,
        "LoadBalancer" => ServiceType::LoadBalancer,
        "ExternalName" => ServiceType::ExternalName,
        _ => return Err(ConvertError::Field("type")),
    };
    let announcer = |i: usize| service.announcers.get(i).filter(|n| !n.is_empty()).map(|n| n.as_str().into());
    let load_balancer_ips = service
        .load_balancer_ips
        .iter()
        .enumerate()
        .filter_map(|(i, ip)| Some((ip.parse().ok()?, announcer(i))))
        .collect();
    Ok(ServiceSpec {
        generation,
        kind,
        cluster_ips: parsed(&service.cluster_ips),
        headless: service.headless,
        external_name: Some(service.external_name).filter(|n| !n.is_empty()),
        external_ips: parsed(&service.external_ips),
        load_balancer_ips,
        affinity: (service.affinity_seconds > 0)
            .then(|| Duration::from_secs(service.affinity_seconds.into())),
        internal_local: service.internal_local,
        external_local: service.external_local,
        publish_not_ready: service.publish_not_ready,
        source_ranges: parsed(&service.source_ranges),
        ports: service.ports.into_iter().map(port).collect::<Result<_, _>>()?,
    })
}

fn port(port: pb::ServicePort) -> Result<ServicePort, ConvertError> {
    let number = |n: u32| u16::try_from(n).map_err(|_| ConvertError::Field("port"));
    let node_port = number(port.node_port)?;
    Ok(ServicePort {
        protocol: match port.protocol() {
            pb::Protocol::Udp => Protocol::Udp,
            pb::Protocol::Sctp => Protocol::Sctp,
            pb::Protocol::Tcp | pb::Protocol::Unspecified => Protocol::Tcp,
        },
        port: number(port.port)?,
        node_port: (node_port > 0).then_some(node_port),
        endpoints: port.endpoints.into_iter().filter_map(endpoint).collect(),
        name: port.name,
    })
}

fn endpoint(e: pb::Endpoint) -> Option<Endpoint> {
    let address: IpAddr = e.address.parse().ok()?;
    Some(Endpoint {
        address: (address, u16::try_from(e.port).ok()?).into(),
        node: Some(e.node).filter(|n| !n.is_empty()).map(NodeName::new),
        ready: e.ready,
        serving: e.serving,
        terminating: e.terminating,
        hostname: e.hostname,
        pod: e.pod_uid,
    })
}

/// The cluster's ranges out of a hello.
pub(super) fn network(
    cluster: Option<pb::ClusterInfo>,
    assignment: Option<pb::NodeAssignment>,
) -> Result<ClusterNetwork, ConvertError> {
    let cluster = cluster.ok_or(ConvertError::Field("cluster"))?;
    let range = |text: &str, field| text.parse::<IpNet>().map_err(|_| ConvertError::Field(field));
    let number = |n: u32| u16::try_from(n).map_err(|_| ConvertError::Field("node_port"));
    Ok(ClusterNetwork {
        service_cidr: range(&cluster.service_cidr, "service_cidr")?,
        pod_cidr: range(&cluster.pod_cidr, "pod_cidr")?,
        node_pod_cidrs: parsed(&assignment.ok_or(ConvertError::Field("assignment"))?.pod_cidrs),
        dns_ip: cluster.dns_ip.parse().map_err(|_| ConvertError::Field("dns_ip"))?,
        node_ports: (number(cluster.node_port_first)?, number(cluster.node_port_last)?),
        domain: cluster.domain,
    })
}

/// One section of the desired state as bytes for the ledger: updates, each with its length before it.
pub(super) fn encode(desired: &Desired, section: Section) -> Vec<u8> {
    let mut out = Vec::new();
    let mut put = |update: pb::Update| {
        // A Vec grows as needed: encoding into it cannot fail.
        let _ = update.encode_length_delimited(&mut out);
    };
    match section {
        Section::Work => work_updates(desired).for_each(&mut put),
        Section::Table => table_updates(desired).for_each(&mut put),
    }
    out
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

/// Adds what [`encode`] wrote.
pub(super) fn decode(mut bytes: Bytes, desired: &mut Desired) -> Result<(), ConvertError> {
    while bytes.has_remaining() {
        let update = pb::Update::decode_length_delimited(&mut bytes).map_err(|_| ConvertError::Ledger)?;
        change(update)?.apply(desired);
    }
    Ok(())
}

pub(super) fn message(kind: pb::agent_message::Kind) -> pb::AgentMessage {
    pb::AgentMessage { kind: Some(kind) }
}

pub(super) fn node_info(facts: NodeFacts) -> pb::NodeInfo {
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
    }
}

fn condition(c: NodeCondition) -> pb::NodeCondition {
    pb::NodeCondition { r#type: c.kind, status: c.status, reason: c.reason, message: c.message }
}

pub(super) fn heartbeat(sequence: u64, vitals: Vitals) -> pb::AgentMessage {
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

pub(super) fn pod_status(report: &PodReport, sequence: u64) -> pb::AgentMessage {
    message(pb::agent_message::Kind::PodStatus(pb::PodStatusUpdate {
        namespace: report.name.namespace.to_string(),
        name: report.name.name.to_string(),
        uid: report.uid.to_string(),
        sequence,
        // As with `to_json`: a PodStatus always serialises.
        status_json: serde_json::to_vec(&report.status).unwrap_or_default().into(),
        finished: report.finished,
    }))
}

pub(super) fn event(event: NodeEvent, node: &NodeName) -> pb::AgentMessage {
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

pub(super) fn ack(accepted: u64, programmed: u64, failed: &[FailedObject]) -> pb::AgentMessage {
    let failed = failed
        .iter()
        .map(|f| pb::Failed {
            kind: match f.kind {
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

/// What a stream is for; `None` when this agent does not know its kind.
pub(super) fn stream_request(kind: Option<pb::stream_request::Kind>) -> Option<StreamRequest> {
    use pb::stream_request::Kind;
    Some(match kind? {
        Kind::Exec(e) => StreamRequest::Exec(ExecRequest {
            pod: PodUid::new(e.pod_uid),
            container: ContainerName::new(e.container),
            command: e.command,
            stdin: e.stdin,
            stdout: e.stdout,
            stderr: e.stderr,
            tty: e.tty,
            attach: e.attach,
        }),
        Kind::Logs(l) => StreamRequest::Logs(LogsRequest {
            pod: PodUid::new(l.pod_uid),
            container: ContainerName::new(l.container),
            follow: l.follow,
            previous: l.previous,
            timestamps: l.timestamps,
            since_ms: l.since_ms,
            tail_lines: l.tail_lines,
            limit_bytes: l.limit_bytes,
        }),
        Kind::PortForward(p) => StreamRequest::PortForward(PortForwardRequest {
            pod: PodUid::new(p.pod_uid),
            port: u16::try_from(p.port).ok()?,
        }),
    })
}

pub(super) fn stream_refused(id: String, refusal: StreamRefusal) -> pb::AgentMessage {
    message(pb::agent_message::Kind::StreamRefused(pb::StreamRefused {
        id,
        code: refusal.code.into(),
        message: refusal.message,
    }))
}

pub(super) fn stream_open(id: String) -> pb::StreamFrame {
    pb::StreamFrame { kind: Some(pb::stream_frame::Kind::Open(id)) }
}

pub(super) fn stream_output(output: StreamOutput) -> pb::StreamFrame {
    use pb::stream_frame::Kind;
    let kind = match output {
        StreamOutput::Stdout(bytes) => Kind::Stdout(bytes),
        StreamOutput::Stderr(bytes) => Kind::Stderr(bytes),
    };
    pb::StreamFrame { kind: Some(kind) }
}

pub(super) fn stream_end(end: StreamEnd) -> pb::StreamFrame {
    let end = pb::StreamEnd { exit_code: end.exit_code, error: end.error.unwrap_or_default() };
    pb::StreamFrame { kind: Some(pb::stream_frame::Kind::End(end)) }
}

/// What the client sent; `None` for frames that are not for an agent.
pub(super) fn stream_input(frame: pb::StreamFrame) -> Option<StreamInput> {
    use pb::stream_frame::Kind;
    let small = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    Some(match frame.kind? {
        Kind::Stdin(bytes) => StreamInput::Stdin(bytes),
        Kind::StdinClosed(_) => StreamInput::StdinClosed,
        Kind::Resize(size) => StreamInput::Resize { width: small(size.width), height: small(size.height) },
        Kind::Open(_) | Kind::Stdout(_) | Kind::Stderr(_) | Kind::End(_) => return None,
    })
}
