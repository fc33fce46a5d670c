//! The adapter of the [`Network`] port: joins namespaces, wires, addresses and the node's own settings, and
//! decides what a killed agent left behind. Every step can be repeated.
//!
//! A pod's wire is whole when the host's side is up, and its address is the one that the host's route leads to it, or that
//! it was given where somebody has removed the route: that is put back by a pass, and is no end of the pod's network.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::Ipv4Addr,
    os::fd::OwnedFd,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use ipnet::Ipv4Net;
use tokio::sync::{Mutex as AsyncMutex, watch};

use super::{
    NetError, Network, NodeNetwork, NodeWants, Part, PodNetwork,
    addresses::{Book, Pool},
    changes,
    namespaces::{self, Pins},
    netlink::{Link, Netlink},
    passes::Passes,
    plan::PodEnd,
    pod::{self, Pair},
    ports::Reserved,
    v4,
};
use crate::{
    failpoint,
    model::{NetworkStatus, PodAddresses, PodUid},
};

/// MTU of pods on a host without an uplink.
const DEFAULT_MTU: u32 = 1500;

/// How the adapter is set up.
#[derive(Clone, Debug)]
pub struct NetSettings {
    /// Directory of the pins; emptied by a reboot, as the namespaces are.
    pub namespaces_dir: PathBuf,
    /// File of the addresses in use and at rest.
    pub addresses_file: PathBuf,
    /// Interface towards the other nodes; `None`: that of the default route.
    pub uplink: Option<String>,
    /// MTU of pods; `None`: the uplink's.
    pub mtu: Option<u32>,
    /// How long an address rests after its pod is gone.
    pub hold_back: Duration,
    /// Rewrite the source of traffic that leaves the cluster.
    pub masquerade: bool,
    /// File of the ports that were reserved; emptied by a reboot, as the kernel's list is.
    pub reserved_file: PathBuf,
}

/// Lets the node's own connections have the ports again that were reserved, once the datapath is gone.
pub fn give_back_ports(settings: &NetSettings) -> Result<(), NetError> {
    Reserved::new(settings.reserved_file.clone()).give_back()
}

/// Pod networking by the running kernel, in the network namespace that the agent was started in.
pub struct KernelNetwork {
    settings: NetSettings,
    netlink: Netlink,
    book: Arc<Mutex<Book>>,
    /// This node's IPv4 ranges; empty until configured.
    ranges: Mutex<Vec<Ipv4Net>>,
    changes: watch::Receiver<()>,
    node: Passes,
    /// Whether left-overs were dealt with; held while they are.
    swept: AsyncMutex<bool>,
}

/// What the kernel has of one pod.
#[derive(Clone, Copy)]
struct Wire {
    index: u32,
    /// The host's side is up.
    whole: bool,
    /// Where a route leads here.
    routed: Option<Ipv4Addr>,
}

impl Wire {
    /// The pod's address, given the one that is on record.
    fn address(self, given: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        self.routed.or(given.filter(|_| self.whole))
    }
}

impl KernelNetwork {
    /// Opens state and netlink. Must be called within a tokio runtime.
    pub fn open(settings: NetSettings) -> Result<Self, NetError> {
        let netlink = Netlink::open()?;
        make_directory(&settings.namespaces_dir, 0o700)?;
        if let Some(parent) = settings.addresses_file.parent() {
            make_directory(parent, 0o700)?;
        }
        let book = Arc::new(Mutex::new(Book::open(settings.addresses_file.clone())?));
        let node = Passes::new(netlink.clone(), &settings);
        Ok(Self {
            settings,
            netlink,
            book,
            ranges: Mutex::default(),
            changes: changes::follow()?,
            node,
            swept: AsyncMutex::new(false),
        })
    }

    fn pins(&self, pod: &PodUid, host_network: bool) -> Pins {
        Pins::of(&self.settings.namespaces_dir, pod, host_network)
    }

    async fn change_book<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Pool) -> Result<T, NetError> + Send + 'static,
    ) -> Result<T, NetError> {
        let book = self.book.clone();
        // The lock is only held across the write, and only by threads that may block.
        blocking(move || book.lock().unwrap_or_else(PoisonError::into_inner).change(change)).await
    }

    async fn allocate(&self, pod: &PodUid) -> Result<Ipv4Addr, NetError> {
        let ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if ranges.is_empty() {
            return Err(NetError::NotConfigured);
        }
        let (pod, hold_back) = (pod.clone(), self.settings.hold_back);
        self.change_book(move |pool| pool.allocate(&pod, &ranges, hold_back, SystemTime::now())).await
    }

    async fn release(&self, pod: &PodUid) -> Result<(), NetError> {
        let pod = pod.clone();
        self.change_book(move |pool| {
            pool.release(&pod, SystemTime::now());
            Ok(())
        })
        .await
    }

    /// Addresses on record.
    async fn given(&self) -> Result<BTreeMap<PodUid, Ipv4Addr>, NetError> {
        let book = self.book.clone();
        blocking(move || Ok(book.lock().unwrap_or_else(PoisonError::into_inner).pool().allocated().clone()))
            .await
    }

    /// The interface by which the node is reached, as it is now; one that is configured may be missing still.
    pub async fn uplink_interface(&self) -> Result<Option<String>, NetError> {
        Ok(self.node.uplink().await?.map(|link| link.name))
    }

    async fn mtu(&self) -> Result<u32, NetError> {
        if let Some(mtu) = self.settings.mtu {
            return Ok(mtu);
        }
        match (self.node.uplink().await?, &self.settings.uplink) {
            (Some(link), _) => Ok(link.mtu),
            // Its MTU may be another one than is common.
            (None, Some(name)) => Err(NetError::UplinkMissing(name.clone())),
            (None, None) => Ok(DEFAULT_MTU),
        }
    }

    /// Host sides by name, with the address that the kernel routes to each.
    async fn wires(&self) -> Result<BTreeMap<String, Wire>, NetError> {
        let links = self.netlink.links().await?;
        let routes = self.netlink.routes().await?;
        let to: BTreeMap<u32, Ipv4Addr> = routes
            .iter()
            .filter(|route| route.ours && route.gateway.is_none() && route.to.prefix_len() == 32)
            .filter_map(|route| Some((route.link?, route.to.addr())))
            .collect();
        let wire = |link: &Link| {
            let routed = to.get(&link.index).copied();
            Wire { index: link.index, whole: link.up, routed }
        };
        let host_sides = links.iter().filter(|link| pod::is_host_side(&link.name));
        Ok(host_sides.map(|link| (link.name.clone(), wire(link))).collect())
    }

    /// Removes what a killed agent had begun or not finished removing, and learns what is there.
    async fn sweep(&self) -> Result<(), NetError> {
        let (pods, scratch) = namespaces::listed(&self.settings.namespaces_dir)?;
        for directory in scratch {
            namespaces::clear(&directory).map_err(|source| NetError::Namespace {
                operation: "remove",
                path: directory,
                source,
            })?;
        }
        let (wires, given) = (self.wires().await?, self.given().await?);
        let mut existing = BTreeMap::new();
        let mut named = BTreeSet::new();
        for pod in pods {
            let pins = Pins::existing(&self.settings.namespaces_dir, &pod);
            if !pins.complete() {
                pins.remove()?;
                continue;
            }
            let name = Pair::of(&pod).host_name;
            let address = wires.get(&name).and_then(|wire| wire.address(given.get(&pod).copied()));
            existing.insert(pod, address);
            named.insert(name);
        }
        for name in wires.keys().filter(|name| !named.contains(*name)) {
            self.netlink.delete_link(name).await?;
        }
        self.change_book(move |pool| {
            pool.settle(&existing, SystemTime::now());
            Ok(())
        })
        .await
    }

    /// Gives a namespace its wire and address; what is left of an earlier one is replaced.
    async fn connect(
        &self,
        pod: &PodUid,
        inside: &Netlink,
        namespace: &OwnedFd,
    ) -> Result<PodAddresses, NetError> {
        let v4 = self.allocate(pod).await?;
        failpoint::reach("net.create.addressed", pod.as_str());
        let mtu = self.mtu().await?;
        let host_ifindex = Pair::of(pod).connect(&self.netlink, inside, namespace, v4, mtu).await?;
        failpoint::reach("net.create.wired", pod.as_str());
        Ok(PodAddresses { v4, host_ifindex })
    }

    async fn create(&self, pod: &PodNetwork, pins: &Pins) -> Result<Option<PodAddresses>, NetError> {
        let fresh = namespaces::create(pins, &pod.hostname).await?;
        let addresses = match (&fresh.netlink, fresh.net()) {
            (Some(inside), Some(namespace)) => Some(self.connect(&pod.uid, inside, namespace).await?),
            _ => None,
        };
        let pins = pins.clone();
        blocking(move || pins.publish(&fresh)).await?;
        Ok(addresses)
    }

    /// The addresses of a pod whose wire is whole; the host's way to it is put back where it is missing.
    async fn addresses_of(&self, pod: &PodUid) -> Result<Option<PodAddresses>, NetError> {
        let (wires, given) = (self.wires().await?, self.given().await?);
        let pair = Pair::of(pod);
        let Some(wire) = wires.get(&pair.host_name) else { return Ok(None) };
        let Some(v4) = wire.address(given.get(pod).copied()) else { return Ok(None) };
        if wire.routed.is_none() {
            pair.lead(&self.netlink, wire.index, v4).await?;
        }
        Ok(Some(PodAddresses { v4, host_ifindex: wire.index }))
    }

    /// The host's sides of the pods that are on record.
    async fn pod_ends(&self) -> Result<BTreeMap<String, PodEnd>, NetError> {
        let end = |(pod, address)| {
            let pair = Pair::of(&pod);
            (pair.host_name, PodEnd { address, mac: pair.pod_mac })
        };
        Ok(self.given().await?.into_iter().map(end).collect())
    }

    /// The same, once what an earlier agent left is dealt with, which the first known ranges set off.
    async fn settled_pods(&self, known: bool) -> Result<Option<BTreeMap<String, PodEnd>>, NetError> {
        let mut swept = self.swept.lock().await;
        if known && !*swept {
            self.sweep().await?;
            *swept = true;
        }
        if *swept { self.pod_ends().await.map(Some) } else { Ok(None) }
    }
}

#[async_trait]
impl Network for KernelNetwork {
    async fn settle(&self, wants: &NodeWants, thorough: bool) -> Result<NodeNetwork, NetError> {
        let (pods, failure) = match self.settled_pods(wants.cluster.is_some()).await {
            Ok(pods) => (pods, None),
            // No address is given while it is not known which are taken; all else goes on.
            Err(error) => (None, Some((Part::Ranges, error))),
        };
        let mut found = self.node.run(wants, pods, thorough).await?;
        found.failures.extend(failure);
        let in_force = found.failures.iter().all(|(part, _)| *part != Part::Ranges);
        if let Some(cluster) = wants.cluster.as_ref().filter(|_| in_force) {
            *self.ranges.lock().unwrap_or_else(PoisonError::into_inner) = v4(&cluster.node_pod_cidrs);
        }
        Ok(found)
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.changes.clone()
    }

    async fn list(&self) -> Result<BTreeMap<PodUid, NetworkStatus>, NetError> {
        let (wires, given) = (self.wires().await?, self.given().await?);
        let (pods, _) = namespaces::listed(&self.settings.namespaces_dir)?;
        let mut found = BTreeMap::new();
        for pod in pods {
            let pins = Pins::existing(&self.settings.namespaces_dir, &pod);
            if !pins.complete() {
                continue;
            }
            let wire = wires.get(&Pair::of(&pod).host_name);
            let addresses = wire.and_then(|wire| {
                let v4 = wire.address(given.get(&pod).copied())?;
                Some(PodAddresses { v4, host_ifindex: wire.index })
            });
            found.insert(pod, status(&pins, addresses));
        }
        Ok(found)
    }

    async fn ensure_pod(&self, pod: &PodNetwork) -> Result<NetworkStatus, NetError> {
        let pins = self.pins(&pod.uid, pod.host_network);
        if pins.complete() {
            if pod.host_network {
                return Ok(status(&pins, None));
            }
            if let Some(addresses) = self.addresses_of(&pod.uid).await? {
                return Ok(status(&pins, Some(addresses)));
            }
            // Processes may live in there: the namespace stays and gets its wire again.
            let (inside, namespace) = pins.enter().await?;
            let addresses = self.connect(&pod.uid, &inside, &namespace).await?;
            return Ok(status(&pins, Some(addresses)));
        }
        match self.create(pod, &pins).await {
            Ok(addresses) => Ok(status(&pins, addresses)),
            Err(error) => {
                // What was made held on to descriptors that are closed by now; only the address is on disk.
                self.netlink.delete_link(&Pair::of(&pod.uid).host_name).await?;
                self.release(&pod.uid).await?;
                Err(error)
            }
        }
    }

    async fn remove_pod(&self, pod: &PodUid) -> Result<(), NetError> {
        self.netlink.delete_link(&Pair::of(pod).host_name).await?;
        failpoint::reach("net.remove.unwired", pod.as_str());
        self.release(pod).await?;
        failpoint::reach("net.remove.released", pod.as_str());
        // Last: while the pins are there the pod is listed, and its removal is tried again.
        let pins = Pins::existing(&self.settings.namespaces_dir, pod);
        blocking(move || pins.remove()).await
    }
}

fn status(pins: &Pins, addresses: Option<PodAddresses>) -> NetworkStatus {
    // With host networking the node's own: every process of the node resolves this path to it.
    let netns = if pins.host_network() { PathBuf::from("/proc/self/ns/net") } else { pins.net() };
    NetworkStatus { netns, ipcns: pins.ipc(), utsns: pins.uts(), addresses }
}

fn make_directory(path: &Path, mode: u32) -> Result<(), NetError> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(|source| NetError::State {
        operation: "create",
        path: path.to_owned(),
        source,
    })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetError> + Send + 'static,
) -> Result<T, NetError> {
    tokio::task::spawn_blocking(work).await.map_err(|lost| NetError::State {
        operation: "change",
        path: "network state".into(),
        source: lost.into(),
    })?
}
