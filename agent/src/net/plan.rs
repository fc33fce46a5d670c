//! What differs between the network that the node should have and the one that the kernel has. Pure: in go what is
//! wanted and what was seen, out come the changes. What is of anybody else's (another protocol number, another label,
//! another interface) is never named by a change, and what is not known yet asks for none.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::{IpNet, Ipv4Net};

use super::{
    NetError, NodeWants, Part, Peers,
    netlink::{Address, Link, Reach, Route},
    pod, v4,
};
use crate::model::{ClusterNetwork, NodeName};

/// End of the label on our addresses. A label begins with the interface's name and has 15 characters at most.
const LABEL: &str = ":gnt";
const LABEL_LEN: usize = 15;

/// How the kernel would send to each peer's address; `None` when it would not.
pub(super) type Hops = BTreeMap<Ipv4Addr, Option<Reach>>;

/// The host's side of a pod's pair: what leads there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PodEnd {
    pub(super) address: Ipv4Addr,
    pub(super) mac: [u8; 6],
}

/// What the kernel has, in the main table and on all interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) links: Vec<Link>,
    pub(super) addresses: Vec<Address>,
    pub(super) routes: Vec<Route>,
}

/// What a pass knows besides.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// Index of the uplink.
    pub(super) uplink: Option<u32>,
    pub(super) hops: Hops,
    /// By the name of the host's side; `None` until left-overs of an earlier agent are dealt with.
    pub(super) pods: Option<BTreeMap<String, PodEnd>>,
}

/// One request to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Sets an interface up.
    Up(u32),
    /// Puts a /32 of the host's own on loopback.
    Own { index: u32, address: Ipv4Addr, label: String },
    /// Puts a /32 on the uplink and tells the neighbours.
    Announce { index: u32, mac: Option<[u8; 6]>, address: Ipv4Addr, label: String },
    /// Removes one of our addresses.
    RemoveAddress(Address),
    /// Says at which hardware address a pod is.
    Neighbour { index: u32, address: Ipv4Addr, mac: [u8; 6] },
    /// Adds one of our routes or replaces the one there.
    SetRoute(Route),
    /// Removes one of our routes.
    RemoveRoute(Route),
}

/// The outcome. Changes are in the order in which they are to be made.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) changes: Vec<(Part, Change)>,
    pub(super) failures: Vec<(Part, NetError)>,
}

/// Compares.
pub(super) fn plan(wants: &NodeWants, seen: &Seen, known: &Known) -> Plan {
    let mut planner = Planner { seen, claimed: BTreeSet::new(), plan: Plan::default() };
    if let Some(cluster) = &wants.cluster {
        planner.ranges(cluster);
    }
    if let Some(pods) = &known.pods {
        planner.pods(pods);
    }
    if let Some(peers) = &wants.peers {
        planner.peers(peers, &known.hops);
    }
    if let Some(announced) = &wants.announced {
        planner.announced(announced, known.uplink);
    }
    planner.plan
}

/// Whether an address has our label.
pub(super) fn is_ours(address: &Address) -> bool {
    address.label.as_deref().is_some_and(|label| label.ends_with(LABEL))
}

/// The interface by which the node is reached: the configured one; else that of the best default route; else the one it
/// was before, as long as it exists, because an interface that is set up anew has neither route nor address for a
/// moment; else the first with a global address.
pub(super) fn uplink<'a>(configured: Option<&str>, before: Option<&str>, seen: &'a Seen) -> Option<&'a Link> {
    let named = |name: &str| seen.links.iter().find(|link| link.name == name);
    if let Some(name) = configured {
        return named(name);
    }
    let defaults = seen.routes.iter().filter(|route| route.to.prefix_len() == 0 && !route.ours);
    let default = defaults.min_by_key(|route| route.metric).and_then(|route| route.link);
    if let Some(link) = default.and_then(|index| seen.links.iter().find(|link| link.index == index)) {
        return Some(link);
    }
    if let Some(link) = before.and_then(named) {
        return Some(link);
    }
    let addressed: BTreeSet<u32> = seen.addresses.iter().filter(|a| a.global).map(|a| a.index).collect();
    seen.links.iter().find(|link| {
        link.up && !link.loopback && !pod::is_host_side(&link.name) && addressed.contains(&link.index)
    })
}

/// The node's own addresses on its uplink, primary first.
pub(super) fn node_addresses(uplink: &Link, seen: &Seen) -> Vec<IpAddr> {
    let own = seen.addresses.iter().filter(|a| a.index == uplink.index && a.global && !is_ours(a));
    own.map(|address| IpAddr::V4(address.address)).collect()
}

/// What the way to a peer depends on: as long as it is the same the kernel would give the same answers.
pub(super) fn surroundings(seen: &Seen) -> Seen {
    Seen {
        links: seen.links.iter().filter(|link| !pod::is_host_side(&link.name)).cloned().collect(),
        addresses: seen.addresses.clone(),
        routes: seen.routes.iter().filter(|route| !route.ours).cloned().collect(),
    }
}

/// The address that a peer is reached at.
pub(super) fn peer_address(addresses: &[IpAddr]) -> Option<Ipv4Addr> {
    addresses.iter().copied().find_map(as_v4)
}

fn as_v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

struct Planner<'a> {
    seen: &'a Seen,
    /// Destinations that a route is wanted to already.
    claimed: BTreeSet<Ipv4Net>,
    plan: Plan,
}

impl Planner<'_> {
    fn change(&mut self, part: Part, change: Change) {
        self.plan.changes.push((part, change));
    }

    fn fail(&mut self, part: Part, error: NetError) {
        self.plan.failures.push((part, error));
    }

    fn ranges(&mut self, cluster: &ClusterNetwork) {
        let (part, seen) = (Part::Ranges, self.seen);
        if let Some(loopback) = seen.links.iter().find(|link| link.loopback) {
            if !loopback.up {
                self.change(part, Change::Up(loopback.index));
            }
            let wanted: BTreeSet<Ipv4Addr> = as_v4(cluster.dns_ip).into_iter().collect();
            for address in self.addresses(part, &wanted, |address| address.index == loopback.index, loopback)
            {
                let (index, label) = (loopback.index, label(&loopback.name));
                self.change(part, Change::Own { index, address, label });
            }
        }
        let ranges = [v4(&cluster.node_pod_cidrs), v4(&[cluster.service_cidr])].concat();
        let wanted: BTreeMap<Ipv4Net, Route> = ranges.into_iter().map(|to| (to, unreachable(to))).collect();
        self.routes(part, wanted, |route| route.unreachable);
    }

    /// A pod whose host side is down is in the making, or somebody cut it off: both are not for here.
    fn pods(&mut self, pods: &BTreeMap<String, PodEnd>) {
        let seen = self.seen;
        for link in seen.links.iter().filter(|link| link.up) {
            let Some(PodEnd { address, mac }) = pods.get(&link.name).copied() else { continue };
            let before = self.plan.changes.len();
            self.route(Part::Pods, pod::route_to_pod(link.index, address));
            if self.plan.changes.len() > before {
                let neighbour = Change::Neighbour { index: link.index, address, mac };
                self.plan.changes.insert(before, (Part::Pods, neighbour));
            }
        }
    }

    /// A node that cannot be reached does not keep the others from being set.
    fn peers(&mut self, peers: &Peers, hops: &Hops) {
        let mut wanted = BTreeMap::new();
        for (node, peer) in peers {
            let Some(address) = peer_address(&peer.addresses) else { continue };
            let link = match next_hop(node, address, hops.get(&address).copied().flatten()) {
                Ok(Some(link)) => link,
                // This node itself.
                Ok(None) => continue,
                Err(error) => {
                    self.fail(Part::Peers, error);
                    continue;
                }
            };
            for range in &peer.pod_cidrs {
                if let IpNet::V4(range) = range {
                    wanted.insert(range.trunc(), through(range.trunc(), address, link));
                }
            }
        }
        self.routes(Part::Peers, wanted, |route| route.gateway.is_some());
    }

    fn announced(&mut self, wanted: &BTreeSet<IpAddr>, uplink: Option<u32>) {
        let (part, seen) = (Part::Announced, self.seen);
        let wanted: BTreeSet<Ipv4Addr> = wanted.iter().copied().filter_map(as_v4).collect();
        let Some(uplink) = seen.links.iter().find(|link| Some(link.index) == uplink) else {
            if !wanted.is_empty() {
                self.fail(part, NetError::NoUplink);
            }
            return;
        };
        // Also those on an interface that was the uplink before.
        let loopbacks: BTreeSet<u32> =
            seen.links.iter().filter(|link| link.loopback).map(|link| link.index).collect();
        for address in self.addresses(part, &wanted, |address| !loopbacks.contains(&address.index), uplink) {
            let (index, mac, label) = (uplink.index, uplink.mac, label(&uplink.name));
            self.change(part, Change::Announce { index, mac, address, label });
        }
    }

    /// Removes those of our addresses `among` which are not wanted on `link`; returns those that it lacks.
    fn addresses(
        &mut self,
        part: Part,
        wanted: &BTreeSet<Ipv4Addr>,
        among: impl Fn(&Address) -> bool,
        link: &Link,
    ) -> Vec<Ipv4Addr> {
        let seen = self.seen;
        let right = |address: &Address| address.index == link.index && wanted.contains(&address.address);
        for address in seen.addresses.iter().filter(|a| is_ours(a) && among(a) && !right(a)) {
            self.change(part, Change::RemoveAddress(address.clone()));
        }
        let present: BTreeSet<Ipv4Addr> =
            seen.addresses.iter().filter(|a| right(a)).map(|address| address.address).collect();
        wanted.difference(&present).copied().collect()
    }

    /// Makes our routes `among` which are this part's equal to `wanted`.
    fn routes(&mut self, part: Part, wanted: BTreeMap<Ipv4Net, Route>, among: impl Fn(&Route) -> bool) {
        let seen = self.seen;
        for route in seen.routes.iter().filter(|route| route.ours && among(route)) {
            if !wanted.contains_key(&route.to) {
                self.change(part, Change::RemoveRoute(route.clone()));
            }
        }
        for route in wanted.into_values() {
            self.route(part, route);
        }
    }

    /// Asks for a route, unless it is there or its place is somebody else's: the kernel would replace that one.
    fn route(&mut self, part: Part, wanted: Route) {
        let mut there = self.seen.routes.iter().filter(|route| route.to == wanted.to && route.metric == 0);
        let same = |route: &Route| Route { ours: true, ..route.clone() } == wanted;
        if !self.claimed.insert(wanted.to) {
            self.fail(part, NetError::Occupied { to: wanted.to });
        } else if there.clone().any(same) {
            // Whoever made it.
        } else if there.any(|route| !route.ours) {
            self.fail(part, NetError::Occupied { to: wanted.to });
        } else {
            self.change(part, Change::SetRoute(wanted));
        }
    }
}

/// The interface that a peer is on; `None` when the address is this node's own.
fn next_hop(node: &NodeName, address: Ipv4Addr, reach: Option<Reach>) -> Result<Option<u32>, NetError> {
    match reach {
        Some(Reach::OnLink(link)) => Ok(Some(link)),
        Some(Reach::Local) => Ok(None),
        Some(Reach::Via(gateway)) => Err(NetError::NotOnLink { node: node.clone(), address, gateway }),
        None => Err(NetError::NoRoute { node: node.clone(), address }),
    }
}

fn label(link: &str) -> String {
    link.chars().take(LABEL_LEN - LABEL.len()).chain(LABEL.chars()).collect()
}

fn unreachable(to: Ipv4Net) -> Route {
    Route { to, gateway: None, link: None, ours: true, metric: 0, unreachable: true }
}

fn through(to: Ipv4Net, gateway: Ipv4Addr, link: u32) -> Route {
    Route { to, gateway: Some(gateway), link: Some(link), ours: true, metric: 0, unreachable: false }
}

#[cfg(test)]
mod tests;
