//! Reading the published state back from the maps after a restart.
//!
//! The maps hold no names. A wanted port finds its old state by its frontends, takes over their sets, service
//! index and backends, and is then compared like any other; what no port claims in the first pass is removed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{Ipv4Addr, SocketAddrV4},
    sync::atomic::Ordering,
};

use agent_ebpf_common::{
    abi::{FrontendKey, ROW},
    words::{self, Handle, Publish},
};

use ipnet::Ipv4Net;

use super::{
    DataplaneError, PortId, Table, TableMaps,
    port::{HeadState, PortState},
};
use crate::dataplane::{
    alloc::Extent,
    endpoints::{CompiledPort, Role, Target},
};

/// What the maps held at start and nobody has claimed yet.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    frontends: HashMap<FrontendKey, u32>,
    /// Head index to set and service index.
    heads: HashMap<u32, (HeadState, u32)>,
    /// Service indices of which a port has taken over a part.
    claimed: BTreeSet<u32>,
    /// Source ranges by service index.
    ranges: HashMap<u32, BTreeSet<Ipv4Net>>,
}

impl<M: TableMaps> Table<M> {
    /// Reads the maps and marks what they use.
    pub(super) fn read_back(&mut self) -> Result<Recovered, DataplaneError> {
        let mut recovered =
            Recovered { frontends: self.maps.frontends()?.into_iter().collect(), ..Recovered::default() };
        for (service, range) in self.maps.source_ranges()? {
            recovered.ranges.entry(service).or_default().insert(range);
        }
        for &index in recovered.frontends.values() {
            if index < self.heads.capacity() && !recovered.heads.contains_key(&index) {
                let Some((head, service)) = self.read_head(index) else { continue };
                recovered.heads.insert(index, (head, service));
            }
        }
        self.heads.restore(recovered.heads.keys().copied().collect());
        self.services.restore(recovered.heads.values().map(|(_, service)| *service).collect());
        let used: BTreeSet<u32> = recovered
            .heads
            .values()
            .flat_map(|(head, _)| &head.handles)
            .map(|handle| handle.index())
            .collect();
        self.release_unused(&used);
        self.backends.restore(used.into_iter().collect());
        Ok(recovered)
    }

    /// A set whose rows are in bounds and nobody else's; anything else is not ours to trust, is not adopted, and
    /// is written anew.
    fn read_head(&mut self, index: u32) -> Option<(HeadState, u32)> {
        let head = self.head(index);
        let publish = Publish::unpack(head.word);
        let rows = u32::from(publish.slots).div_ceil(ROW);
        let extent = Extent { start: if rows == 0 { 0 } else { publish.row }, rows };
        if publish.row.checked_add(rows)? > self.rows.capacity() || !self.rows.reserve(extent) {
            return None;
        }
        let words = &self.maps.slots()[extent.start as usize * 8..];
        let handles = (0..usize::from(publish.slots))
            .map(|slot| Handle((words[slot / 2].load(Ordering::Relaxed) >> (slot % 2 * 32)) as u32))
            .collect();
        let state = HeadState {
            index,
            extent,
            handles,
            flags: publish.flags,
            timeout: head.timeout(),
            epoch: publish.epoch,
        };
        Some((state, head.service()))
    }

    /// Backends that were waiting for their grace period when the last agent ended.
    fn release_unused(&self, used: &BTreeSet<u32>) {
        for index in (0..self.backends.capacity()).filter(|index| !used.contains(index)) {
            let backend = self.backend(index);
            if backend.state as u8 == words::ACTIVE {
                self.maps.backends()[index as usize * 2 + 1].store(backend.dead().state, Ordering::Release);
            }
        }
    }

    /// The state of a port that this process has not published: taken over from the maps, or new.
    pub(super) fn adopt(
        &mut self,
        id: &PortId,
        compiled: &CompiledPort,
    ) -> Result<PortState, DataplaneError> {
        if let Some(state) = self.take_over(id, compiled) {
            return Ok(state);
        }
        let service = self.services.allocate().ok_or(DataplaneError::Full {
            map: "CONNECTIONS",
            capacity: self.services.capacity(),
            option: "frontends",
        })?;
        Ok(PortState { service, ..PortState::default() })
    }

    fn take_over(&mut self, id: &PortId, compiled: &CompiledPort) -> Option<PortState> {
        let recovered = self.recovered.as_mut()?;
        let service = compiled.frontends.iter().find_map(|(key, _)| {
            let (_, service) = recovered.heads.get(recovered.frontends.get(key)?)?;
            (!recovered.claimed.contains(service)).then_some(*service)
        })?;
        recovered.claimed.insert(service);
        let ranges = recovered.ranges.remove(&service).unwrap_or_default();
        let mut heads: BTreeMap<Role, HeadState> = BTreeMap::new();
        let mut frontends = BTreeMap::new();
        for &(key, role) in &compiled.frontends {
            let Some(&index) = recovered.frontends.get(&key) else { continue };
            match heads.get(&role) {
                Some(head) if head.index == index => {}
                Some(_) => continue,
                None => {
                    let Some((head, _)) =
                        recovered.heads.remove(&index).filter(|(_, owner)| *owner == service)
                    else {
                        continue;
                    };
                    heads.insert(role, head);
                }
            }
            recovered.frontends.remove(&key);
            frontends.insert(key, role);
        }
        for &key in frontends.keys() {
            self.owners.insert(key, id.clone());
        }
        let backends = heads
            .values()
            .flat_map(|head| &head.handles)
            .map(|&handle| (self.target(handle), handle))
            .collect();
        Some(PortState { service, backends, heads, frontends, ranges })
    }

    fn target(&self, handle: Handle) -> Target {
        let backend = self.backend(handle.index());
        let address = Ipv4Addr::from(backend.addr_be().to_ne_bytes());
        Target {
            address: SocketAddrV4::new(address, u16::from_be(backend.port_be())),
            local: backend.flags() & words::LOCAL != 0,
        }
    }

    /// A frontend from before that is about to be inserted for somebody else.
    pub(super) fn displace_recovered(&mut self, key: FrontendKey) -> Result<(), DataplaneError> {
        let Some(recovered) = &mut self.recovered else { return Ok(()) };
        if recovered.frontends.remove(&key).is_some() {
            self.maps.remove_frontend(key)?;
        }
        Ok(())
    }

    /// Removes what leads to the unclaimed from the hash maps.
    fn clear(&mut self, recovered: &mut Recovered) -> Result<(), DataplaneError> {
        while let Some(&key) = recovered.frontends.keys().next() {
            self.maps.remove_frontend(key)?;
            recovered.frontends.remove(&key);
        }
        for (service, ranges) in &mut recovered.ranges {
            while let Some(&range) = ranges.first() {
                self.maps.remove_source_range(*service, range)?;
                ranges.pop_first();
            }
        }
        Ok(())
    }

    /// After the first pass: removes what no wanted port claimed.
    pub(super) fn finish_recovery(&mut self) -> Result<(), DataplaneError> {
        let Some(mut recovered) = self.recovered.take() else { return Ok(()) };
        if let Err(error) = self.clear(&mut recovered) {
            // The next pass goes on from here.
            self.recovered = Some(recovered);
            return Err(error);
        }
        let mut services = BTreeSet::new();
        let mut backends = BTreeSet::new();
        for (head, service) in recovered.heads.values() {
            self.retire_head(head, *service);
            services.insert(*service);
            backends.extend(head.handles.iter().copied());
        }
        let in_use: BTreeSet<Handle> =
            self.ports.values().flat_map(|state| state.backends.values().copied()).collect();
        self.retired.backends.extend(backends.difference(&in_use));
        self.retired.services.extend(services.difference(&recovered.claimed));
        Ok(())
    }
}
