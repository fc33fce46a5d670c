//! Which pod is behind a network namespace, for the socket path, and behind an interface, for the packet path: both lead
//! to the pod's element in one memory-mapped array. In: pods as they are attached and detached. Out: the three maps, and
//! what they hold after a restart. Never: an element that says whose it is before it is whole, or after it is not.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use agent_ebpf_common::{
    abi::Endpoint,
    tag::{Digest, Tagged},
};
use aya::{
    Pod,
    maps::{HashMap, MapData},
};

use super::{
    DataplaneError,
    alloc::Indices,
    maps::{NO_EXIST, absent_is_fine, full_or, kernel, open_hash, open_mapped},
    table::Fill,
};
use crate::sys::mapped::MappedArray;

/// Words of an element.
const WORDS: usize = size_of::<Endpoint>() / size_of::<u64>();
/// Elements that rest before they are another pod's. Readers notice anyway.
const AT_REST: usize = 64;

/// A pod as the programs know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PodEnd {
    /// Cookie of its network namespace.
    pub(super) netns: u64,
    /// The host side of its veth pair.
    pub(super) interface: u32,
    /// Its address.
    pub(super) v4: Ipv4Addr,
}

/// The maps.
pub(super) struct PodMaps {
    namespaces: HashMap<MapData, u64, Tagged>,
    interfaces: HashMap<MapData, u32, Tagged>,
    elements: MappedArray,
    capacity: u32,
    indices: Indices,
    /// By index. A pod that went while no agent ran is forgotten when its address, namespace or interface is another's,
    /// so that the maps never hold more than the node has addresses.
    known: BTreeMap<u32, PodEnd>,
}

impl PodMaps {
    /// Opens the pinned maps and takes over what they hold.
    pub(super) fn open(directory: &Path) -> Result<Self, DataplaneError> {
        let (namespaces, capacity) = open_hash(directory, NAMESPACES)?;
        let mut maps = Self {
            namespaces,
            interfaces: open_hash(directory, INTERFACES)?.0,
            elements: open_mapped(directory, "ENDPOINTS", WORDS)?,
            capacity,
            indices: Indices::new(capacity, AT_REST.min(capacity as usize / 4)),
            known: BTreeMap::new(),
        };
        maps.recover()?;
        Ok(maps)
    }

    /// Takes over the pods that both maps lead to; removes what an agent that was cut short left half done.
    fn recover(&mut self) -> Result<(), DataplaneError> {
        let namespaces = entries(&self.namespaces, NAMESPACES)?;
        let interfaces = entries(&self.interfaces, INTERFACES)?;
        for (&netns, &index) in &namespaces {
            let end = self.read(index);
            match end.filter(|end| end.netns == netns && interfaces.get(&end.interface) == Some(&index)) {
                Some(end) => drop(self.known.insert(index, end)),
                None => remove(&mut self.namespaces, NAMESPACES, netns)?,
            }
        }
        for (&interface, &index) in &interfaces {
            if self.known.get(&index).is_none_or(|end| end.interface != interface) {
                remove(&mut self.interfaces, INTERFACES, interface)?;
            }
        }
        self.indices.restore(self.known.keys().copied().collect());
        Ok(())
    }

    /// Says which pod a namespace and an interface belong to. Idempotent.
    pub(super) fn add(&mut self, end: PodEnd) -> Result<(), DataplaneError> {
        if self.known.values().any(|known| *known == end) {
            return Ok(());
        }
        let in_its_way = |known: &PodEnd| {
            known.netns == end.netns || known.interface == end.interface || known.v4 == end.v4
        };
        let gone: Vec<u32> =
            self.known.iter().filter(|(_, known)| in_its_way(known)).map(|(&index, _)| index).collect();
        for index in gone {
            self.forget(index)?;
        }
        let full = DataplaneError::Full { map: "ENDPOINTS", capacity: self.capacity, option: "pods" };
        let index = self.indices.allocate().ok_or(full)?;
        self.write(index, &end);
        // From here on it is known: what fails half way is taken back with it.
        self.known.insert(index, end);
        let added = insert(&mut self.namespaces, NAMESPACES, end.netns, index, self.capacity)
            .and_then(|()| insert(&mut self.interfaces, INTERFACES, end.interface, index, self.capacity));
        if added.is_err() {
            self.forget(index)?;
        }
        added
    }

    /// Forgets the pod of a namespace.
    pub(super) fn remove(&mut self, netns: u64) -> Result<(), DataplaneError> {
        let found = self.known.iter().find(|(_, end)| end.netns == netns).map(|(&index, _)| index);
        found.map_or(Ok(()), |index| self.forget(index))
    }

    /// Forgets the pods whose interface is not one of these.
    pub(super) fn retain(&mut self, is_there: impl Fn(u32) -> bool) -> Result<(), DataplaneError> {
        let gone: Vec<u32> =
            self.known.iter().filter(|(_, end)| !is_there(end.interface)).map(|(&index, _)| index).collect();
        gone.into_iter().try_for_each(|index| self.forget(index))
    }

    /// Whether there is a pod behind this interface.
    pub(super) fn knows(&self, interface: u32) -> bool {
        self.known.values().any(|end| end.interface == interface)
    }

    /// How many there are.
    pub(super) fn fill(&self) -> Fill {
        Fill { map: "ENDPOINTS", used: self.known.len() as u32, capacity: self.capacity }
    }

    fn forget(&mut self, index: u32) -> Result<(), DataplaneError> {
        let Some(end) = self.known.get(&index).copied() else { return Ok(()) };
        remove(&mut self.namespaces, NAMESPACES, end.netns)?;
        remove(&mut self.interfaces, INTERFACES, end.interface)?;
        self.erase(index);
        self.known.remove(&index);
        self.indices.release(index);
        Ok(())
    }

    /// The first two: those behind them are of the other address family.
    fn words(&self, index: u32) -> [&AtomicU64; 2] {
        let first = index as usize * WORDS;
        [&self.elements[first], &self.elements[first + 1]]
    }

    /// The names last: who finds its own has read what belongs to it.
    fn write(&self, index: u32, end: &PodEnd) {
        let place = Endpoint::place(u32::from_ne_bytes(end.v4.octets()), end.interface);
        let words = self.words(index);
        words[1].store(place, Ordering::Release);
        words[0].store(end.netns, Ordering::Release);
    }

    /// The names first, one in each word.
    fn erase(&self, index: u32) {
        let words = self.words(index);
        words[0].store(0, Ordering::Release);
        words[1].store(0, Ordering::Release);
    }

    fn read(&self, index: u32) -> Option<PodEnd> {
        if index >= self.capacity {
            return None;
        }
        let words = self.words(index);
        let element = Endpoint {
            netns: words[0].load(Ordering::Acquire),
            place: words[1].load(Ordering::Acquire),
            v6: [0; 4],
        };
        let v4 = Ipv4Addr::from(element.v4().to_ne_bytes());
        Some(PodEnd { netns: element.netns, interface: element.interface(), v4 })
    }
}

const NAMESPACES: &str = "POD_NETNS";
const INTERFACES: &str = "POD_INTERFACES";

fn entries<K: Pod + Ord>(
    map: &HashMap<MapData, K, Tagged>,
    name: &'static str,
) -> Result<BTreeMap<K, u32>, DataplaneError> {
    let entries = map.iter().map(|entry| entry.map(|(key, index)| (key, index.value())));
    entries.collect::<Result<_, _>>().map_err(|source| kernel("read", name, source))
}

fn insert<K: Pod + Digest>(
    map: &mut HashMap<MapData, K, Tagged>,
    name: &'static str,
    key: K,
    index: u32,
    capacity: u32,
) -> Result<(), DataplaneError> {
    map.insert(key, Tagged::new(&key, index), NO_EXIST)
        .map_err(|source| full_or(source, name, capacity, "pods"))
}

fn remove<K: Pod>(
    map: &mut HashMap<MapData, K, Tagged>,
    name: &'static str,
    key: K,
) -> Result<(), DataplaneError> {
    absent_is_fine(map.remove(&key)).map_err(|source| kernel("update", name, source))
}

#[cfg(test)]
mod tests;
