//! The service table: what is published, and the changes that make it equal to what is wanted.
//!
//! Order of every change: backends, slots, publish word (one store), and only after a grace period the freeing
//! of what the old word led to. A reader therefore sees the old set or the new one, never a mixture and never
//! nothing. All state can be read back from the maps ([`recover`]), so that a restarted agent republishes
//! nothing that is already right.
//!
//! Generic over [`TableMaps`]: tests run it on plain memory and select from it with the kernel's own code.

mod port;
mod recover;

use std::{
    cmp,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use agent_ebpf_common::{
    abi::{Backend, FrontendKey, Head, ROW},
    words::{self, Handle, Publish},
};
use ipnet::Ipv4Net;

use self::{port::PortState, recover::Recovered};
use super::{
    DataplaneError, Programmed,
    alloc::{Extent, Extents, Indices},
    endpoints::{self, Target},
};
use crate::model::{Chain, NodeName, ServiceId, ServiceSpec, ServiceTable};

/// Freed backend indices kept back before reuse. Their generation tells old handles from new ones anyway; the
/// rest makes a wrap of its 12 bits within the life of a flow impossible in practice.
const BACKENDS_AT_REST: usize = 4096;

/// The arrays behind the hash maps. Each is used from its front: whoever hands out its elements hands out the first first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Array {
    /// `HEADS`, one an element.
    Heads,
    /// `SLOTS`, a row an element.
    Slots,
    /// `BACKENDS`, one an element.
    Backends,
}

impl Array {
    /// All there are, in the order of their numbers.
    pub(super) const ALL: [Self; 3] = [Self::Heads, Self::Slots, Self::Backends];

    /// Words of an element.
    pub(super) const fn words(self) -> usize {
        match self {
            Self::Heads | Self::Backends => 2,
            Self::Slots => ROW_WORDS,
        }
    }
}

/// Words of a row: two slots each.
const ROW_WORDS: usize = ROW as usize / 2;

/// The maps, as the table writes them.
pub(super) trait TableMaps {
    /// Elements that an array has.
    fn elements(&self, array: Array) -> usize;
    /// A word of an element that was reached.
    fn word(&self, array: Array, index: usize) -> &AtomicU64;
    /// Makes the first `elements` of an array ready to be read and written; those that are ready stay so.
    fn reach(&mut self, array: Array, elements: u32) -> Result<(), DataplaneError>;
    /// None but the first `elements` of an array are needed until they are reached again.
    fn keep(&mut self, array: Array, elements: u32);
    /// Writes one of these words. All of them are written here, so that a test can end the writer between any two.
    fn store(&self, word: &AtomicU64, value: u64, order: Ordering) {
        word.store(value, order);
    }
    /// Returns when everybody who reads now has ended.
    fn wait_for_readers(&self) -> Result<(), DataplaneError>;
    /// All frontends.
    fn frontends(&self) -> Result<Vec<(FrontendKey, u32)>, DataplaneError>;
    /// Entries that `FRONTENDS` holds at most.
    fn frontend_capacity(&self) -> u32;
    /// All source ranges, with their services.
    fn source_ranges(&self) -> Result<Vec<(u32, Ipv4Net)>, DataplaneError>;
    /// Inserts a frontend that is not there.
    fn insert_frontend(&mut self, key: FrontendKey, index: u32) -> Result<(), DataplaneError>;
    /// Deletes a frontend.
    fn remove_frontend(&mut self, key: FrontendKey) -> Result<(), DataplaneError>;
    /// Lets a range of clients use a service's load balancer addresses.
    fn insert_source_range(&mut self, service: u32, range: Ipv4Net) -> Result<(), DataplaneError>;
    /// Takes it back.
    fn remove_source_range(&mut self, service: u32, range: Ipv4Net) -> Result<(), DataplaneError>;
    /// Forgets what a service index has counted: its next owner starts from zero.
    fn reset_connections(&mut self, service: u32);
}

/// One service port, by what identifies it for users.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PortId {
    pub(super) service: ServiceId,
    pub(super) proto: u8,
    pub(super) port: u16,
}

/// What may be freed once no program can still be reading it.
#[derive(Debug, Default)]
pub(super) struct Retired {
    extents: Vec<Extent>,
    heads: Vec<u32>,
    services: Vec<u32>,
    backends: Vec<Handle>,
}

impl Retired {
    pub(super) fn is_empty(&self) -> bool {
        self.extents.is_empty()
            && self.heads.is_empty()
            && self.services.is_empty()
            && self.backends.is_empty()
    }
}

/// Fill of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Map.
    pub map: &'static str,
    /// Entries in use.
    pub used: u32,
    /// Entries at most.
    pub capacity: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Table<M> {
    maps: M,
    node: Option<NodeName>,
    published: ServiceTable,
    ports: BTreeMap<PortId, PortState>,
    /// Who answers on a frontend; the first to claim it.
    owners: HashMap<FrontendKey, PortId>,
    /// Who else wants it, and gets it when the owner lets go.
    waiting: HashMap<FrontendKey, BTreeSet<PortId>>,
    /// Services to look at again: a frontend they wait for became free.
    again: BTreeSet<ServiceId>,
    /// Services of which a part could not be programmed.
    unsettled: BTreeSet<ServiceId>,
    heads: Indices,
    services: Indices,
    rows: Extents,
    backends: Indices,
    recovered: Option<Recovered>,
    /// The maps were in use before this process.
    inherited: bool,
    retired: Retired,
}

impl<M: TableMaps> Table<M> {
    /// Takes over what the maps hold.
    pub(super) fn recover(maps: M) -> Result<Self, DataplaneError> {
        let heads = maps.frontend_capacity().min(maps.elements(Array::Heads) as u32);
        let rows = maps.elements(Array::Slots).min(words::MAX_ROWS as usize) as u32;
        let backends = (maps.elements(Array::Backends) as u32).min(1 << words::INDEX_BITS);
        let mut table = Self {
            maps,
            node: None,
            published: ServiceTable::new(),
            ports: BTreeMap::new(),
            owners: HashMap::new(),
            waiting: HashMap::new(),
            again: BTreeSet::new(),
            unsettled: BTreeSet::new(),
            heads: Indices::new(heads, 0),
            services: Indices::new(heads, 0),
            rows: Extents::new(rows),
            backends: Indices::new(backends, BACKENDS_AT_REST),
            recovered: None,
            inherited: false,
            retired: Retired::default(),
        };
        // The last agent may have ended before the grace period of what it took out of use.
        table.maps.wait_for_readers()?;
        for (array, all) in Array::ALL.into_iter().zip([heads, rows, backends]) {
            table.maps.reach(array, all)?;
        }
        // The first index is the first to be used, and its word is never all zeros again.
        table.inherited = table.head(0).word != 0;
        table.recovered = Some(table.read_back()?);
        let used = [table.heads.end(), table.rows.end(), table.backends.end()];
        for (array, used) in Array::ALL.into_iter().zip(used) {
            table.maps.keep(array, used);
        }
        Ok(table)
    }

    /// Makes the maps equal to `services` as `node` sees them. A service that cannot be programmed does not
    /// hold up the others: its error is returned after them, and it is tried again next time.
    pub(super) fn publish(
        &mut self,
        services: &ServiceTable,
        node: &NodeName,
    ) -> Result<Programmed, DataplaneError> {
        // Locality changes with the node for every endpoint.
        let everything = self.node.as_ref() != Some(node);
        self.node = Some(node.clone());
        self.claim(services);
        let mut difference = diff(&self.published, services, everything);
        for id in &self.unsettled {
            if let Some(spec) = services.get(id).filter(|_| !difference.changed.contains_key(id)) {
                difference.changed.insert(id.clone(), Arc::clone(spec));
            }
        }
        let mut failures = Failures::default();
        let mut done = Programmed::default();
        // Removals first: an address may change hands within one pass.
        for id in difference.gone {
            let (removed, result) = self.remove_ports(&id, None);
            done.removed += removed;
            if failures.note(&id, result) {
                self.published.remove(&id);
                self.unsettled.remove(&id);
            }
        }
        for (id, spec) in &difference.changed {
            self.unsettled.remove(id);
            let (removed, result) = self.remove_ports(id, Some(spec));
            done.removed += removed;
            self.settle(id, result, &mut failures);
        }
        for (id, spec) in difference.changed {
            let (changed, result) = self.apply_service(&id, &spec, node);
            done.changed += changed;
            self.settle(&id, result, &mut failures);
            self.published.insert(id, spec);
        }
        while let Some(id) = self.again.pop_first() {
            let Some(spec) = services.get(&id) else { continue };
            let (changed, result) = self.apply_service(&id, spec, node);
            done.changed += changed;
            self.settle(&id, result, &mut failures);
        }
        let recovered = self.finish_recovery();
        done.kept = self.ports.len().saturating_sub(done.changed);
        failures.into_result().and(recovered).map(|()| done)
    }

    /// What failed is told, and tried again with the next pass: nothing else would look at it then.
    fn settle(&mut self, id: &ServiceId, result: Result<(), DataplaneError>, failures: &mut Failures) {
        if !failures.note(id, result) {
            self.unsettled.insert(id.clone());
        }
    }

    /// Removes the ports of a service that `spec` does not have; all of them without one.
    fn remove_ports(
        &mut self,
        id: &ServiceId,
        spec: Option<&ServiceSpec>,
    ) -> (usize, Result<(), DataplaneError>) {
        let bound = |proto, port| PortId { service: id.clone(), proto, port };
        let stale: Vec<PortId> = self
            .ports
            .range(bound(0, 0)..=bound(u8::MAX, u16::MAX))
            .map(|(id, _)| id)
            .filter(|id| {
                !spec.is_some_and(|spec| {
                    spec.ports.iter().any(|port| {
                        port.port == id.port && endpoints::protocol_number(port.protocol) == Some(id.proto)
                    })
                })
            })
            .cloned()
            .collect();
        let (mut removed, mut result) = (0, Ok(()));
        for id in stale {
            match self.remove_port(&id) {
                Ok(()) => removed += 1,
                Err(error) => result = result.and(Err(error)),
            }
        }
        (removed, result)
    }

    /// Applies all ports of a service; the number that changed, and the first failure.
    fn apply_service(
        &mut self,
        id: &ServiceId,
        spec: &ServiceSpec,
        node: &NodeName,
    ) -> (usize, Result<(), DataplaneError>) {
        let (mut changed, mut result) = (0, Ok(()));
        for port in &spec.ports {
            let Some(proto) = endpoints::protocol_number(port.protocol) else { continue };
            let port_id = PortId { service: id.clone(), proto, port: port.port };
            match self.apply_port(&port_id, &endpoints::compile(spec, port, node), spec) {
                Ok(true) => changed += 1,
                Ok(false) => {}
                Err(error) => result = result.and(Err(error)),
            }
        }
        (changed, result)
    }

    /// What can be freed after a grace period; the caller waits for one and calls [`Table::release`].
    pub(super) fn take_retired(&mut self) -> Retired {
        std::mem::take(&mut self.retired)
    }

    /// Frees what was retired before the last grace period.
    pub(super) fn release(&mut self, retired: Retired) {
        for handle in retired.backends {
            // Datagram flows that stick to it choose again; TCP connections drain.
            let backend = self.backend(handle.index()).dead();
            let [_, state] = self.pair(Array::Backends, handle.index());
            self.maps.store(state, backend.state, Ordering::Release);
            self.backends.release(handle.index());
        }
        for extent in retired.extents {
            self.rows.release(extent);
        }
        for head in retired.heads {
            self.heads.release(head);
        }
        for service in retired.services {
            self.maps.reset_connections(service);
            self.services.release(service);
        }
    }

    /// Service index to its name, for counters.
    pub(super) fn service_names(&self) -> impl Iterator<Item = (u32, &PortId)> {
        self.ports.iter().map(|(id, state)| (state.service, id))
    }

    /// Fill of the tables.
    pub(super) fn fill(&self) -> [Fill; 4] {
        let of = |map, used, capacity| Fill { map, used, capacity };
        [
            of("FRONTENDS", self.owners.len() as u32, self.maps.frontend_capacity()),
            of("HEADS", self.heads.in_use(), self.heads.capacity()),
            of("SLOTS", self.rows.in_use(), self.rows.capacity()),
            of("BACKENDS", self.backends.in_use(), self.backends.capacity()),
        ]
    }

    /// The two words of a head or backend.
    fn pair(&self, array: Array, index: u32) -> [&AtomicU64; 2] {
        let first = index as usize * array.words();
        [self.maps.word(array, first), self.maps.word(array, first + 1)]
    }

    fn head(&self, index: u32) -> Head {
        let words = self.pair(Array::Heads, index);
        Head { word: words[0].load(Ordering::Acquire), aux: words[1].load(Ordering::Relaxed) }
    }

    fn backend(&self, index: u32) -> Backend {
        let words = self.pair(Array::Backends, index);
        Backend { target: words[0].load(Ordering::Acquire), state: words[1].load(Ordering::Relaxed) }
    }

    /// Writes a new backend of `service`. Only handles of an earlier generation can lead to it yet: for their readers,
    /// who read the state first, it is last.
    fn new_backend(&mut self, target: Target, service: u32) -> Result<Handle, DataplaneError> {
        let index = self.backends.allocate().ok_or(DataplaneError::Full {
            map: "BACKENDS",
            capacity: self.backends.capacity(),
            option: "backends",
        })?;
        let reached = self.maps.reach(Array::Backends, self.backends.end());
        reached.inspect_err(|_| self.backends.release(index))?;
        let generation = (self.backend(index).generation() + 1) % words::GENERATIONS;
        let flags = if target.local { words::LOCAL } else { 0 };
        let backend = Backend::new(
            u32::from_ne_bytes(target.address.ip().octets()),
            target.address.port().to_be(),
            generation,
            flags,
            service,
        );
        let [target, state] = self.pair(Array::Backends, index);
        self.maps.store(target, backend.target, Ordering::Relaxed);
        self.maps.store(state, backend.state, Ordering::Release);
        Ok(Handle::new(index, generation))
    }

    /// Writes a set of handles into rows of its own.
    fn new_set(&mut self, handles: &[Handle]) -> Result<Extent, DataplaneError> {
        let too_many = |capacity| DataplaneError::Full { map: "SLOTS", capacity, option: "backends" };
        if handles.len() > words::MAX_SLOTS as usize {
            return Err(too_many(words::MAX_SLOTS));
        }
        let rows = (handles.len() as u32).div_ceil(ROW);
        let extent = self.rows.allocate(rows).ok_or_else(|| too_many(self.rows.capacity() * ROW))?;
        let reached = self.maps.reach(Array::Slots, extent.start + extent.rows);
        reached.inspect_err(|_| self.rows.release(extent))?;
        for (index, pair) in (extent.start as usize * ROW_WORDS..).zip(handles.chunks(2)) {
            // Lanes are 32 bits; the programs are compiled for little-endian machines only.
            let high = pair.get(1).map_or(0, |handle| u64::from(handle.0));
            let word = self.maps.word(Array::Slots, index);
            self.maps.store(word, high << 32 | u64::from(pair[0].0), Ordering::Relaxed);
        }
        Ok(extent)
    }

    /// The publish store: what was written before it becomes visible with it.
    fn store_head(&self, index: u32, publish: Publish, aux: u64) {
        let [word, other] = self.pair(Array::Heads, index);
        self.maps.store(other, aux, Ordering::Relaxed);
        self.maps.store(word, publish.pack(), Ordering::Release);
    }
}

/// Services that could not be programmed, each with its first reason.
#[derive(Default)]
struct Failures {
    failed: BTreeMap<ServiceId, String>,
    first: Option<DataplaneError>,
}

impl Failures {
    /// True when there is none to note.
    fn note(&mut self, id: &ServiceId, result: Result<(), DataplaneError>) -> bool {
        let Err(error) = result else { return true };
        self.failed.entry(id.clone()).or_insert_with(|| Chain(&error).to_string());
        self.first.get_or_insert(error);
        false
    }

    fn into_result(self) -> Result<(), DataplaneError> {
        let failed = self.failed.into_iter().collect();
        self.first.map_or(Ok(()), |first| Err(DataplaneError::Services { failed, first: Box::new(first) }))
    }
}

/// What is different between two tables.
#[derive(Default)]
struct Difference {
    gone: Vec<ServiceId>,
    changed: ServiceTable,
}

/// One walk over both tables side by side. Unchanged services share their value and the text of their names
/// with the last table, so that each costs three comparisons of pointers.
fn diff(old: &ServiceTable, new: &ServiceTable, everything: bool) -> Difference {
    let mut difference = Difference::default();
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return difference,
            (Some(_), None) => cmp::Ordering::Less,
            (None, Some(_)) => cmp::Ordering::Greater,
            (Some((before, _)), Some((now, _))) if same_text(before, now) => cmp::Ordering::Equal,
            (Some((before, _)), Some((now, _))) => before.cmp(now),
        };
        let before = if order.is_le() { old.next() } else { None };
        let now = if order.is_ge() { new.next() } else { None };
        match (before, now) {
            (Some((id, _)), None) => difference.gone.push(id.clone()),
            (Some((_, before)), Some((_, now))) if !everything && Arc::ptr_eq(before, now) => {}
            (_, Some((id, now))) => {
                difference.changed.insert(id.clone(), Arc::clone(now));
            }
            (None, None) => {}
        }
    }
}

fn same_text(a: &ServiceId, b: &ServiceId) -> bool {
    Arc::ptr_eq(&a.name, &b.name) && Arc::ptr_eq(&a.namespace, &b.namespace)
}

#[cfg(test)]
mod tests;
