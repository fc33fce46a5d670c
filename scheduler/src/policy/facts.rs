//! What network policy needs of the stored objects, and nothing else of them. Kubernetes types go in and end here.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use gantry_proto::node::v1 as pb;
use ipnet::IpNet;
use k8s_openapi::{
    api::{
        core::v1::{Container, Pod},
        networking::v1::{
            NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
            NetworkPolicyPort,
        },
    },
    apimachinery::pkg::{apis::meta::v1 as meta, util::intstr::IntOrString},
};
use sha2::{Digest as _, Sha256};

use crate::model::{LabelSelector, SelectorError};

/// On a NetworkPolicy, or on a Namespace for all policies in it: `true` has what they would drop pass and be told.
pub const AUDIT: &str = "gantry.dev/policy-audit";

/// Namespace and name.
pub(super) type Name = (Arc<str>, Arc<str>);
/// Labels of an object.
pub(super) type Labels = BTreeMap<String, String>;
/// A named port as rules ask for it: its name and protocol.
pub(super) type PortName = (String, i32);

/// A policy that cannot be compiled. The API refuses such policies; the last form that could be stays in force.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A label selector.
    #[error("a selector of the policy is not understood")]
    Selector(#[from] SelectorError),
    /// An ipBlock.
    #[error("{value:?} is not a CIDR")]
    Cidr {
        /// As given.
        value: String,
        /// What is wrong with it.
        #[source]
        source: ipnet::AddrParseError,
    },
    /// Protocol, port or range.
    #[error("a port of the policy is not understood: {0}")]
    Port(String),
}

/// Whose pods a group's selector is asked about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Scope {
    /// Those of the namespace.
    In(Arc<str>),
    /// Those of the namespaces that match.
    Matching(LabelSelector),
}

/// Pods that rules ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selection {
    pub(super) scope: Scope,
    pub(super) pods: LabelSelector,
}

impl Selection {
    /// Its number. Nobody can make a selector that has another's: that would take 2^64 tries.
    fn number(&self) -> u64 {
        digest(&format!("{self:?}"))
    }
}

/// A policy, compiled as far as it can be without the pods.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct PolicyFacts {
    pub(super) select: LabelSelector,
    pub(super) audit: bool,
    /// Without audit.
    pub(super) form: pb::Policy,
    pub(super) groups: BTreeMap<u64, Selection>,
    /// Ports that rules for what goes out name: those of peers.
    pub(super) peer_ports: BTreeSet<PortName>,
    /// Ports that rules for what comes in name: those of the selected pods.
    pub(super) own_ports: BTreeSet<PortName>,
}

impl Selection {
    fn of(
        namespace: &Arc<str>,
        of_pods: Option<&meta::LabelSelector>,
        of_namespaces: Option<&meta::LabelSelector>,
    ) -> Result<Self, SelectorError> {
        let scope = match of_namespaces {
            Some(selector) => Scope::Matching(LabelSelector::from_object(selector)?),
            None => Scope::In(Arc::clone(namespace)),
        };
        let pods = of_pods.map(LabelSelector::from_object).transpose()?.unwrap_or_default();
        Ok(Self { scope, pods })
    }
}

impl PolicyFacts {
    pub(super) fn of(policy: &NetworkPolicy) -> Result<Self, PolicyError> {
        let namespace: Arc<str> = policy.metadata.namespace.as_deref().unwrap_or_default().into();
        let spec = policy.spec.clone().unwrap_or_default();
        let mut facts = Self { audit: audits(&policy.metadata), ..Self::default() };
        facts.select =
            spec.pod_selector.as_ref().map(LabelSelector::from_object).transpose()?.unwrap_or_default();
        let types = spec.policy_types.unwrap_or_default();
        let egress = spec.egress.unwrap_or_default();
        facts.form.ingress = types.is_empty() || types.iter().any(|kind| kind == "Ingress");
        facts.form.egress =
            types.iter().any(|kind| kind == "Egress") || types.is_empty() && !egress.is_empty();
        if facts.form.ingress {
            for NetworkPolicyIngressRule { from, ports } in spec.ingress.unwrap_or_default() {
                let rule = facts.rule(&namespace, from, ports)?;
                facts.own_ports.extend(names(&rule));
                facts.form.ingress_rules.push(rule);
            }
        }
        if facts.form.egress {
            for NetworkPolicyEgressRule { to, ports } in egress {
                let rule = facts.rule(&namespace, to, ports)?;
                facts.peer_ports.extend(names(&rule));
                facts.form.egress_rules.push(rule);
            }
        }
        facts.form.revision = digest(&format!("{namespace} {:?} {:?}", facts.select, facts.form));
        Ok(facts)
    }

    fn rule(
        &mut self,
        namespace: &Arc<str>,
        peers: Option<Vec<NetworkPolicyPeer>>,
        ports: Option<Vec<NetworkPolicyPort>>,
    ) -> Result<pb::PolicyRule, PolicyError> {
        let (peers, ports) = (peers.unwrap_or_default(), ports.unwrap_or_default());
        let mut rule =
            pb::PolicyRule { any_peer: peers.is_empty(), any_port: ports.is_empty(), ..Default::default() };
        for peer in peers {
            if let Some(block) = peer.ip_block {
                let except = block.except.unwrap_or_default();
                let except = except.iter().map(|text| cidr(text)).collect::<Result<_, _>>()?;
                rule.blocks.push(pb::IpBlock { cidr: cidr(&block.cidr)?, except });
            } else if peer.pod_selector.is_some() || peer.namespace_selector.is_some() {
                let selection =
                    Selection::of(namespace, peer.pod_selector.as_ref(), peer.namespace_selector.as_ref())?;
                let number = selection.number();
                rule.groups.push(number);
                self.groups.insert(number, selection);
            }
        }
        for given in ports {
            rule.ports.push(port(&given)?);
        }
        Ok(rule)
    }

    /// The policy as nodes are told it.
    pub(super) fn told(&self, namespace_audits: bool) -> pb::Policy {
        let audit = self.audit || namespace_audits;
        pb::Policy { audit, revision: self.form.revision ^ u64::from(audit), ..self.form.clone() }
    }
}

/// Whether an object's policies only audit.
pub(super) fn audits(meta: &meta::ObjectMeta) -> bool {
    meta.annotations.as_ref().and_then(|all| all.get(AUDIT)).is_some_and(|value| value == "true")
}

fn digest(text: &str) -> u64 {
    let [a, b, c, d, e, f, g, h, ..]: [u8; 32] = Sha256::digest(text).into();
    // The lowest bit is kept free for audit.
    u64::from_be_bytes([a, b, c, d, e, f, g, h]) & !1
}

fn names(rule: &pb::PolicyRule) -> impl Iterator<Item = PortName> {
    rule.ports.iter().filter(|port| !port.name.is_empty()).map(|port| (port.name.clone(), port.protocol))
}

/// In the form that has no bits behind the prefix.
fn cidr(text: &str) -> Result<String, PolicyError> {
    let parsed = text.parse::<IpNet>();
    let net = parsed.map_err(|source| PolicyError::Cidr { value: text.to_owned(), source })?;
    Ok(net.trunc().to_string())
}

fn protocol(name: Option<&str>) -> Option<pb::Protocol> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(pb::Protocol::Tcp),
        "UDP" => Some(pb::Protocol::Udp),
        "SCTP" => Some(pb::Protocol::Sctp),
        _ => None,
    }
}

fn port(given: &NetworkPolicyPort) -> Result<pb::PolicyPort, PolicyError> {
    let wrong = || PolicyError::Port(format!("{given:?}"));
    let number = |number: i32| u16::try_from(number).ok().filter(|port| *port != 0).ok_or_else(wrong);
    let protocol = protocol(given.protocol.as_deref()).ok_or_else(wrong)?.into();
    let (first, last, name) = match (&given.port, given.end_port) {
        (None, None) => (0, 0, String::new()),
        (Some(IntOrString::Int(first)), end) => {
            (number(*first)?, number(end.unwrap_or(*first))?, String::new())
        }
        (Some(IntOrString::String(name)), None) if !name.is_empty() => (0, 0, name.clone()),
        _ => return Err(wrong()),
    };
    if last < first {
        return Err(wrong());
    }
    Ok(pb::PolicyPort { protocol, first: first.into(), last: last.into(), name })
}

/// A pod that policies can select and match: not in the host's network, and not finished.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PodFacts {
    pub(super) uid: String,
    pub(super) node: Option<Arc<str>>,
    pub(super) labels: Labels,
    pub(super) addresses: Vec<String>,
    pub(super) ports: BTreeMap<PortName, u32>,
}

impl PodFacts {
    pub(super) fn of(pod: &Pod) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let status = pod.status.clone().unwrap_or_default();
        if spec.host_network == Some(true) || matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
        {
            return None;
        }
        let listed = status.pod_ips.unwrap_or_default().into_iter().map(|ip| ip.ip);
        let addresses: BTreeSet<String> =
            listed.chain(status.pod_ip).filter_map(|ip| canonical(&ip)).collect();
        Some(Self {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            node: spec.node_name.as_deref().filter(|name| !name.is_empty()).map(Into::into),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            addresses: addresses.into_iter().collect(),
            ports: named_ports(spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(
                |c| {
                    // One that is restarted always runs beside the others.
                    c.restart_policy.as_deref() == Some("Always")
                },
            ))),
        })
    }
}

fn canonical(ip: &str) -> Option<String> {
    ip.parse::<IpAddr>().ok().map(|ip| ip.to_string())
}

/// Of several with one name the first counts, as it does for services.
fn named_ports<'a>(containers: impl Iterator<Item = &'a Container>) -> BTreeMap<PortName, u32> {
    let mut out = BTreeMap::new();
    for port in containers.flat_map(|container| container.ports.iter().flatten()) {
        if let (Some(name), Some(protocol)) = (&port.name, protocol(port.protocol.as_deref()))
            && let Ok(number) = u16::try_from(port.container_port)
        {
            out.entry((name.clone(), protocol.into())).or_insert_with(|| number.into());
        }
    }
    out
}
