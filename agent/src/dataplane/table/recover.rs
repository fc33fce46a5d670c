//! Reading the published state back from the maps after a restart.
//!
//! The maps hold no names. A wanted port finds its old state by its frontends, takes over their sets, service
//! index and backends, and is then compared like any other; what no port claims in the first pass is removed. All claim
//! before any is changed, those with a cluster address first: two never want one at a time, while an external one may
//! be wanted by several, and stays with whom it was.

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
    Array, DataplaneError, PortId, ROW_WORDS, Table, TableMaps,
    port::{HeadState, PortState},
};
use crate::{
    dataplane::{
        alloc::Extent,
        endpoints::{self, Role, Target},
    },
    model::ServiceTable,
};

/// What the maps held at start and nobody has claimed yet.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    frontends: HashMap<FrontendKey, u32>,
    /// Head index to set and service index.
    heads: HashMap<u32, (HeadState, u32)>,
    /// Service indices of which a port has taken over a part.
    claimed: BTreeSet<u32>,
    /// Those in use when the last agent ended, with or without a frontend.
    services: BTreeSet<u32>,
    /// Backends of these sets that no port has taken over.
    backends: BTreeSet<Handle>,
    /// Indices that frontends lead to where no set is that could be theirs.
    strays: BTreeSet<u32>,
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
                match self.read_head(index) {
                    Some(found) => drop(recovered.heads.insert(index, found)),
                    None => drop(recovered.strays.insert(index)),
                }
            }
        }
        // What leads there is removed later: until then the index is nobody else's.
        self.heads.restore(recovered.heads.keys().chain(&recovered.strays).copied().collect());
        // Ranges come before the first frontend and go after the last: an agent that was killed between leaves them.
        let owners = recovered.heads.values().map(|(_, service)| *service);
        recovered.services = owners.chain(recovered.ranges.keys().copied()).collect();
        self.services.restore(recovered.services.iter().copied().collect());
        recovered.backends = recovered.heads.values().flat_map(|(head, _)| &head.handles).copied().collect();
        let used: BTreeSet<u32> = recovered.backends.iter().map(|handle| handle.index()).collect();
        self.release_unused(&used);
        self.backends.restore(used.into_iter().collect());
        Ok(recovered)
    }

    /// A set whose rows are in bounds and nobody else's, and whose backends there are; anything else is not ours to trust, is not adopted, and
    /// is written anew.
    fn read_head(&mut self, index: u32) -> Option<(HeadState, u32)> {
        let head = self.head(index);
        let publish = Publish::unpack(head.word);
        let rows = u32::from(publish.slots).div_ceil(ROW);
        let extent = Extent { start: if rows == 0 { 0 } else { publish.row }, rows };
        if publish.row.checked_add(rows)? > self.rows.capacity() || !self.rows.reserve(extent) {
            return None;
        }
        let first = extent.start as usize * ROW_WORDS;
        let word = |slot| self.maps.word(Array::Slots, first + slot / 2).load(Ordering::Relaxed);
        let handles: Vec<Handle> = (0..usize::from(publish.slots))
            .map(|slot| Handle((word(slot) >> (slot % 2 * 32)) as u32))
            .collect();
        if handles.iter().any(|handle| handle.index() >= self.backends.capacity()) {
            self.rows.release(extent);
            return None;
        }
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
                let [_, state] = self.pair(Array::Backends, index);
                self.maps.store(state, backend.dead().state, Ordering::Release);
            }
        }
    }

    /// Hands what the maps held to the ports that are wanted.
    pub(super) fn claim(&mut self, services: &ServiceTable) {
        if self.recovered.as_ref().is_none_or(|recovered| recovered.frontends.is_empty()) {
            return;
        }
        for by_cluster_address in [true, false] {
            for (id, spec) in services {
                for port in &spec.ports {
                    let Some(proto) = endpoints::protocol_number(port.protocol) else { continue };
                    let port_id = PortId { service: id.clone(), proto, port: port.port };
                    if self.ports.contains_key(&port_id) {
                        continue;
                    }
                    let frontends = endpoints::frontends(spec, port, proto);
                    if let Some(state) = self.take_over(&port_id, &frontends, by_cluster_address) {
                        self.ports.insert(port_id, state);
                    }
                }
            }
        }
    }

    /// The state of a port that was never published.
    pub(super) fn new_port(&mut self) -> Result<PortState, DataplaneError> {
        let service = self.services.allocate().ok_or(DataplaneError::Full {
            map: "CONNECTIONS",
            capacity: self.services.capacity(),
            option: "frontends",
        })?;
        if self.inherited {
            // The last agent may have been killed before it forgot what an owner of this index had counted.
            self.maps.reset_connections(service);
        }
        Ok(PortState { service, ..PortState::default() })
    }

    /// By a cluster address; or, for a port of a service without one, by whatever else leads to sets of such a service.
    fn take_over(
        &mut self,
        id: &PortId,
        wanted: &[(FrontendKey, Role)],
        by_cluster_address: bool,
    ) -> Option<PortState> {
        let recovered = self.recovered.as_mut()?;
        let of_cluster = |(_, role): &&(FrontendKey, Role)| *role == Role::Internal;
        if !by_cluster_address && wanted.iter().any(|known| of_cluster(&known)) {
            return None;
        }
        let has_cluster_address = |wanted: u32| {
            let is_that =
                |(head, owner): &(HeadState, u32)| *owner == wanted && role_of(head) == Role::Internal.code();
            recovered.heads.values().any(is_that)
        };
        let service = wanted.iter().filter(|known| of_cluster(known) == by_cluster_address).find_map(
            |(key, role)| {
                let (head, service) = recovered.heads.get(recovered.frontends.get(key)?)?;
                let is_free = is_for(head, *role) && !recovered.claimed.contains(service);
                (is_free && (by_cluster_address || !has_cluster_address(*service))).then_some(*service)
            },
        )?;
        recovered.claimed.insert(service);
        let ranges = recovered.ranges.remove(&service).unwrap_or_default();
        let mut heads: BTreeMap<Role, HeadState> = BTreeMap::new();
        let mut frontends = BTreeMap::new();
        for &(key, role) in wanted {
            let Some(&index) = recovered.frontends.get(&key) else { continue };
            match heads.get(&role) {
                Some(head) if head.index == index => {}
                Some(_) => continue,
                None => {
                    let fits = |(head, owner): &(HeadState, u32)| *owner == service && is_for(head, role);
                    if !recovered.heads.get(&index).is_some_and(fits) {
                        continue;
                    }
                    let Some((head, _)) = recovered.heads.remove(&index) else { continue };
                    heads.insert(role, head);
                }
            }
            recovered.frontends.remove(&key);
            frontends.insert(key, role);
        }
        for &key in frontends.keys() {
            self.owners.insert(key, id.clone());
        }
        let handles: BTreeSet<Handle> = heads.values().flat_map(|head| &head.handles).copied().collect();
        for handle in &handles {
            recovered.backends.remove(handle);
        }
        let backends = handles.into_iter().map(|handle| (self.target(handle), handle)).collect();
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
        if recovered.frontends.contains_key(&key) {
            self.maps.remove_frontend(key)?;
            recovered.frontends.remove(&key);
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
        for (head, service) in recovered.heads.values() {
            self.retire_head(head, *service);
        }
        self.retired.backends.extend(recovered.backends);
        self.retired.services.extend(recovered.services.difference(&recovered.claimed));
        self.retired.heads.extend(recovered.strays);
        Ok(())
    }
}

/// Whether a set is the one of this role. Addresses that are not looked at yet may lead to it: in another role they would
/// be served what is not theirs, past ranges that bind them.
fn is_for(head: &HeadState, role: Role) -> bool {
    match role_of(head) {
        // Of an agent that did not say: what only some clients may use was the balancer's.
        0 => {
            matches!(role, Role::BalancerFromInside | Role::BalancerFromOutside)
                || head.flags & words::SOURCE_RANGES == 0
        }
        code => code == role.code(),
    }
}

fn role_of(head: &HeadState) -> u16 {
    head.flags >> words::ROLE_SHIFT << words::ROLE_SHIFT
}
