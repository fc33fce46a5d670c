//! The same services as this project's table and as the rule sets that kube-proxy writes: what Kubernetes 1.37
//! has for a ClusterIP service with four endpoints, comments left out.

use std::{
    fmt::Write as _,
    io::Write as _,
    process::{Command, Stdio},
    sync::Arc,
};

use gantry_agent::model::{
    Endpoint, Protocol, ServiceId, ServicePort, ServiceSpec, ServiceTable, ServiceType,
};

use crate::worker::{BACKEND_PORT, BACKENDS, vip};

/// Addresses that are not masqueraded: kube-proxy's `--cluster-cidr`. Here all of them.
const CLUSTER: &str = "192.0.2.0/24";

/// Feeds `input` to a command that must succeed.
pub(crate) fn load(command: &[&str], input: &str) {
    let mut child = Command::new(command[0]).args(&command[1..]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{command:?}");
}

/// `count` services for the agent.
pub(crate) fn service_table(count: u32) -> ServiceTable {
    (0..count)
        .map(|number| (id(number), Arc::new(spec(number, &BACKENDS.map(|address| address.octets()[3])))))
        .collect()
}

pub(crate) fn id(number: u32) -> ServiceId {
    ServiceId { namespace: "bench".into(), name: format!("service-{number:05}").into() }
}

/// A service with the backends 10.99.0.`lasts`.
pub(crate) fn spec(number: u32, lasts: &[u8]) -> ServiceSpec {
    let endpoint = |&last: &u8| Endpoint {
        address: ([10, 99, 0, last], BACKEND_PORT).into(),
        node: Some("node".into()),
        ready: true,
        serving: true,
        terminating: false,
        hostname: String::new(),
        pod: String::new(),
    };
    ServiceSpec {
        generation: 1,
        kind: ServiceType::ClusterIp,
        cluster_ips: vec![vip(number).into()],
        headless: false,
        external_name: None,
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        affinity: None,
        internal_local: false,
        external_local: false,
        publish_not_ready: false,
        health_port: None,
        source_ranges: Vec::new(),
        ports: vec![ServicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
            endpoints: lasts.iter().map(endpoint).collect(),
        }],
    }
}

/// kube-proxy's nftables mode: verdict maps, a chain per service and endpoint.
pub(crate) fn nftables(count: u32) -> String {
    let mut text = String::from(
        "table ip kube-proxy {\n\
         map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }\n\
         map firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict; }\n\
         map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }\n\
         map service-nodeports { type inet_proto . inet_service : verdict; }\n\
         set nodeport-ips { type ipv4_addr; }\n\
         chain mark-for-masquerade { meta mark set meta mark or 0x4000; }\n\
         chain masquerading { meta mark and 0x4000 == 0 return\n meta mark set meta mark xor 0x4000\n masquerade fully-random; }\n\
         chain services { ip daddr . meta l4proto . th dport vmap @service-ips\n ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports; }\n\
         chain service-endpoints-check { ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }\n\
         chain firewall-check { ip daddr . meta l4proto . th dport vmap @firewall-ips; }\n\
         chain filter-prerouting { type filter hook prerouting priority dstnat - 10; ct state new jump firewall-check; }\n\
         chain filter-input { type filter hook input priority 0; ct state new jump service-endpoints-check; }\n\
         chain filter-forward { type filter hook forward priority 0; ct state new jump service-endpoints-check; }\n\
         chain filter-output { type filter hook output priority 0; ct state new jump service-endpoints-check; }\n\
         chain filter-output-post-dnat { type filter hook output priority -90; ct state new jump firewall-check; }\n\
         chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }\n\
         chain nat-output { type nat hook output priority -100; jump services; }\n\
         chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }\n}\n",
    );
    for number in 0..count {
        for (index, backend) in BACKENDS.iter().enumerate() {
            writeln!(
                text,
                "add chain ip kube-proxy endpoint-{number}-{index}\n\
                 add rule ip kube-proxy endpoint-{number}-{index} ip saddr {backend} jump mark-for-masquerade\n\
                 add rule ip kube-proxy endpoint-{number}-{index} meta l4proto tcp dnat to {backend}:{BACKEND_PORT}"
            )
            .unwrap();
        }
        let address = vip(number);
        let spread: Vec<String> =
            (0..BACKENDS.len()).map(|index| format!("{index} : goto endpoint-{number}-{index}")).collect();
        writeln!(
            text,
            "add chain ip kube-proxy service-{number}\n\
             add rule ip kube-proxy service-{number} ip daddr {address} tcp dport 80 ip saddr != {CLUSTER} jump mark-for-masquerade\n\
             add rule ip kube-proxy service-{number} numgen random mod {} vmap {{ {} }}\n\
             add element ip kube-proxy service-ips {{ {address} . tcp . 80 : goto service-{number} }}",
            BACKENDS.len(),
            spread.join(", ")
        )
        .unwrap();
    }
    text
}

/// kube-proxy's iptables mode: one list of all services, a chain per service and endpoint.
pub(crate) fn iptables(count: u32) -> String {
    let mut chains =
        String::from("*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n");
    let mut rules = String::from(
        "-A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n-A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n",
    );
    for number in 0..count {
        let address = vip(number);
        writeln!(chains, ":KUBE-SVC-{number} - [0:0]").unwrap();
        writeln!(
            rules,
            "-A KUBE-SERVICES -d {address}/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-{number}\n\
             -A KUBE-SVC-{number} ! -s {CLUSTER} -d {address}/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ"
        )
        .unwrap();
        for (index, backend) in BACKENDS.iter().enumerate() {
            writeln!(chains, ":KUBE-SEP-{number}-{index} - [0:0]").unwrap();
            let left = BACKENDS.len() - index;
            let chance = if left == 1 {
                String::new()
            } else {
                format!("-m statistic --mode random --probability {:.11} ", 1.0 / left as f64)
            };
            writeln!(
                rules,
                "-A KUBE-SVC-{number} {chance}-j KUBE-SEP-{number}-{index}\n\
                 -A KUBE-SEP-{number}-{index} -s {backend}/32 -j KUBE-MARK-MASQ\n\
                 -A KUBE-SEP-{number}-{index} -p tcp -m tcp -j DNAT --to-destination {backend}:{BACKEND_PORT}"
            )
            .unwrap();
        }
    }
    format!("{chains}{rules}COMMIT\n")
}
