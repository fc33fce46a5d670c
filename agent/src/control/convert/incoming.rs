//! What the scheduler says besides objects, as this agent understands it.

use gantry_proto::node::v1 as pb;

use super::{ConvertError, service};
use crate::model::{
    ClusterNetwork, ContainerName, DialTarget, ExecRequest, LogsRequest, PodUid, PortForwardRequest,
    StreamInput, StreamRequest,
};

/// The cluster's ranges out of a hello.
pub(in crate::control) fn network(
    cluster: Option<pb::ClusterInfo>,
    assignment: Option<pb::NodeAssignment>,
) -> Result<ClusterNetwork, ConvertError> {
    let cluster = cluster.ok_or(ConvertError::Field("cluster"))?;
    let own = assignment.ok_or(ConvertError::Field("assignment"))?.pod_cidrs;
    let port = |number| service::number("node_port", number);
    Ok(ClusterNetwork {
        service_cidr: service::one("service_cidr", &cluster.service_cidr)?,
        pod_cidr: service::one("pod_cidr", &cluster.pod_cidr)?,
        node_pod_cidrs: service::ranges("assignment", &own)?,
        dns_ip: service::one("dns_ip", &cluster.dns_ip)?,
        node_ports: (port(cluster.node_port_first)?, port(cluster.node_port_last)?),
        domain: cluster.domain,
    })
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
