//! The adapter of the [`Network`] port: joins namespaces, wires, addresses and the node's own settings, and
//! decides what a killed agent left behind. Every step can be repeated.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr},
    os::fd::OwnedFd,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use ipnet::Ipv4Net;
use tokio::sync::Mutex as AsyncMutex;

use super::{
    NetError, Network, PodNetwork,
    addresses::{Book, Pool},
    masquerade,
    namespaces::{self, Pins},
    netlink::{Link, Netlink},
    node,
    pod::{self, Pair},
    v4,
};
use crate::model::{ClusterNetwork, NetworkStatus, NodeName, PeerNode, PodAddresses, PodUid};

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
}

/// Pod networking by the running kernel, in the network namespace that the agent was started in.
pub struct KernelNetwork {
    settings: NetSettings,
    netlink: Netlink,
    book: Arc<Mutex<Book>>,
    /// This node's IPv4 ranges; empty until configured.
    ranges: Mutex<Vec<Ipv4Net>>,
    /// Whether left-overs were dealt with; held while they are.
    swept: AsyncMutex<bool>,
}

/// What the kernel has of one pod.
struct Wire {
    index: u32,
    address: Option<Ipv4Addr>,
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
        Ok(Self { settings, netlink, book, ranges: Mutex::default(), swept: AsyncMutex::new(false) })
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

    async fn uplink(&self) -> Result<Option<Link>, NetError> {
        node::uplink(&self.netlink, self.settings.uplink.as_deref()).await
    }

    async fn mtu(&self) -> Result<u32, NetError> {
        if let Some(mtu) = self.settings.mtu {
            return Ok(mtu);
        }
        Ok(self.uplink().await?.map_or(DEFAULT_MTU, |link| link.mtu))
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
        Ok(links
            .into_iter()
            .filter(|link| pod::is_host_side(&link.name))
            .map(|link| (link.name, Wire { index: link.index, address: to.get(&link.index).copied() }))
            .collect())
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
        let wires = self.wires().await?;
        let mut existing = BTreeMap::new();
        let mut named = BTreeSet::new();
        for pod in pods {
            let pins = Pins::existing(&self.settings.namespaces_dir, &pod);
            if !pins.complete() {
                pins.remove()?;
                continue;
            }
            let name = Pair::of(&pod).host_name;
            existing.insert(pod, wires.get(&name).and_then(|wire| wire.address));
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
        let mtu = self.mtu().await?;
        let host_ifindex = Pair::of(pod).connect(&self.netlink, inside, namespace, v4, mtu).await?;
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

    async fn addresses_of(&self, pod: &PodUid) -> Result<Option<PodAddresses>, NetError> {
        let wires = self.wires().await?;
        let wire = wires.get(&Pair::of(pod).host_name);
        Ok(wire.and_then(|wire| Some(PodAddresses { v4: wire.address?, host_ifindex: wire.index })))
    }
}

#[async_trait]
impl Network for KernelNetwork {
    async fn configure(&self, cluster: &ClusterNetwork) -> Result<(), NetError> {
        node::enable_forwarding()?;
        {
            let mut swept = self.swept.lock().await;
            if !*swept {
                self.sweep().await?;
                *swept = true;
            }
        }
        node::set_dns_address(&self.netlink, cluster.dns_ip).await?;
        if self.settings.masquerade {
            masquerade::install(cluster).await?;
        }
        let own = v4(&cluster.node_pod_cidrs);
        let unanswered = [own.clone(), v4(&[cluster.service_cidr])].concat();
        node::set_unreachable(&self.netlink, &unanswered).await?;
        *self.ranges.lock().unwrap_or_else(PoisonError::into_inner) = own;
        Ok(())
    }

    async fn list(&self) -> Result<BTreeMap<PodUid, NetworkStatus>, NetError> {
        let wires = self.wires().await?;
        let (pods, _) = namespaces::listed(&self.settings.namespaces_dir)?;
        let mut found = BTreeMap::new();
        for pod in pods {
            let pins = Pins::existing(&self.settings.namespaces_dir, &pod);
            if !pins.complete() {
                continue;
            }
            let wire = wires.get(&Pair::of(&pod).host_name);
            let addresses =
                wire.and_then(|wire| Some(PodAddresses { v4: wire.address?, host_ifindex: wire.index }));
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
        self.release(pod).await?;
        // Last: while the pins are there the pod is listed, and its removal is tried again.
        let pins = Pins::existing(&self.settings.namespaces_dir, pod);
        blocking(move || pins.remove()).await
    }

    async fn set_peers(&self, peers: &BTreeMap<NodeName, PeerNode>) -> Result<(), NetError> {
        node::set_peers(&self.netlink, peers).await
    }

    async fn set_announced(&self, addresses: &[IpAddr]) -> Result<(), NetError> {
        match self.uplink().await? {
            Some(uplink) => node::set_announced(&self.netlink, &uplink, addresses).await,
            None if addresses.is_empty() => Ok(()),
            None => Err(NetError::NoUplink),
        }
    }

    async fn uplink_interface(&self) -> Result<Option<String>, NetError> {
        Ok(self.uplink().await?.map(|link| link.name))
    }

    async fn node_addresses(&self) -> Result<Vec<IpAddr>, NetError> {
        match self.uplink().await? {
            Some(uplink) => node::addresses(&self.netlink, &uplink).await,
            None => Ok(Vec::new()),
        }
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
