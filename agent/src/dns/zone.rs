//! The cluster's zones as pure functions of [`Names`]: the Kubernetes DNS specification 1.1.0, with CoreDNS's
//! extensions that applications have come to rely on.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use hickory_proto::{
    ProtoError,
    rr::{
        Name, RData, Record, RecordType,
        rdata::{CNAME, NS, PTR, SOA, SRV, TXT},
    },
};

use ipnet::IpNet;

use super::Names;
use crate::model::{Endpoint, Protocol, ServiceId, ServicePort, ServiceSpec, ServiceType};

/// Seconds that clients may keep an answer, and the absence of one: as long as CoreDNS says by default, short
/// because endpoints come and go.
pub(super) const TTL: u32 = 5;

/// What the zones have to say to a question.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    /// Not a name of the cluster: ask elsewhere.
    Foreign,
    /// There is no such name.
    NoName,
    /// The name exists; it may have no record of the type.
    Found(Records),
    /// An alias, whose target is to be resolved too.
    Alias(Name),
}

/// Records of an answer.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Records {
    pub(super) answers: Vec<Record>,
    pub(super) additionals: Vec<Record>,
}

/// Reads a domain, with or without the final dot.
pub(super) fn domain(text: &str) -> Result<Name, ProtoError> {
    let mut name = Name::from_ascii(text)?.to_lowercase();
    name.set_fqdn(true);
    Ok(name)
}

impl Names {
    pub(super) fn answer(&self, name: &Name, kind: RecordType) -> Answer {
        if self.domain.zone_of(name) {
            return self.forward_zone(name, kind);
        }
        match reverse_address(name) {
            Some(address) if self.is_cluster_address(address) => self.reverse_zone(name, kind, address),
            _ => Answer::Foreign,
        }
    }

    /// The record that says how long an absence may be remembered.
    pub(super) fn soa(&self) -> Option<Record> {
        let server = self.below(&["ns", "dns"])?;
        let contact = self.below(&["hostmaster"])?;
        // The serial is of no use: there are no zone transfers.
        let soa = SOA::new(server, contact, 1, 7200, 1800, 86400, TTL);
        Some(Record::from_rdata(self.domain.clone(), TTL, RData::SOA(soa)))
    }

    fn forward_zone(&self, name: &Name, kind: RecordType) -> Answer {
        let depth = usize::from(self.domain.num_labels());
        let Some(labels) = labels(name) else { return Answer::NoName };
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let Some(labels) = labels.len().checked_sub(depth).map(|below| &labels[..below]) else {
            return Answer::NoName;
        };
        match labels {
            [] => self.apex(name, kind),
            ["dns-version"] => text(name, kind, "1.1.0"),
            ["dns"] | ["svc"] | ["pod"] => Answer::Found(Records::default()),
            ["ns", "dns"] => addresses(name, kind, [self.cluster.dns_ip]),
            [namespace, "svc"] if self.has_namespace(namespace) => Answer::Found(Records::default()),
            [service, namespace, "svc"] => self.service(name, kind, namespace, service),
            [proto, service, namespace, "svc"] if proto.starts_with('_') => {
                let named = self.ports(namespace, service).any(|port| proto_label(port.protocol) == *proto);
                if named { Answer::Found(Records::default()) } else { Answer::NoName }
            }
            [host, service, namespace, "svc"] => self.endpoint(name, kind, namespace, service, host),
            [port, proto, service, namespace, "svc"] => {
                self.port(name, kind, [port, proto, service, namespace])
            }
            [address, _namespace, "pod"] => match dashed(address) {
                Some(address) => addresses(name, kind, [address]),
                None => Answer::NoName,
            },
            _ => Answer::NoName,
        }
    }

    fn apex(&self, name: &Name, kind: RecordType) -> Answer {
        let record = match kind {
            RecordType::SOA => self.soa(),
            RecordType::NS => self.below(&["ns", "dns"]).map(|server| record(name, RData::NS(NS(server)))),
            _ => None,
        };
        Answer::Found(Records { answers: record.into_iter().collect(), ..Records::default() })
    }

    fn service(&self, name: &Name, kind: RecordType, namespace: &str, service: &str) -> Answer {
        let Some(spec) = self.spec(namespace, service) else { return Answer::NoName };
        if spec.kind == ServiceType::ExternalName {
            return external(spec);
        }
        if kind == RecordType::SRV {
            let records = self.services_of(name, namespace, service, spec.ports.iter());
            return self.found_unless_headless_without_endpoints(spec, records);
        }
        if !spec.headless {
            return addresses(name, kind, spec.cluster_ips.iter().copied());
        }
        let answering: BTreeSet<IpAddr> = endpoints(spec).map(|endpoint| endpoint.address.ip()).collect();
        if answering.is_empty() { Answer::NoName } else { addresses(name, kind, answering) }
    }

    /// A single endpoint by its host name, or by its address written with dashes.
    fn endpoint(&self, name: &Name, kind: RecordType, namespace: &str, service: &str, host: &str) -> Answer {
        let Some(spec) = self.spec(namespace, service) else { return Answer::NoName };
        let named: BTreeSet<IpAddr> = endpoints(spec)
            .filter(|endpoint| host_label(endpoint).eq_ignore_ascii_case(host))
            .map(|endpoint| endpoint.address.ip())
            .collect();
        if named.is_empty() { Answer::NoName } else { addresses(name, kind, named) }
    }

    /// `_port._proto.service.namespace.svc`
    fn port(&self, name: &Name, kind: RecordType, labels: [&str; 4]) -> Answer {
        let [port, proto, service, namespace] = labels;
        let (Some(port), Some(spec)) = (port.strip_prefix('_'), self.spec(namespace, service)) else {
            return Answer::NoName;
        };
        let mut named = spec
            .ports
            .iter()
            .filter(|known| {
                !known.name.is_empty() && known.name == port && proto_label(known.protocol) == proto
            })
            .peekable();
        if named.peek().is_none() {
            return Answer::NoName;
        }
        if kind != RecordType::SRV {
            return Answer::Found(Records::default());
        }
        let records = self.services_of(name, namespace, service, named);
        self.found_unless_headless_without_endpoints(spec, records)
    }

    /// SRV records with the addresses of their targets.
    fn services_of<'a>(
        &self,
        name: &Name,
        namespace: &str,
        service: &str,
        ports: impl Iterator<Item = &'a ServicePort>,
    ) -> Records {
        let mut records = Records::default();
        let Some(spec) = self.spec(namespace, service) else { return records };
        let mut told = BTreeSet::new();
        let mut tell = |host: Option<&str>, port: u16, addresses: &[IpAddr]| {
            let below: Vec<&str> = host.into_iter().chain([service, namespace, "svc"]).collect();
            let Some(target) = self.below(&below) else { return };
            if port != 0 {
                records.answers.push(record(name, RData::SRV(SRV::new(0, 100, port, target.clone()))));
                let new = addresses.iter().filter(|address| told.insert((target.clone(), **address)));
                records.additionals.extend(new.map(|address| record(&target, (*address).into())));
            }
        };
        for port in ports {
            if !spec.headless {
                tell(None, port.port, &spec.cluster_ips);
                continue;
            }
            for endpoint in port.endpoints.iter().filter(|endpoint| answers(spec, endpoint)) {
                let address = endpoint.address;
                tell(Some(&host_label(endpoint)), address.port(), &[address.ip()]);
            }
        }
        records
    }

    fn found_unless_headless_without_endpoints(&self, spec: &ServiceSpec, records: Records) -> Answer {
        if spec.headless && endpoints(spec).next().is_none() {
            Answer::NoName
        } else {
            Answer::Found(records)
        }
    }

    fn reverse_zone(&self, name: &Name, kind: RecordType, address: IpAddr) -> Answer {
        let names = self.reverse().names(address);
        let mut found: Vec<Record> = names
            .iter()
            .filter_map(|labels| {
                let labels: Vec<&str> = labels.iter().map(AsRef::as_ref).collect();
                Some(record(name, RData::PTR(PTR(self.below(&labels)?))))
            })
            .collect();
        if found.is_empty() {
            return Answer::NoName;
        }
        if kind != RecordType::PTR {
            found.clear();
        }
        Answer::Found(Records { answers: found, ..Records::default() })
    }

    fn reverse(&self) -> &super::Reverse {
        self.reverse.get_or_init(|| super::Reverse::of(&self.services))
    }

    fn is_cluster_address(&self, address: IpAddr) -> bool {
        // Services may have addresses of further ranges, of which a node is told no more than these addresses.
        let within = |range: IpNet| range.contains(&address);
        within(self.cluster.service_cidr)
            || within(self.cluster.pod_cidr)
            || self.reverse().is_service(address)
    }

    fn spec(&self, namespace: &str, service: &str) -> Option<&ServiceSpec> {
        let id = ServiceId { namespace: namespace.into(), name: service.into() };
        self.services.get(&id).map(AsRef::as_ref)
    }

    fn ports(&self, namespace: &str, service: &str) -> impl Iterator<Item = &ServicePort> {
        self.spec(namespace, service).into_iter().flat_map(|spec| &spec.ports)
    }

    fn has_namespace(&self, namespace: &str) -> bool {
        let first = ServiceId { namespace: namespace.into(), name: "".into() };
        self.services.range(first..).next().is_some_and(|(id, _)| &*id.namespace == namespace)
    }

    /// A name below the cluster's domain; `None` when it would be too long.
    fn below(&self, labels: &[&str]) -> Option<Name> {
        Name::from_labels(labels.iter().map(|label| label.as_bytes())).ok()?.append_domain(&self.domain).ok()
    }
}

fn external(spec: &ServiceSpec) -> Answer {
    match spec.external_name.as_deref().map(domain) {
        Some(Ok(target)) => Answer::Alias(target),
        _ => Answer::NoName,
    }
}

fn endpoints(spec: &ServiceSpec) -> impl Iterator<Item = &Endpoint> {
    spec.ports.iter().flat_map(|port| &port.endpoints).filter(move |endpoint| answers(spec, endpoint))
}

fn answers(spec: &ServiceSpec, endpoint: &Endpoint) -> bool {
    endpoint.ready || spec.publish_not_ready
}

/// An endpoint's label below its service.
pub(super) fn host_label(endpoint: &Endpoint) -> String {
    if !endpoint.hostname.is_empty() {
        return endpoint.hostname.clone();
    }
    endpoint.address.ip().to_string().replace(['.', ':'], "-")
}

fn addresses(name: &Name, kind: RecordType, all: impl IntoIterator<Item = IpAddr>) -> Answer {
    let wanted = |address: &IpAddr| match kind {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        RecordType::ANY => true,
        _ => false,
    };
    let answers = all.into_iter().filter(wanted).map(|address| record(name, address.into())).collect();
    Answer::Found(Records { answers, ..Records::default() })
}

fn text(name: &Name, kind: RecordType, value: &str) -> Answer {
    let mut records = Records::default();
    if matches!(kind, RecordType::TXT | RecordType::ANY) {
        records.answers.push(record(name, RData::TXT(TXT::new(vec![value.to_owned()]))));
    }
    Answer::Found(records)
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data)
}

/// The record of an alias.
pub(super) fn alias(name: &Name, target: &Name) -> Record {
    record(name, RData::CNAME(CNAME(target.clone())))
}

fn proto_label(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "_tcp",
        Protocol::Udp => "_udp",
        Protocol::Sctp => "_sctp",
    }
}

/// Lower-case labels, first to last; `None` when one is not text.
fn labels(name: &Name) -> Option<Vec<String>> {
    name.iter().map(|label| std::str::from_utf8(label).ok().map(str::to_ascii_lowercase)).collect()
}

/// `10-0-0-1`, or an IPv6 address with dashes for colons.
fn dashed(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    v4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6)).ok()
}

/// The whole address that a name below `in-addr.arpa` or `ip6.arpa` stands for.
fn reverse_address(name: &Name) -> Option<IpAddr> {
    let network = name.parse_arpa_name().ok()?;
    (network.prefix_len() == network.max_prefix_len()).then(|| network.addr())
}
