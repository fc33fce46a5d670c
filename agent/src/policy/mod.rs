//! Network policy on the node: from what the centre says to what stands in the datapath's maps.
//!
//! In: [`Wanted`], the policies, peers and pods that the node was told of. [`compile()`] makes of it what each pod and each
//! address should be; [`Table`] knows what stands, and says by which steps one becomes the other. Out: [`Step`]s, single
//! writes to maps in an order in which nothing passes that neither the old nor the new state allows. Never: IO, a clock,
//! or a write of its own. Nothing applies the steps yet.

mod classes;
mod compile;
mod plan;
mod sets;
mod table;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;

pub use compile::{Compiled, Unready, compile};
pub use plan::{Full, Outcome, Step};
pub use table::{Limits, Standing, Table};

/// Namespace and name.
pub type Name = (Arc<str>, Arc<str>);

/// What the node was told of network policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Policies that select pods of this node.
    pub policies: BTreeMap<Name, Policy>,
    /// Pods of the cluster that they ask for.
    pub peers: BTreeMap<Name, Peer>,
    /// The node's pods.
    pub pods: BTreeMap<Name, PodPolicy>,
}

/// A NetworkPolicy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Another for another content.
    pub revision: u64,
    /// Rules for what comes in, when it isolates that.
    pub ingress: Option<Vec<Rule>>,
    /// Rules for what goes out, when it isolates that.
    pub egress: Option<Vec<Rule>>,
    /// What it would drop passes, and is told.
    pub audit: bool,
}

/// One rule: any of its peers at any of its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// None: everybody.
    pub peers: Option<Vec<Predicate>>,
    /// None: everything, of every protocol.
    pub ports: Option<Vec<Ports>>,
}

/// Ports as a rule names them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ports {
    /// Every port of a protocol.
    All(u8),
    /// From the first to the last.
    Range(u8, u16, u16),
    /// What the pod that is connected to calls by that name.
    Named(u8, Arc<str>),
}

/// What rules ask of an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Predicate {
    /// A pod of the group.
    Group(u64),
    /// In a range, and in none of the ranges that are excepted from it.
    Block(IpNet, Arc<[IpNet]>),
    /// A pod that has this port.
    Port(NamedPort),
}

/// A named port of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// Its name.
    pub name: Arc<str>,
    /// Its protocol.
    pub proto: u8,
    /// Its number.
    pub port: u16,
}

/// A pod that policies ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Of both families.
    pub addresses: Vec<IpAddr>,
    /// The groups that it is in.
    pub groups: Vec<u64>,
    /// Its named ports.
    pub ports: Vec<NamedPort>,
}

/// The policies of one of the node's pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodPolicy {
    /// Which select it, each with its revision.
    pub policies: Vec<(Name, u64)>,
    /// Its named ports.
    pub ports: Vec<NamedPort>,
}

/// Which rule of which policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleName {
    /// The policy.
    pub policy: Name,
    /// From 0, among those of the direction.
    pub number: usize,
}
