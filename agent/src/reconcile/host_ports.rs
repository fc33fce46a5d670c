//! `hostPort`: ports of the node that lead to one pod. The datapath knows them as services with a single endpoint, so
//! that everything that holds for node ports holds for them: translated at the node's own sockets (its loopback
//! too), at other pods' and at the uplink. Pure.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{ContainerPort, PodSpec};

use crate::model::{
    Desired, DesiredPod, Endpoint, NodeView, PodUid, Protocol, ServiceId, ServicePort, ServiceSpec,
    ServiceTable, ServiceType,
    spec::{host_network, restartable_and_main},
};

/// The host ports of all pods that have an address. `known` lends its values where they are the same still, by which
/// the datapath knows that nothing is to be done.
pub(super) fn table(
    desired: &Desired,
    wired: &BTreeMap<PodUid, Ipv4Addr>,
    node: &NodeView,
    known: &ServiceTable,
) -> ServiceTable {
    let mut table = ServiceTable::new();
    for (uid, address) in wired {
        let Some(pod) = desired.pods.get(uid) else { continue };
        for (id, spec) in of_pod(pod, *address, node) {
            let same = known.get_key_value(&id).filter(|(_, known)| ***known == spec);
            let (id, spec) =
                same.map_or_else(|| (id, Arc::new(spec)), |(id, known)| (id.clone(), Arc::clone(known)));
            table.insert(id, spec);
        }
    }
    table
}

/// The pod that such an entry is about, by namespace and name.
pub(super) fn pod_of(id: &ServiceId) -> Option<(&str, &str)> {
    let (name, _) = id.name.split_once('/')?;
    Some((&id.namespace, name))
}

/// One entry for each address that the pod's ports are taken at.
fn of_pod(pod: &DesiredPod, address: Ipv4Addr, node: &NodeView) -> BTreeMap<ServiceId, ServiceSpec> {
    let mut entries = BTreeMap::new();
    let Some(spec) = pod.pod.spec.as_ref().filter(|_| !host_network(&pod.pod)) else { return entries };
    for (port, host_port, protocol) in ports(spec) {
        let at = match place(port, node) {
            Place::Everywhere => None,
            Place::At(ip) => Some(ip),
            Place::Elsewhere => continue,
        };
        let place = at.map_or_else(|| "*".to_owned(), |ip| ip.to_string());
        // A slash is in no name of the API: no service can be taken for one of these.
        let name = format!("{}/{}/{place}", pod.name.name, pod.uid);
        let id = ServiceId { namespace: Arc::clone(&pod.name.namespace), name: name.into() };
        let entry = entries.entry(id).or_insert_with(|| empty(at));
        let Ok(target) = u16::try_from(port.container_port) else { continue };
        entry.ports.push(ServicePort {
            name: String::new(),
            protocol,
            port: host_port,
            node_port: at.is_none().then_some(host_port),
            endpoints: vec![Endpoint {
                address: SocketAddr::new(address.into(), target),
                node: Some(node.name.clone()),
                ready: true,
                serving: true,
                terminating: false,
                hostname: String::new(),
                pod: pod.uid.to_string(),
            }],
        });
    }
    entries
}

fn ports(spec: &PodSpec) -> impl Iterator<Item = (&ContainerPort, u16, Protocol)> {
    restartable_and_main(spec).flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
        let number = u16::try_from(port.host_port?).ok().filter(|number| *number > 0)?;
        let protocol = match port.protocol.as_deref() {
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            _ => Protocol::Tcp,
        };
        Some((port, number, protocol))
    })
}

/// Where a port is taken.
enum Place {
    /// At every address of the node.
    Everywhere,
    /// At this one.
    At(IpAddr),
    /// At none of the node's: as upstream, whose rules look at local addresses only, nothing comes of it.
    Elsewhere,
}

fn place(port: &ContainerPort, node: &NodeView) -> Place {
    let Some(text) = port.host_ip.as_deref().filter(|text| !text.is_empty()) else {
        return Place::Everywhere;
    };
    match text.parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() => Place::Everywhere,
        Ok(ip) if ip.is_loopback() || node.addresses.contains(&ip) => Place::At(ip),
        _ => Place::Elsewhere,
    }
}

fn empty(at: Option<IpAddr>) -> ServiceSpec {
    ServiceSpec {
        generation: 0,
        kind: ServiceType::NodePort,
        cluster_ips: Vec::new(),
        headless: false,
        external_name: None,
        external_ips: at.into_iter().collect(),
        load_balancer_ips: Vec::new(),
        affinity: None,
        internal_local: false,
        // The pod is here: it sees who asks.
        external_local: true,
        publish_not_ready: false,
        health_port: None,
        source_ranges: Vec::new(),
        ports: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing;

    #[test]
    fn a_port_leads_to_its_pod_at_the_addresses_it_names() {
        let ports = json!([
            {"containerPort": 8080, "hostPort": 80},
            {"containerPort": 8080, "hostPort": 80, "protocol": "UDP"},
            {"containerPort": 8081, "hostPort": 81, "hostIP": "127.0.0.1"},
            {"containerPort": 8082, "hostPort": 81, "hostIP": "192.0.2.1"},
            {"containerPort": 8083, "hostPort": 82, "hostIP": "198.51.100.1"},
            {"containerPort": 8084}]);
        let spec = json!({"containers": [{"name": "web", "image": "i", "ports": ports}]});
        let of_node =
            json!({"hostNetwork": true, "containers": [{"name": "web", "image": "i", "ports": ports}]});
        let desired = testing::desired([testing::pod("a", spec), testing::pod("b", of_node)]);
        let node = testing::view("/test".as_ref());
        let wired: BTreeMap<PodUid, Ipv4Addr> =
            [("a".into(), [10, 244, 0, 7].into()), ("b".into(), [192, 0, 2, 1].into())].into();
        let table = table(&desired, &wired, &node, &ServiceTable::new());
        let told: Vec<_> = table
            .iter()
            .flat_map(|(id, spec)| spec.ports.iter().map(move |port| (id, spec, port)))
            .map(|(id, spec, port)| {
                let place = id.name.rsplit('/').next().unwrap().to_owned();
                (
                    place,
                    spec.external_ips.len(),
                    port.node_port,
                    port.port,
                    port.endpoints[0].address.to_string(),
                )
            })
            .collect();
        let one = |place: &str, ips, node, port, to: &str| (place.to_owned(), ips, node, port, to.to_owned());
        assert_eq!(
            told,
            [
                one("*", 0, Some(80), 80, "10.244.0.7:8080"),
                one("*", 0, Some(80), 80, "10.244.0.7:8080"),
                one("127.0.0.1", 1, None, 81, "10.244.0.7:8081"),
                one("192.0.2.1", 1, None, 81, "10.244.0.7:8082"),
            ]
        );
        assert!(table.keys().all(|id| pod_of(id) == Some(("default", "a"))), "{table:?}");
        // What is the same is the very same.
        let again = super::table(&desired, &wired, &node, &table);
        assert!(
            again.iter().zip(&table).all(|(a, b)| Arc::ptr_eq(&a.0.name, &b.0.name) && Arc::ptr_eq(a.1, b.1))
        );
        assert!(super::table(&desired, &BTreeMap::new(), &node, &table).is_empty(), "gone with its wire");
    }
}
