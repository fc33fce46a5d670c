//! The adapter: [`Dataplane`] on the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use aya::{Ebpf, programs::TcAttachType};
use nix::errno::Errno;

use super::lock;
use super::{
    Dataplane, DataplaneConfig, DataplaneError, Programmed, Snapshot,
    grace::GraceWorker,
    links::{self, TcHook},
    loader,
    maps::{KernelMaps, NodeMaps, kernel},
    pods::{PodEnd, PodMaps},
    snapshot,
    table::Table,
};
use crate::{
    failpoint,
    model::{NodeName, PodAddresses, PodUid, ServiceTable},
    sys::netns,
};

/// The datapath of this node. Dropping it changes nothing in the kernel: programs, maps and attachments are
/// pinned, and the next agent takes them over.
pub struct EbpfDataplane {
    config: DataplaneConfig,
    links: PathBuf,
    state: Mutex<State>,
    /// Apart from the state, and taken after it: an attachment waits for grace periods, which must not hold up a
    /// publish.
    object: Mutex<Ebpf>,
    table: Arc<Mutex<Table<KernelMaps>>>,
    grace: GraceWorker<KernelMaps>,
}

struct State {
    node: NodeMaps,
    ends: PodMaps,
    cookie: u64,
    /// Where the outside reaches the node.
    uplink: Option<String>,
    /// Its index when the programs were attached: an interface that was made again has another.
    uplink_index: Option<u32>,
    /// The programs run: from the first publish on, or from the start when they already ran on these maps.
    attached: bool,
    pods: BTreeMap<PodUid, Pod>,
    last_publish: Duration,
}

impl State {
    /// Forgets the names of pods that have no interface any more.
    fn forget_unwired(&mut self) -> Result<(), DataplaneError> {
        let all = nix::net::if_::if_nameindex().map_err(|source| kernel("list", "interfaces", source))?;
        let there: BTreeSet<u32> = all.iter().map(nix::net::if_::Interface::index).collect();
        self.ends.retain(|interface| there.contains(&interface))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pod {
    cookie: u64,
    addresses: PodAddresses,
}

impl EbpfDataplane {
    /// Loads the programs and takes over what an earlier agent left. The programs of a first start are attached
    /// only with the first publish, so that no connect ever sees an empty table.
    pub fn open(config: DataplaneConfig) -> Result<Self, DataplaneError> {
        let mut loaded = loader::load(&config)?;
        links::load_programs(&mut loaded.object)?;
        let table = Arc::new(Mutex::new(Table::recover(KernelMaps::open(&loaded.maps)?)?));
        let node = NodeMaps::open(&loaded.maps)?;
        let cookie =
            netns::own_cookie().map_err(|source| kernel("read", "the node's namespace cookie", source))?;
        let state = State {
            node,
            ends: PodMaps::open(&loaded.maps)?,
            cookie,
            uplink: config.uplink.clone(),
            uplink_index: None,
            attached: false,
            pods: BTreeMap::new(),
            last_publish: Duration::ZERO,
        };
        let dataplane = Self {
            links: loader::links_directory(&config.pins),
            grace: GraceWorker::start(Arc::clone(&table))?,
            table,
            state: Mutex::new(state),
            object: Mutex::new(loaded.object),
            config,
        };
        if loaded.reused {
            dataplane.attach(&mut dataplane.lock())?;
        }
        Ok(dataplane)
    }

    /// Removes every attachment, pin and map. Services stop working on this node.
    pub fn uninstall(config: &DataplaneConfig) -> Result<(), DataplaneError> {
        let fail = |source| kernel("remove", config.pins.display().to_string(), source);
        let directory = loader::links_directory(&config.pins);
        if directory.exists() {
            for pin in links::pinned(&directory, "").map_err(fail)? {
                links::detach(&pin).map_err(fail)?;
            }
        }
        links::remove_filters(&["uplink_in", "uplink_out", "from_pod", "to_pod"], None, config.tc);
        loader::remove_pins(&config.pins).map_err(fail)
    }

    /// Figures for the metrics endpoint.
    pub fn snapshot(&self) -> Snapshot {
        let state = self.lock();
        let table = lock(&self.table);
        snapshot::take(&table, &state.node, state.ends.fill(), state.last_publish, state.pods.len())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn attach(&self, state: &mut State) -> Result<(), DataplaneError> {
        if state.attached {
            return Ok(());
        }
        // Programs of an earlier agent may be running on these maps: the address they use stays until there is a newer one.
        let address = state.node.uplink_address();
        state.node.set_node(state.cookie, address, self.config.pod_sockets);
        let is_known = |interface| state.ends.knows(interface);
        links::update_interfaces(&mut lock(&self.object), &self.links, is_known)?;
        // Of a pod whose wire went last, an agent that was killed before the rest leaves its names.
        state.forget_unwired()?;
        // Filters have no pins that would tell where an earlier agent put them.
        links::remove_filters(&["uplink_in", "uplink_out"], state.uplink.as_deref(), self.config.tc);
        self.attach_uplink(state)?;
        links::attach_sockets(&mut lock(&self.object), &self.config.cgroup, &self.links)?;
        state.attached = true;
        loader::remove_other_layouts(&self.config.pins, &self.config.sizes)
            .map_err(|source| kernel("remove", "maps of an earlier version", source))
    }

    /// At the uplink and nowhere else.
    fn attach_uplink(&self, state: &mut State) -> Result<(), DataplaneError> {
        state.uplink_index = None;
        let Some(uplink) = &state.uplink else {
            return links::detach_others(&self.links, "uplink-", "\0");
        };
        let index = index_of(uplink);
        let prefix = format!("uplink-{uplink}-");
        for (hook, side) in uplink_hooks(uplink).into_iter().zip(["in", "out"]) {
            let pin = self.links.join(format!("{prefix}{side}"));
            links::attach_tc(&mut lock(&self.object), hook, &pin, self.config.tc)?;
        }
        links::detach_others(&self.links, "uplink-", &prefix)?;
        state.uplink_index = index;
        Ok(())
    }

    fn pod_pins(&self, uid: &PodUid) -> [PathBuf; 2] {
        [self.links.join(format!("pod-{uid}-in")), self.links.join(format!("pod-{uid}-out"))]
    }
}

impl fmt::Debug for EbpfDataplane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EbpfDataplane").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Dataplane for EbpfDataplane {
    fn publish(
        &self,
        services: &ServiceTable,
        node: &NodeName,
        node_addresses: &[IpAddr],
    ) -> Result<Programmed, DataplaneError> {
        let started = Instant::now();
        let mut state = self.lock();
        let addresses = v4_addresses(node_addresses);
        state.node.set_addresses(&addresses)?;
        let result = {
            let mut table = lock(&self.table);
            let result = table.publish(services, node);
            self.grace.retire(table.take_retired());
            result
        };
        self.attach(&mut state)?;
        state.node.set_node(state.cookie, addresses.first().copied(), self.config.pod_sockets);
        state.last_publish = started.elapsed();
        result
    }

    fn set_uplink(&self, interface: Option<&str>) -> Result<(), DataplaneError> {
        let mut state = self.lock();
        let before = state.uplink.clone();
        let same = before.as_deref() == interface;
        if same && (!state.attached || interface.and_then(index_of) == state.uplink_index) {
            return Ok(());
        }
        if let Some(before) = before.filter(|_| !same) {
            for hook in uplink_hooks(&before) {
                links::remove_filter(hook, self.config.tc);
            }
        }
        state.uplink = interface.map(str::to_owned);
        if !state.attached {
            return Ok(());
        }
        let attached = self.attach_uplink(&mut state);
        if attached.is_err() {
            // Tried again with the next call.
            state.uplink = None;
        }
        attached
    }

    fn attach_pod(&self, uid: &PodUid, netns: &Path, addresses: &PodAddresses) -> Result<(), DataplaneError> {
        let cookie =
            netns::cookie_of(netns).map_err(|source| kernel("enter", netns.display().to_string(), source))?;
        let pod = Pod { cookie, addresses: addresses.clone() };
        let interface = name_of(addresses.host_ifindex)
            .map_err(|source| kernel("find", format!("interface {}", addresses.host_ifindex), source))?;
        {
            let mut state = self.lock();
            if state.pods.get(uid) == Some(&pod) {
                return Ok(());
            }
            state.ends.add(PodEnd { netns: cookie, interface: addresses.host_ifindex, v4: addresses.v4 })?;
        }
        failpoint::reach("dataplane.attach.named", uid.as_str());
        for (hook, pin) in pod_hooks(&interface).into_iter().zip(self.pod_pins(uid)) {
            links::attach_tc(&mut lock(&self.object), hook, &pin, self.config.tc)?;
            failpoint::reach("dataplane.attach.half", uid.as_str());
        }
        self.lock().pods.insert(uid.clone(), pod);
        Ok(())
    }

    fn detach_pod(&self, uid: &PodUid) -> Result<(), DataplaneError> {
        {
            let mut state = self.lock();
            if let Some(pod) = state.pods.get(uid) {
                let cookie = pod.cookie;
                state.ends.remove(cookie)?;
                state.pods.remove(uid);
            } else {
                // Attached by an earlier agent: only its wire tells, which went first.
                state.forget_unwired()?;
            }
        }
        failpoint::reach("dataplane.detach.unnamed", uid.as_str());
        for pin in self.pod_pins(uid) {
            links::detach(&pin).map_err(|source| kernel("detach", pin.display().to_string(), source))?;
        }
        Ok(())
    }
}

/// Whatever fails, nix (0.31) answers an empty name and no error: mostly the index is nobody's.
fn name_of(index: u32) -> Result<String, Errno> {
    let name = nix::net::if_::if_indextoname(index)?.to_string_lossy().into_owned();
    if name.is_empty() { Err(Errno::ENXIO) } else { Ok(name) }
}

fn index_of(interface: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(interface).ok()
}

/// Those that the datapath can use today.
pub(super) fn v4_addresses(addresses: &[IpAddr]) -> Vec<Ipv4Addr> {
    addresses
        .iter()
        .filter_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })
        .collect()
}

/// What leaves a pod enters the host side of its veth pair.
fn pod_hooks(interface: &str) -> [TcHook<'_>; 2] {
    [
        TcHook { program: "from_pod", interface, side: TcAttachType::Ingress },
        TcHook { program: "to_pod", interface, side: TcAttachType::Egress },
    ]
}

fn uplink_hooks(interface: &str) -> [TcHook<'_>; 2] {
    [
        TcHook { program: "uplink_in", interface, side: TcAttachType::Ingress },
        TcHook { program: "uplink_out", interface, side: TcAttachType::Egress },
    ]
}

#[cfg(test)]
mod mapped_tests;
#[cfg(test)]
mod restart_tests;
#[cfg(test)]
mod tests;
