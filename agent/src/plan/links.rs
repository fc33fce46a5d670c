//! Environment variables that tell a container where the services of its namespace are.

use std::{collections::BTreeMap, net::IpAddr};

use crate::model::{Protocol, ServiceId, ServiceSpec, ServiceTable};

/// Variables for the services of `namespace` (when `all`), and always for `default/kubernetes`.
pub(super) fn service_variables(
    services: &ServiceTable,
    namespace: &str,
    all: bool,
) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    let master = |id: &ServiceId| &*id.namespace == "default" && &*id.name == "kubernetes";
    // The namespace's own services come last: one named `kubernetes` shadows the API's.
    for (id, spec) in services.iter().filter(|(id, _)| master(id)) {
        add(&mut variables, id, spec);
    }
    for (id, spec) in services.iter().filter(|(id, _)| all && &*id.namespace == namespace) {
        add(&mut variables, id, spec);
    }
    variables
}

fn add(variables: &mut BTreeMap<String, String>, id: &ServiceId, spec: &ServiceSpec) {
    let (Some(address), Some(first)) = (spec.cluster_ips.first(), spec.ports.first()) else { return };
    let name = upper(&id.name);
    let address_text = address.to_string();
    variables.insert(format!("{name}_SERVICE_HOST"), address_text.clone());
    variables.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
    for port in spec.ports.iter().filter(|port| !port.name.is_empty()) {
        variables.insert(format!("{name}_SERVICE_PORT_{}", upper(&port.name)), port.port.to_string());
    }
    for (index, port) in spec.ports.iter().enumerate() {
        let protocol = match port.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        let url = match address {
            IpAddr::V4(v4) => format!("{protocol}://{v4}:{}", port.port),
            IpAddr::V6(v6) => format!("{protocol}://[{v6}]:{}", port.port),
        };
        if index == 0 {
            variables.insert(format!("{name}_PORT"), url.clone());
        }
        let prefix = format!("{name}_PORT_{}_{}", port.port, protocol.to_uppercase());
        variables.insert(format!("{prefix}_PROTO"), protocol.to_owned());
        variables.insert(format!("{prefix}_PORT"), port.port.to_string());
        variables.insert(format!("{prefix}_ADDR"), address_text.clone());
        variables.insert(prefix, url);
    }
}

fn upper(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}
