//! Network policy, from the wire. What does not parse rejects the whole update: a rule without its last exception, or a
//! pod without its last policy, would be one that is open to more.

use std::sync::Arc;

use gantry_proto::node::v1::{self as pb, update::Body};
use ipnet::IpNet;

use super::ConvertError;
use crate::policy::{Name, NamedPort, Peer, PodPolicy, Policy, Ports, Predicate, Rule, Wanted};

const FIELD: &str = "network policy";

/// Takes an update of network policy into `wanted`. False when it is about something else.
pub fn policy_update(wanted: &mut Wanted, update: &pb::Update) -> Result<bool, ConvertError> {
    let name: Name = (update.namespace.as_str().into(), update.name.as_str().into());
    match (update.kind(), &update.body, update.removed) {
        (pb::ObjectKind::Policy, _, true) => drop(wanted.policies.remove(&name)),
        (pb::ObjectKind::PolicyPeer, _, true) => drop(wanted.peers.remove(&name)),
        (pb::ObjectKind::PodPolicy, _, true) => drop(wanted.pods.remove(&name)),
        (pb::ObjectKind::Policy, Some(Body::Policy(told)), _) => {
            wanted.policies.insert(name, policy(told)?);
        }
        (pb::ObjectKind::PolicyPeer, Some(Body::PolicyPeer(told)), _) => {
            wanted.peers.insert(name, peer(told)?);
        }
        (pb::ObjectKind::PodPolicy, Some(Body::PodPolicy(told)), _) => {
            wanted.pods.insert(name, pod(told)?);
        }
        (pb::ObjectKind::Policy | pb::ObjectKind::PolicyPeer | pb::ObjectKind::PodPolicy, ..) => {
            return Err(ConvertError::Field(FIELD));
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn policy(told: &pb::Policy) -> Result<Policy, ConvertError> {
    let rules = |isolates: bool, told: &[pb::PolicyRule]| -> Result<_, ConvertError> {
        isolates.then(|| told.iter().map(rule).collect()).transpose()
    };
    Ok(Policy {
        revision: told.revision,
        ingress: rules(told.ingress, &told.ingress_rules)?,
        egress: rules(told.egress, &told.egress_rules)?,
        audit: told.audit,
    })
}

fn rule(told: &pb::PolicyRule) -> Result<Rule, ConvertError> {
    let groups = told.groups.iter().map(|group| Ok(Predicate::Group(*group)));
    let blocks = told.blocks.iter().map(|block| {
        let except = block.except.iter().map(|text| net(text)).collect::<Result<Arc<[IpNet]>, _>>()?;
        Ok(Predicate::Block(net(&block.cidr)?, except))
    });
    let peers = (!told.any_peer).then(|| groups.chain(blocks).collect()).transpose()?;
    let ports = (!told.any_port).then(|| told.ports.iter().map(ports).collect()).transpose()?;
    Ok(Rule { peers, ports })
}

fn ports(told: &pb::PolicyPort) -> Result<Ports, ConvertError> {
    let proto = protocol(told.protocol())?;
    if !told.name.is_empty() {
        return Ok(Ports::Named(proto, told.name.as_str().into()));
    }
    match (port(told.first)?, port(told.last)?) {
        (0, 0) => Ok(Ports::All(proto)),
        (first, last) if first != 0 && first <= last => Ok(Ports::Range(proto, first, last)),
        _ => Err(ConvertError::Field(FIELD)),
    }
}

fn peer(told: &pb::PolicyPeer) -> Result<Peer, ConvertError> {
    let addresses = told.addresses.iter().map(|text| text.parse().map_err(|_| unknown(text)));
    Ok(Peer {
        addresses: addresses.collect::<Result<_, _>>()?,
        groups: told.groups.clone(),
        ports: named(&told.ports)?,
    })
}

fn pod(told: &pb::PodPolicy) -> Result<PodPolicy, ConvertError> {
    let reference = |told: &pb::PolicyReference| {
        ((told.namespace.as_str().into(), told.name.as_str().into()), told.revision)
    };
    Ok(PodPolicy { policies: told.policies.iter().map(reference).collect(), ports: named(&told.ports)? })
}

fn named(told: &[pb::NamedPort]) -> Result<Vec<NamedPort>, ConvertError> {
    let named = |told: &pb::NamedPort| {
        let (proto, port) = (protocol(told.protocol())?, port(told.port)?);
        Ok(NamedPort { name: told.name.as_str().into(), proto, port })
    };
    told.iter().map(named).collect()
}

fn net(text: &str) -> Result<IpNet, ConvertError> {
    text.parse().map_err(|_| unknown(text))
}

fn unknown(text: &str) -> ConvertError {
    ConvertError::Value { field: FIELD, value: text.to_owned() }
}

fn port(told: u32) -> Result<u16, ConvertError> {
    told.try_into().map_err(|_| unknown(&told.to_string()))
}

/// Numbers of the IP layer.
fn protocol(told: pb::Protocol) -> Result<u8, ConvertError> {
    match told {
        pb::Protocol::Tcp => Ok(6),
        pb::Protocol::Udp => Ok(17),
        pb::Protocol::Sctp => Ok(132),
        pb::Protocol::Unspecified => Err(ConvertError::Field("protocol")),
    }
}
