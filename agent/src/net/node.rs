//! The node's side: forwarding, the uplink and its addresses, the cluster DNS address on loopback, routes to
//! other nodes' pods, load balancer addresses. Everything of ours is marked (routing protocol number, address
//! label), so that nothing of anybody else's is ever removed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use ipnet::{IpNet, Ipv4Net};
use netlink_packet_route::{address::AddressScope, route::RouteType};
use rtnetlink::RouteMessageBuilder;

use super::{
    NetError,
    namespaces::write_file,
    netlink::{Address, Link, Netlink, PROTOCOL, Reach, Route},
    pod,
};
use crate::{
    model::{NodeName, PeerNode},
    sys::arp,
};

const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// End of the label on our addresses. A label begins with the interface's name and has 15 characters at most.
const LABEL: &str = ":gnt";

pub(super) fn enable_forwarding() -> Result<(), NetError> {
    let failed = |operation| move |source| NetError::State { operation, path: FORWARDING.into(), source };
    let now = fs::read_to_string(FORWARDING).map_err(failed("read"))?;
    // Only when it is off: writing resets the forwarding of every interface of the host.
    if now.trim() != "1" {
        write_file(Path::new(FORWARDING), "1").map_err(failed("write"))?;
    }
    Ok(())
}

/// The configured uplink, else the interface of the best default route, else the first with a global address.
pub(super) async fn uplink(netlink: &Netlink, configured: Option<&str>) -> Result<Option<Link>, NetError> {
    if let Some(name) = configured {
        let missing = || NetError::Netlink {
            operation: "find uplink",
            subject: name.to_owned(),
            source: "no such interface".into(),
        };
        return netlink.link(name).await?.ok_or_else(missing).map(Some);
    }
    let links = netlink.links().await?;
    let default = netlink
        .routes()
        .await?
        .into_iter()
        .filter(|route| route.to.prefix_len() == 0 && !route.ours)
        .min_by_key(|route| route.metric)
        .and_then(|route| route.link);
    if let Some(index) = default {
        return Ok(links.into_iter().find(|link| link.index == index));
    }
    let addressed: BTreeSet<u32> = netlink
        .addresses()
        .await?
        .iter()
        .filter(|address| address.global)
        .map(|address| address.index)
        .collect();
    Ok(links.into_iter().find(|link| {
        link.up && !link.loopback && !pod::is_host_side(&link.name) && addressed.contains(&link.index)
    }))
}

/// The node's own addresses on its uplink, primary first.
pub(super) async fn addresses(netlink: &Netlink, uplink: &Link) -> Result<Vec<IpAddr>, NetError> {
    let all = netlink.addresses().await?;
    Ok(all
        .iter()
        .filter(|address| address.index == uplink.index && address.global && !is_ours(address))
        .map(|address| IpAddr::V4(address.address))
        .collect())
}

/// Puts the cluster DNS address on loopback: pods reach a local address through their veth, the host through
/// lo, and while no agent listens the answer is a refusal at once instead of silence.
pub(super) async fn set_dns_address(netlink: &Netlink, wanted: IpAddr) -> Result<(), NetError> {
    let wanted: BTreeSet<Ipv4Addr> = v4(wanted).into_iter().collect();
    if let Some(loopback) = netlink.link("lo").await? {
        netlink.set_up(loopback.index).await?;
        set_addresses(netlink, &loopback, &wanted, AddressScope::Host).await?;
    }
    Ok(())
}

/// Makes our addresses on the uplink equal to `wanted` and tells the neighbours of new ones.
pub(super) async fn set_announced(
    netlink: &Netlink,
    uplink: &Link,
    wanted: &[IpAddr],
) -> Result<(), NetError> {
    let wanted: BTreeSet<Ipv4Addr> = wanted.iter().copied().filter_map(v4).collect();
    // Link scope: never chosen as the source of the node's own connections.
    let added = set_addresses(netlink, uplink, &wanted, AddressScope::Link).await?;
    for address in added {
        let Some(mac) = uplink.mac else { continue };
        arp::announce(uplink.index, mac, address).map_err(|source| NetError::Netlink {
            operation: "announce",
            subject: address.to_string(),
            source: Box::new(source),
        })?;
    }
    Ok(())
}

/// Makes our labelled addresses on `link` equal to `wanted`; returns those that were added.
async fn set_addresses(
    netlink: &Netlink,
    link: &Link,
    wanted: &BTreeSet<Ipv4Addr>,
    scope: AddressScope,
) -> Result<Vec<Ipv4Addr>, NetError> {
    let all = netlink.addresses().await?;
    let (ours, others): (Vec<_>, Vec<_>) =
        all.into_iter().filter(|address| address.index == link.index).partition(is_ours);
    let mut present: BTreeSet<Ipv4Addr> = others.iter().map(|address| address.address).collect();
    for address in ours {
        if wanted.contains(&address.address) {
            present.insert(address.address);
        } else {
            netlink.delete_address(address).await?;
        }
    }
    let label: String = link.name.chars().take(15 - LABEL.len()).chain(LABEL.chars()).collect();
    let mut added = Vec::new();
    for address in wanted.difference(&present) {
        netlink.add_address(link.index, *address, scope, Some(&label)).await?;
        added.push(*address);
    }
    Ok(added)
}

/// Says at once that nobody is there, for addresses of these ranges that no pod or service has: they would leave by
/// the default route. Of such routes of ours, others are removed.
pub(super) async fn set_unreachable(netlink: &Netlink, ranges: &[Ipv4Net]) -> Result<(), NetError> {
    let present: Vec<Route> =
        netlink.routes().await?.into_iter().filter(|route| route.ours && route.unreachable).collect();
    for route in present.iter().filter(|route| !ranges.contains(&route.to)) {
        netlink.delete_route(route).await?;
    }
    for range in ranges {
        if present.iter().any(|route| route.to == *range) {
            continue;
        }
        let message = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(range.network(), range.prefix_len())
            .kind(RouteType::Unreachable)
            .protocol(PROTOCOL)
            .build();
        netlink.set_route(message, &range.to_string()).await?;
    }
    Ok(())
}

/// Makes our routes to other nodes equal to `peers`. A node that cannot be reached does not keep the others
/// from being set; the first such failure is returned at the end.
pub(super) async fn set_peers(
    netlink: &Netlink,
    peers: &BTreeMap<NodeName, PeerNode>,
) -> Result<(), NetError> {
    let (wanted, mut failure) = wanted_routes(netlink, peers).await;
    let present: Vec<Route> =
        netlink.routes().await?.into_iter().filter(|route| route.ours && route.gateway.is_some()).collect();
    for route in present.iter().filter(|route| !wanted.contains_key(&route.to)) {
        if let Err(error) = netlink.delete_route(route).await {
            failure.get_or_insert(error);
        }
    }
    for (to, (gateway, link)) in wanted {
        let same =
            |route: &&Route| route.to == to && route.gateway == Some(gateway) && route.link == Some(link);
        if present.iter().any(|route| same(&route)) {
            continue;
        }
        let message = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(to.network(), to.prefix_len())
            .gateway(gateway)
            .output_interface(link)
            .onlink()
            .protocol(PROTOCOL)
            .build();
        if let Err(error) = netlink.set_route(message, &to.to_string()).await {
            failure.get_or_insert(error);
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Pod ranges of the peers with the next hop and interface for each.
async fn wanted_routes(
    netlink: &Netlink,
    peers: &BTreeMap<NodeName, PeerNode>,
) -> (BTreeMap<Ipv4Net, (Ipv4Addr, u32)>, Option<NetError>) {
    let mut wanted = BTreeMap::new();
    let mut failure = None;
    for (node, peer) in peers {
        let Some(address) = peer.addresses.iter().copied().find_map(v4) else { continue };
        let link = match next_hop(netlink, node, address).await {
            Ok(Some(link)) => link,
            Ok(None) => continue,
            Err(error) => {
                failure.get_or_insert(error);
                continue;
            }
        };
        for range in &peer.pod_cidrs {
            if let IpNet::V4(range) = range {
                wanted.insert(range.trunc(), (address, link));
            }
        }
    }
    (wanted, failure)
}

/// The interface that a peer is on; `None` when the address is this node's own.
async fn next_hop(netlink: &Netlink, node: &NodeName, address: Ipv4Addr) -> Result<Option<u32>, NetError> {
    match netlink.reach(address).await? {
        Some(Reach::OnLink(link)) => Ok(Some(link)),
        Some(Reach::Local) => Ok(None),
        Some(Reach::Via(gateway)) => Err(NetError::NotOnLink { node: node.clone(), address, gateway }),
        None => Err(NetError::NoRoute { node: node.clone(), address }),
    }
}

fn is_ours(address: &Address) -> bool {
    address.label.as_deref().is_some_and(|label| label.ends_with(LABEL))
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}
