//! Passes over the node's side: each reads what the kernel has, lets [`plan`](super::plan) compare, and makes the changes.
//! Everything of ours is marked (routing protocol number, address label), so that nothing of anybody else's is ever
//! removed. Decides nothing.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
};

use netlink_packet_route::address::AddressScope;
use tokio::sync::Mutex as AsyncMutex;

use super::{
    NetError, NetSettings, NodeNetwork, NodeWants, Part, Peers, masquerade,
    namespaces::write_file,
    netlink::{Link, Netlink, Route},
    plan::{self, Change, Hops, Known, PodEnd, Seen},
    ports::Reserved,
};
use crate::{model::ClusterNetwork, sys::arp};

const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// See the module.
pub(super) struct Passes {
    netlink: Netlink,
    /// Of the configuration.
    uplink: Option<String>,
    masquerade: bool,
    reserved: Reserved,
    /// The uplink as the last pass found it.
    last_uplink: Mutex<Option<String>>,
    /// Held during a pass.
    memory: AsyncMutex<Memory>,
}

/// What a pass leaves for the next one.
#[derive(Default)]
struct Memory {
    /// What the rules were made for.
    rules: Option<ClusterNetwork>,
    /// The ways to peers, and in what surroundings they were asked for.
    hops: Hops,
    surroundings: Seen,
}

impl Passes {
    pub(super) fn new(netlink: Netlink, settings: &NetSettings) -> Self {
        Self {
            netlink,
            uplink: settings.uplink.clone(),
            masquerade: settings.masquerade,
            reserved: Reserved::new(settings.reserved_file.clone()),
            last_uplink: Mutex::default(),
            memory: AsyncMutex::default(),
        }
    }

    /// The interface by which the node is reached, as it is now.
    pub(super) async fn uplink(&self) -> Result<Option<Link>, NetError> {
        let seen = self.look().await?;
        Ok(self.uplink_in(&seen).cloned())
    }

    fn uplink_in<'a>(&self, seen: &'a Seen) -> Option<&'a Link> {
        let last = self.last_uplink.lock().unwrap_or_else(PoisonError::into_inner);
        plan::uplink(self.uplink.as_deref(), last.as_deref(), seen)
    }

    /// One pass. `pods` are those that have a wire; `None`: that is not known.
    pub(super) async fn run(
        &self,
        wants: &NodeWants,
        pods: Option<BTreeMap<String, PodEnd>>,
        thorough: bool,
    ) -> Result<NodeNetwork, NetError> {
        let mut memory = self.memory.lock().await;
        let mut failures = Vec::new();
        if let Some(cluster) = &wants.cluster {
            if let Err(error) = self.prepare(cluster, thorough, &mut memory).await {
                failures.push((Part::Ranges, error));
            }
            // By itself: without it all works but for a connection that has bad luck.
            failures.extend(self.reserved.ensure(cluster.node_ports).err().map(|error| (Part::Ports, error)));
        }
        let seen = self.look().await?;
        if let Some(peers) = &wants.peers {
            self.ask_hops(peers, &seen, thorough, &mut memory).await?;
        }
        let uplink = self.uplink_in(&seen);
        let known = Known { uplink: uplink.map(|link| link.index), hops: memory.hops.clone(), pods };
        let plan = plan::plan(wants, &seen, &known);
        failures.extend(plan.failures);
        let changed = plan.changes.len();
        for (part, change) in plan.changes {
            tracing::debug!(?part, ?change, "the node's network is changed");
            if let Err(error) = self.carry_out(&change).await {
                failures.push((part, error));
            }
        }
        let addresses = uplink.map(|link| plan::node_addresses(link, &seen)).unwrap_or_default();
        let uplink = uplink.map(|link| link.name.clone());
        self.last_uplink.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&uplink);
        Ok(NodeNetwork { uplink, addresses, changed, failures })
    }

    /// What has no place among the changes of a plan: forwarding and rules.
    async fn prepare(
        &self,
        cluster: &ClusterNetwork,
        thorough: bool,
        memory: &mut Memory,
    ) -> Result<(), NetError> {
        enable_forwarding()?;
        if self.masquerade && (thorough || memory.rules.as_ref() != Some(cluster)) {
            memory.rules = None;
            masquerade::install(cluster).await?;
            memory.rules = Some(cluster.clone());
        }
        Ok(())
    }

    /// Links before routes: a pod that comes in between is missing, not misread.
    async fn look(&self) -> Result<Seen, NetError> {
        Ok(Seen {
            links: self.netlink.links().await?,
            addresses: self.netlink.addresses().await?,
            routes: self.netlink.routes().await?,
        })
    }

    /// Asks how each peer is reached, unless it was asked before and nothing that it depends on has changed.
    async fn ask_hops(
        &self,
        peers: &Peers,
        seen: &Seen,
        thorough: bool,
        memory: &mut Memory,
    ) -> Result<(), NetError> {
        let surroundings = plan::surroundings(seen);
        if thorough || memory.surroundings != surroundings {
            memory.hops.clear();
            memory.surroundings = surroundings;
        }
        let mut known = std::mem::take(&mut memory.hops);
        for address in peers.values().filter_map(|peer| plan::peer_address(&peer.addresses)) {
            let reach = match known.remove(&address) {
                Some(reach) => reach,
                None => self.netlink.reach(address).await?,
            };
            memory.hops.insert(address, reach);
        }
        Ok(())
    }

    /// Makes one change. A pod that it was for may have gone meanwhile, which is no failure: the kernel tells that too.
    async fn carry_out(&self, change: &Change) -> Result<(), NetError> {
        let netlink = &self.netlink;
        match change {
            Change::Up(index) => netlink.set_up(*index).await,
            Change::Own { index, address, label } => {
                netlink.add_address(*index, *address, AddressScope::Host, Some(label)).await
            }
            Change::Announce { index, mac, address, label } => {
                // Link scope: never chosen as the source of the node's own connections.
                netlink.add_address(*index, *address, AddressScope::Link, Some(label)).await?;
                let Some(mac) = mac else { return Ok(()) };
                arp::announce(*index, *mac, *address).map_err(|source| NetError::Netlink {
                    operation: "announce",
                    subject: address.to_string(),
                    source: Box::new(source),
                })
            }
            Change::RemoveAddress(address) => netlink.delete_address(address).await,
            Change::Neighbour { index, address, mac } => {
                netlink.set_neighbour(*index, *address, *mac).await.map(drop)
            }
            Change::SetRoute(route) => {
                let there = netlink.put_route(route).await?;
                // A pod's wire goes with the pod; the way to another node should be there.
                if there || route.gateway.is_none() { Ok(()) } else { Err(no_interface(route)) }
            }
            Change::RemoveRoute(route) => netlink.delete_route(route).await,
        }
    }
}

fn enable_forwarding() -> Result<(), NetError> {
    let failed = |operation| move |source| NetError::State { operation, path: FORWARDING.into(), source };
    let now = fs::read_to_string(FORWARDING).map_err(failed("read"))?;
    // Only when it is off: writing resets the forwarding of every interface of the host.
    if now.trim() != "1" {
        write_file(Path::new(FORWARDING), "1").map_err(failed("write"))?;
    }
    Ok(())
}

fn no_interface(route: &Route) -> NetError {
    NetError::Netlink {
        operation: "add route",
        subject: route.to.to_string(),
        source: "its interface is down, or has gone".into(),
    }
}
