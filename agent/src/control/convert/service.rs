//! Services and peers, from the wire. What does not parse rejects the whole update: an address or a range that was
//! left out would be another service, and a list that lost its last range one that is open to all.

use std::{fmt::Display, net::IpAddr, str::FromStr, time::Duration};

use gantry_proto::node::v1 as pb;
use ipnet::IpNet;

use super::ConvertError;
use crate::model::{Endpoint, NodeName, PeerNode, Protocol, ServicePort, ServiceSpec, ServiceType};

pub(super) fn service(service: pb::Service, generation: u64) -> Result<ServiceSpec, ConvertError> {
    let kind = match service.r#type.as_str() {
        "ClusterIP" => ServiceType::ClusterIp,
        "NodePort" => ServiceType::NodePort,
        "LoadBalancer" => ServiceType::LoadBalancer,
        "ExternalName" => ServiceType::ExternalName,
        other => return Err(ConvertError::value("type", other)),
    };
    let health_port = number("health_check_node_port", service.health_check_node_port)?;
    let announcer = |i: usize| service.announcers.get(i).filter(|n| !n.is_empty()).map(|n| n.as_str().into());
    let balanced: Vec<IpAddr> = all("load_balancer_ips", &service.load_balancer_ips)?;
    Ok(ServiceSpec {
        generation,
        kind,
        cluster_ips: all("cluster_ips", &service.cluster_ips)?,
        headless: service.headless,
        external_name: Some(service.external_name).filter(|n| !n.is_empty()),
        external_ips: all("external_ips", &service.external_ips)?,
        load_balancer_ips: balanced.into_iter().enumerate().map(|(i, ip)| (ip, announcer(i))).collect(),
        affinity: (service.affinity_seconds > 0)
            .then(|| Duration::from_secs(service.affinity_seconds.into())),
        internal_local: service.internal_local,
        external_local: service.external_local,
        publish_not_ready: service.publish_not_ready,
        health_port: (health_port > 0).then_some(health_port),
        source_ranges: ranges("source_ranges", &service.source_ranges)?,
        ports: service.ports.into_iter().map(port).collect::<Result<_, _>>()?,
    })
}

/// Whether all of a slice is understood.
pub(super) fn slice(slice: pb::EndpointSlice) -> Result<(), ConvertError> {
    slice.ports.iter().try_for_each(|port| number("endpoint port", port.port).map(drop))?;
    slice.endpoints.into_iter().try_for_each(|e| endpoint(e).map(drop))
}

pub(super) fn peer(peer: &pb::Peer) -> Result<PeerNode, ConvertError> {
    Ok(PeerNode {
        addresses: all("addresses", &peer.addresses)?,
        pod_cidrs: ranges("pod_cidrs", &peer.pod_cidrs)?,
    })
}

/// Ranges of addresses. Upstream takes blanks around them, and so did schedulers before they sent them as they are
/// meant.
pub(super) fn ranges(field: &'static str, texts: &[String]) -> Result<Vec<IpNet>, ConvertError> {
    texts.iter().map(|text| one::<IpNet>(field, text.trim()).map(|range| range.trunc())).collect()
}

fn port(port: pb::ServicePort) -> Result<ServicePort, ConvertError> {
    let node_port = number("node_port", port.node_port)?;
    let protocol = match pb::Protocol::try_from(port.protocol) {
        Ok(pb::Protocol::Tcp) => Protocol::Tcp,
        Ok(pb::Protocol::Udp) => Protocol::Udp,
        Ok(pb::Protocol::Sctp) => Protocol::Sctp,
        Ok(pb::Protocol::Unspecified) | Err(_) => return Err(ConvertError::value("protocol", port.protocol)),
    };
    Ok(ServicePort {
        protocol,
        port: number("port", port.port)?,
        node_port: (node_port > 0).then_some(node_port),
        endpoints: port.endpoints.into_iter().map(endpoint).collect::<Result<_, _>>()?,
        name: port.name,
    })
}

fn endpoint(e: pb::Endpoint) -> Result<Endpoint, ConvertError> {
    let address: IpAddr = one("endpoint", &e.address)?;
    Ok(Endpoint {
        address: (address, number("endpoint port", e.port)?).into(),
        node: Some(e.node).filter(|n| !n.is_empty()).map(NodeName::new),
        ready: e.ready,
        serving: e.serving,
        terminating: e.terminating,
        hostname: e.hostname,
        pod: e.pod_uid,
    })
}

pub(super) fn number(field: &'static str, number: u32) -> Result<u16, ConvertError> {
    u16::try_from(number).map_err(|_| ConvertError::value(field, number))
}

pub(super) fn one<T: FromStr>(field: &'static str, text: &str) -> Result<T, ConvertError> {
    text.parse().map_err(|_| ConvertError::value(field, text))
}

fn all<T: FromStr>(field: &'static str, texts: &[String]) -> Result<Vec<T>, ConvertError> {
    texts.iter().map(|text| one(field, text)).collect()
}

impl ConvertError {
    fn value(field: &'static str, value: impl Display) -> Self {
        Self::Value { field, value: value.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> pb::Service {
        let endpoint = pb::Endpoint { address: "10.1.0.2".into(), port: 80, ..Default::default() };
        let port = pb::ServicePort {
            port: 80,
            protocol: pb::Protocol::Tcp.into(),
            endpoints: vec![endpoint],
            ..Default::default()
        };
        pb::Service { r#type: "LoadBalancer".into(), ports: vec![port], ..Default::default() }
    }

    fn refused(change: impl FnOnce(&mut pb::Service)) -> String {
        let mut wire = wire();
        change(&mut wire);
        service(wire, 1).expect_err("understood").to_string()
    }

    #[test]
    fn what_does_not_parse_is_refused_and_never_left_out() {
        assert!(service(wire(), 1).is_ok());
        let bad = || vec!["10.0.0.1".to_owned(), "10.0.0.x".to_owned()];
        for (field, told) in [
            ("source_ranges", refused(|s| s.source_ranges = vec!["10.0.0.x/8".into()])),
            ("cluster_ips", refused(|s| s.cluster_ips = bad())),
            ("external_ips", refused(|s| s.external_ips = bad())),
            ("load_balancer_ips", refused(|s| s.load_balancer_ips = bad())),
            ("endpoint", refused(|s| s.ports[0].endpoints[0].address = "10.0.0.x".into())),
        ] {
            assert!(told.starts_with(field) && told.contains("10.0.0.x"), "{field}: {told}");
        }
        // A protocol of tomorrow is not TCP.
        for unknown in [0, 9] {
            assert!(refused(|s| s.ports[0].protocol = unknown).starts_with("protocol"));
        }
        for (field, told) in [
            ("node_port", refused(|s| s.ports[0].node_port = 65_536)),
            ("port", refused(|s| s.ports[0].port = 65_536)),
            ("endpoint port", refused(|s| s.ports[0].endpoints[0].port = 65_536)),
            ("health_check_node_port", refused(|s| s.health_check_node_port = 65_536)),
            ("type", refused(|s| s.r#type = "Mesh".into())),
        ] {
            assert!(told.starts_with(field), "{field}: {told}");
        }
        let sliced = |address: &str, port| pb::EndpointSlice {
            ports: vec![pb::SlicePort { port, ..Default::default() }],
            endpoints: vec![pb::Endpoint { address: address.to_owned(), ..Default::default() }],
            ..Default::default()
        };
        assert!(slice(sliced("10.1.0.2", 80)).is_ok());
        assert!(slice(sliced("10.1.0.x", 80)).is_err() && slice(sliced("10.1.0.2", 65_536)).is_err());
        assert!(peer(&pb::Peer { addresses: bad(), ..Default::default() }).is_err());
        assert!(peer(&pb::Peer { pod_cidrs: bad(), ..Default::default() }).is_err());
    }

    #[test]
    fn a_blank_before_a_range_opens_nothing() {
        let mut wire = wire();
        wire.source_ranges = vec![" 10.0.0.0/8".into(), "10.1.2.3/16 ".into()];
        let ranges = service(wire, 1).unwrap().source_ranges;
        assert_eq!(ranges, ["10.0.0.0/8".parse().unwrap(), "10.1.0.0/16".parse().unwrap()]);
    }
}
