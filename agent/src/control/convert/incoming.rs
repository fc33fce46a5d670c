//! What the scheduler says, as this agent understands it.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::{Buf, Bytes};
use gantry_proto::node::v1 as pb;
use ipnet::IpNet;
use prost::Message;
use serde::de::DeserializeOwned;

use super::ConvertError;
use crate::{
    control::ledger::Section,
    model::{
        ClusterNetwork, ContainerName, Desired, DesiredPod, DialTarget, Endpoint, ExecRequest, FailedKind,
        LogsRequest, NodeName, PeerNode, PodName, PodUid, PortForwardRequest, Protocol, ServiceId,
        ServicePort, ServiceSpec, ServiceType, SharedObject, StreamInput, StreamRequest,
    },
};

/// What names an object: a pod of another uid under the same name takes its place.
pub(in crate::control) type Key = (FailedKind, Arc<str>, Arc<str>);

/// Which object an update is about.
#[derive(Clone, Debug)]
pub(in crate::control) struct Identity {
    pub(in crate::control) kind: FailedKind,
    pub(in crate::control) namespace: Arc<str>,
    pub(in crate::control) name: Arc<str>,
    uid: String,
}

impl Identity {
    /// `None` for kinds that this agent does not know.
    pub(in crate::control) fn of(update: &pb::Update) -> Option<Self> {
        let kind = match update.kind() {
            pb::ObjectKind::Pod => FailedKind::Pod,
            pb::ObjectKind::Secret => FailedKind::Secret,
            pb::ObjectKind::ConfigMap => FailedKind::ConfigMap,
            pb::ObjectKind::Service => FailedKind::Service,
            pb::ObjectKind::Peer => FailedKind::Peer,
            pb::ObjectKind::Unspecified => return None,
        };
        let (namespace, name) = (update.namespace.as_str().into(), update.name.as_str().into());
        Some(Self { kind, namespace, name, uid: update.uid.clone() })
    }

    pub(in crate::control) fn key(&self) -> Key {
        (self.kind, Arc::clone(&self.namespace), Arc::clone(&self.name))
    }

    /// The object as it was accepted before, from one desired state into another.
    pub(in crate::control) fn keep(&self, from: &Desired, to: &mut Desired) {
        let key = (Arc::clone(&self.namespace), Arc::clone(&self.name));
        match self.kind {
            FailedKind::Pod => to.pods.extend(self.pod(from).map(|pod| (pod.uid.clone(), Arc::clone(pod)))),
            FailedKind::Secret => to.secrets.extend(from.secrets.get(&key).cloned().map(|o| (key, o))),
            FailedKind::ConfigMap => {
                to.config_maps.extend(from.config_maps.get(&key).cloned().map(|o| (key, o)));
            }
            FailedKind::Service => {
                let id = ServiceId { namespace: key.0, name: key.1 };
                to.services.extend(from.services.get(&id).cloned().map(|spec| (id, spec)));
            }
            FailedKind::Peer => {
                let node = NodeName::new(key.1);
                to.peers.extend(from.peers.get(&node).cloned().map(|peer| (node, peer)));
            }
        }
    }

    /// By uid, or by name where the uid did not arrive either.
    fn pod<'a>(&self, from: &'a Desired) -> Option<&'a Arc<DesiredPod>> {
        if !self.uid.is_empty() {
            return from.pods.get(&PodUid::from(self.uid.as_str()));
        }
        let named =
            |pod: &&Arc<DesiredPod>| pod.name.namespace == self.namespace && pod.name.name == self.name;
        from.pods.values().find(named)
    }
}

/// One update of the desired state.
pub(in crate::control) struct Change {
    pub(in crate::control) generation: u64,
    pub(in crate::control) section: Section,
    apply: Box<dyn FnOnce(&mut Desired) + Send>,
}

impl Change {
    pub(in crate::control) fn apply(self, desired: &mut Desired) {
        (self.apply)(desired);
    }
}

/// Reads an update.
pub(in crate::control) fn change(update: pb::Update) -> Result<Change, ConvertError> {
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
    let health_port = u16::try_from(service.health_check_node_port)
        .map_err(|_| ConvertError::Field("health_check_node_port"))?;
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
        health_port: (health_port > 0).then_some(health_port),
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
pub(in crate::control) fn network(
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

/// Adds what [`encode`](super::encode) wrote.
pub(in crate::control) fn decode(mut bytes: Bytes, desired: &mut Desired) -> Result<(), ConvertError> {
    while bytes.has_remaining() {
        let update = pb::Update::decode_length_delimited(&mut bytes).map_err(|_| ConvertError::Ledger)?;
        change(update)?.apply(desired);
    }
    Ok(())
}

/// What a stream is for; `None` when this agent does not know its kind.
pub(in crate::control) fn stream_request(kind: Option<pb::stream_request::Kind>) -> Option<StreamRequest> {
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
        Kind::Dial(d) => StreamRequest::Dial(match (d.pod_uid.is_empty(), u16::try_from(d.port).ok()?) {
            (false, port) => DialTarget::Pod(PortForwardRequest { pod: PodUid::new(d.pod_uid), port }),
            (true, 0) => DialTarget::Agent,
            (true, port) => DialTarget::Node(port),
        }),
    })
}

/// What the client sent; `None` for frames that are not for an agent.
pub(in crate::control) fn stream_input(frame: pb::StreamFrame) -> Option<StreamInput> {
    use pb::stream_frame::Kind;
    let small = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    Some(match frame.kind? {
        Kind::Stdin(bytes) => StreamInput::Stdin(bytes),
        Kind::StdinClosed(_) => StreamInput::StdinClosed,
        Kind::Resize(size) => StreamInput::Resize { width: small(size.width), height: small(size.height) },
        Kind::Open(_) | Kind::Stdout(_) | Kind::Stderr(_) | Kind::End(_) => return None,
    })
}
