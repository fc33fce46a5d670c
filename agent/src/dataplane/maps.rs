//! The kernel's maps, typed. Lives behind the table; holds no decision.

use std::{
    io,
    net::Ipv4Addr,
    os::fd::AsFd as _,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use agent_ebpf_common::{
    abi::{DROP_REASONS, FrontendKey, SETTING_POD_SOCKETS_OFF, SourceRangeKey},
    tag::Tagged,
};
use aya::{
    Pod,
    maps::{HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, lpm_trie::Key},
    sys::SyscallError,
    util::nr_cpus,
};
use ipnet::Ipv4Net;

use super::{
    DataplaneError,
    table::{Array, TableMaps},
};
use crate::sys::{bpf::GracePeriod, mapped::MappedArray};

/// `BPF_NOEXIST`: a hash element that the datapath reads is never replaced.
pub(super) const NO_EXIST: u64 = 1;

/// The maps the table writes.
pub(super) struct KernelMaps {
    frontends: HashMap<MapData, FrontendKey, Tagged>,
    frontend_capacity: u32,
    ranges: LpmTrie<MapData, SourceRangeKey, u32>,
    range_capacity: u32,
    /// By the number of the array.
    arrays: [MappedArray; 3],
    connections: PerCpuArray<MapData, u64>,
}

/// The maps the rest of the agent's side uses.
pub(super) struct NodeMaps {
    addresses: HashMap<MapData, u32, u32>,
    settings: MappedArray,
    drops: PerCpuArray<MapData, u64>,
    connections: PerCpuArray<MapData, u64>,
}

pub(super) fn kernel(
    operation: &'static str,
    subject: impl Into<String>,
    source: impl std::error::Error + Send + Sync + 'static,
) -> DataplaneError {
    DataplaneError::Kernel { operation, subject: subject.into(), source: Box::new(source) }
}

fn open_data(directory: &Path, name: &str) -> Result<(MapData, u32), DataplaneError> {
    let data = MapData::from_pin(directory.join(name)).map_err(|source| kernel("open", name, source))?;
    let capacity = data.info().map_err(|source| kernel("open", name, source))?.max_entries();
    Ok((data, capacity))
}

pub(super) fn open_hash<K: Pod, V: Pod>(
    directory: &Path,
    name: &str,
) -> Result<(HashMap<MapData, K, V>, u32), DataplaneError> {
    let (data, capacity) = open_data(directory, name)?;
    let map = HashMap::try_from(Map::HashMap(data)).map_err(|source| kernel("open", name, source))?;
    Ok((map, capacity))
}

fn open_counters(directory: &Path, name: &str) -> Result<PerCpuArray<MapData, u64>, DataplaneError> {
    let (data, _) = open_data(directory, name)?;
    PerCpuArray::try_from(Map::PerCpuArray(data)).map_err(|source| kernel("open", name, source))
}

/// Nothing of it is mapped yet.
fn open_array(directory: &Path, name: &str, words_per_element: usize) -> Result<MappedArray, DataplaneError> {
    let (data, capacity) = open_data(directory, name)?;
    MappedArray::new(data.fd().as_fd(), capacity as usize * words_per_element)
        .map_err(|source| kernel("open", name, source))
}

/// Mapped whole: it is small.
pub(super) fn open_mapped(
    directory: &Path,
    name: &str,
    words_per_element: usize,
) -> Result<MappedArray, DataplaneError> {
    let mut array = open_array(directory, name, words_per_element)?;
    array.reach(array.len()).map_err(|source| kernel("map", name, source))?;
    Ok(array)
}

fn name_of(array: Array) -> &'static str {
    match array {
        Array::Heads => "HEADS",
        Array::Slots => "SLOTS",
        Array::Backends => "BACKENDS",
    }
}

impl KernelMaps {
    /// Opens the pinned maps.
    pub(super) fn open(directory: &Path) -> Result<Self, DataplaneError> {
        let (frontends, frontend_capacity) = open_hash(directory, "FRONTENDS")?;
        let (ranges, range_capacity) = open_data(directory, "SOURCE_RANGES")?;
        let open = |array: Array| open_array(directory, name_of(array), array.words());
        Ok(Self {
            frontends,
            frontend_capacity,
            ranges: LpmTrie::try_from(Map::LpmTrie(ranges))
                .map_err(|source| kernel("open", "SOURCE_RANGES", source))?,
            range_capacity,
            arrays: [open(Array::Heads)?, open(Array::Slots)?, open(Array::Backends)?],
            connections: open_counters(directory, "CONNECTIONS")?,
        })
    }
}

fn range_key(service: u32, range: Ipv4Net) -> Key<SourceRangeKey> {
    let addr_be = u32::from_ne_bytes(range.network().octets());
    // The service index comes first and always counts in full.
    Key::new(32 + u32::from(range.prefix_len()), SourceRangeKey { service_be: service.to_be(), addr_be })
}

impl TableMaps for KernelMaps {
    fn elements(&self, array: Array) -> usize {
        self.arrays[array as usize].len() / array.words()
    }

    fn word(&self, array: Array, index: usize) -> &AtomicU64 {
        &self.arrays[array as usize][index]
    }

    fn reach(&mut self, array: Array, elements: u32) -> Result<(), DataplaneError> {
        let words = elements as usize * array.words();
        let reached = self.arrays[array as usize].reach(words);
        reached.map_err(|source| kernel("map", name_of(array), source))
    }

    fn keep(&mut self, array: Array, elements: u32) {
        self.arrays[array as usize].keep(elements as usize * array.words());
    }

    fn wait_for_readers(&self) -> Result<(), DataplaneError> {
        let waited = GracePeriod::new().and_then(|period| period.wait());
        waited.map_err(|source| kernel("wait for", "programs that run", source))
    }

    fn frontends(&self) -> Result<Vec<(FrontendKey, u32)>, DataplaneError> {
        let known = self.frontends.iter().map(|entry| entry.map(|(key, index)| (key, index.value())));
        known.collect::<Result<_, _>>().map_err(|source| kernel("read", "FRONTENDS", source))
    }

    fn frontend_capacity(&self) -> u32 {
        self.frontend_capacity
    }

    fn source_ranges(&self) -> Result<Vec<(u32, Ipv4Net)>, DataplaneError> {
        let read = |source| kernel("read", "SOURCE_RANGES", source);
        let mut ranges = Vec::new();
        for key in self.ranges.keys() {
            let key = key.map_err(read)?;
            let address = Ipv4Addr::from(key.data().addr_be.to_ne_bytes());
            let length = u8::try_from(key.prefix_len().saturating_sub(32)).unwrap_or(32);
            if let Ok(range) = Ipv4Net::new(address, length.min(32)) {
                ranges.push((u32::from_be(key.data().service_be), range));
            }
        }
        Ok(ranges)
    }

    fn insert_frontend(&mut self, key: FrontendKey, index: u32) -> Result<(), DataplaneError> {
        let capacity = self.frontend_capacity;
        self.frontends
            .insert(key, Tagged::new(&key, index), NO_EXIST)
            .map_err(|source| full_or(source, "FRONTENDS", capacity, "frontends"))
    }

    fn remove_frontend(&mut self, key: FrontendKey) -> Result<(), DataplaneError> {
        absent_is_fine(self.frontends.remove(&key)).map_err(|source| kernel("update", "FRONTENDS", source))
    }

    fn insert_source_range(&mut self, service: u32, range: Ipv4Net) -> Result<(), DataplaneError> {
        self.ranges
            .insert(&range_key(service, range), 1, 0)
            .map_err(|source| full_or(source, "SOURCE_RANGES", self.range_capacity, "frontends"))
    }

    fn remove_source_range(&mut self, service: u32, range: Ipv4Net) -> Result<(), DataplaneError> {
        absent_is_fine(self.ranges.remove(&range_key(service, range)))
            .map_err(|source| kernel("update", "SOURCE_RANGES", source))
    }

    fn reset_connections(&mut self, service: u32) {
        let zeros = nr_cpus().map_err(|(_, error)| error).and_then(|cpus| vec![0; cpus].try_into());
        let reset = zeros.map(|zeros| self.connections.set(service, zeros, 0));
        if !matches!(reset, Ok(Ok(()))) {
            tracing::warn!(service, "a service's connection counter goes on from its last owner's");
        }
    }
}

impl NodeMaps {
    /// Opens the pinned maps.
    pub(super) fn open(directory: &Path) -> Result<Self, DataplaneError> {
        Ok(Self {
            addresses: open_hash(directory, "NODE_ADDRESSES")?.0,
            settings: open_mapped(directory, "SETTINGS", 2)?,
            drops: open_counters(directory, "DROPS")?,
            connections: open_counters(directory, "CONNECTIONS")?,
        })
    }

    /// Tells the programs who the node is.
    pub(super) fn set_node(&self, cookie: u64, uplink: Option<Ipv4Addr>, pod_sockets: bool) {
        let flags = if pod_sockets { 0 } else { SETTING_POD_SOCKETS_OFF };
        let uplink = uplink.map_or(0, |address| u32::from_ne_bytes(address.octets()));
        self.settings[1].store(u64::from(uplink) << 32 | u64::from(flags), Ordering::Release);
        self.settings[0].store(cookie, Ordering::Release);
    }

    /// The node's address on the uplink as the programs have it.
    pub(super) fn uplink_address(&self) -> Option<Ipv4Addr> {
        let address = (self.settings[1].load(Ordering::Acquire) >> 32) as u32;
        (address != 0).then(|| Ipv4Addr::from(address.to_ne_bytes()))
    }

    /// Makes the set of the node's addresses equal to `wanted`.
    pub(super) fn set_addresses(&mut self, wanted: &[Ipv4Addr]) -> Result<(), DataplaneError> {
        let fail = |source| kernel("update", "NODE_ADDRESSES", source);
        let wanted: Vec<u32> = wanted.iter().map(|address| u32::from_ne_bytes(address.octets())).collect();
        let present: Vec<u32> = self.addresses.keys().collect::<Result<_, _>>().map_err(fail)?;
        for address in wanted.iter().filter(|address| !present.contains(address)) {
            self.addresses.insert(address, 1, NO_EXIST).map_err(fail)?;
        }
        for address in present.iter().filter(|address| !wanted.contains(address)) {
            self.addresses.remove(address).map_err(fail)?;
        }
        Ok(())
    }

    /// Drops by reason, summed over CPUs.
    pub(super) fn drops(&self) -> Vec<(&'static str, u64)> {
        (0_u32..).zip(DROP_REASONS).map(|(index, reason)| (reason, sum(&self.drops, index))).collect()
    }

    /// New connections and flows of one service index since the map was made.
    pub(super) fn connections(&self, service: u32) -> u64 {
        sum(&self.connections, service)
    }
}

fn sum(map: &PerCpuArray<MapData, u64>, index: u32) -> u64 {
    map.get(&index, 0).map_or(0, |values| values.iter().sum())
}

pub(super) fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(SyscallError { io_error, .. }))
            if io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        other => other,
    }
}

pub(super) fn full_or(
    source: MapError,
    map: &'static str,
    capacity: u32,
    option: &'static str,
) -> DataplaneError {
    let full = |error: &io::Error| matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC));
    match &source {
        MapError::SyscallError(SyscallError { io_error, .. }) if full(io_error) => {
            DataplaneError::Full { map, capacity, option }
        }
        _ => kernel("update", map, source),
    }
}
