//! One service port in the maps: from what it is to what it should be.

use std::collections::{BTreeMap, BTreeSet};

use agent_ebpf_common::{
    abi::{FrontendKey, Head},
    words::{Handle, Publish},
};
use ipnet::{IpNet, Ipv4Net};

use super::{Array, DataplaneError, PortId, Table, TableMaps};
use crate::{
    dataplane::{
        alloc::Extent,
        endpoints::{CompiledPort, EndpointSet, Role, Target},
    },
    model::ServiceSpec,
};

/// A published set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeadState {
    pub(super) index: u32,
    pub(super) extent: Extent,
    pub(super) handles: Vec<Handle>,
    pub(super) flags: u16,
    pub(super) timeout: u32,
    pub(super) epoch: u8,
}

/// A published service port.
#[derive(Debug, Default)]
pub(super) struct PortState {
    /// Service index: names the port in affinity, flows and counters.
    pub(super) service: u32,
    pub(super) backends: BTreeMap<Target, Handle>,
    pub(super) heads: BTreeMap<Role, HeadState>,
    pub(super) frontends: BTreeMap<FrontendKey, Role>,
    pub(super) ranges: BTreeSet<Ipv4Net>,
}

impl<M: TableMaps> Table<M> {
    /// Makes one port what `compiled` says; tells whether anything changed.
    pub(super) fn apply_port(
        &mut self,
        id: &PortId,
        compiled: &CompiledPort,
        spec: &ServiceSpec,
    ) -> Result<bool, DataplaneError> {
        if compiled.frontends.is_empty() {
            return self.remove_port(id).map(|()| false);
        }
        let mut state = match self.ports.remove(id) {
            Some(state) => state,
            None => self.new_port()?,
        };
        let ranges: BTreeSet<Ipv4Net> = spec.source_ranges.iter().filter_map(v4_range).collect();
        let result = self.update(id, &mut state, compiled, &ranges);
        // Also after a failure: what was done is done, and the next pass goes on from here.
        self.ports.insert(id.clone(), state);
        result
    }

    fn update(
        &mut self,
        id: &PortId,
        state: &mut PortState,
        compiled: &CompiledPort,
        ranges: &BTreeSet<Ipv4Net>,
    ) -> Result<bool, DataplaneError> {
        let wanted: BTreeSet<Target> =
            compiled.sets.values().flat_map(|set| set.targets.iter().copied()).collect();
        for &target in &wanted {
            if !state.backends.contains_key(&target) {
                let handle = self.new_backend(target, state.service)?;
                state.backends.insert(target, handle);
            }
        }
        let mut changed = self.allow_sources(state, ranges)?;
        for (&role, set) in &compiled.sets {
            changed |= self.publish_set(state, role, set, compiled.timeout)?;
        }
        changed |= self.move_frontends(id, state, compiled)?;
        changed |= self.forbid_sources(state, ranges)?;
        self.drop_unused(state, compiled, &wanted);
        Ok(changed)
    }

    fn publish_set(
        &mut self,
        state: &mut PortState,
        role: Role,
        set: &EndpointSet,
        timeout: u32,
    ) -> Result<bool, DataplaneError> {
        let handles: Vec<Handle> =
            set.targets.iter().filter_map(|target| state.backends.get(target).copied()).collect();
        let flags = set.flags | role.code();
        let old = state.heads.get(&role);
        if old.is_some_and(|old| (&old.handles, old.flags, old.timeout) == (&handles, flags, timeout)) {
            return Ok(false);
        }
        let index = match old {
            Some(old) => old.index,
            None => self.new_head()?,
        };
        let epoch = old.map_or(0, |old| old.epoch.wrapping_add(1));
        let extent = match old {
            Some(old) if old.handles == handles => old.extent,
            _ => self.new_set(&handles).inspect_err(|_| {
                if old.is_none() {
                    self.heads.release(index);
                }
            })?,
        };
        let publish = Publish { row: extent.start, slots: handles.len() as u16, flags, epoch };
        self.store_head(index, publish, Head::aux(state.service, timeout));
        let head = HeadState { index, extent, handles, flags, timeout, epoch };
        if let Some(old) = state.heads.insert(role, head)
            && old.extent != extent
        {
            self.retired.extents.push(old.extent);
        }
        Ok(true)
    }

    /// An index of `HEADS` that is nobody's.
    fn new_head(&mut self) -> Result<u32, DataplaneError> {
        let index = self.heads.allocate().ok_or(DataplaneError::Full {
            map: "HEADS",
            capacity: self.heads.capacity(),
            option: "frontends",
        })?;
        let reached = self.maps.reach(Array::Heads, self.heads.end());
        reached.inspect_err(|_| self.heads.release(index))?;
        Ok(index)
    }

    /// Adds frontends, cluster addresses first, and removes those that are gone.
    fn move_frontends(
        &mut self,
        id: &PortId,
        state: &mut PortState,
        compiled: &CompiledPort,
    ) -> Result<bool, DataplaneError> {
        let mut changed = false;
        let wanted: BTreeMap<FrontendKey, Role> = compiled.frontends.iter().copied().collect();
        let gone: Vec<FrontendKey> = state
            .frontends
            .iter()
            .filter(|(key, role)| wanted.get(key) != Some(role))
            .map(|(&key, _)| key)
            .collect();
        for key in gone {
            self.remove_frontend(state, key)?;
            changed = true;
        }
        for &(key, role) in &compiled.frontends {
            if state.frontends.contains_key(&key) {
                continue;
            }
            let Some(head) = state.heads.get(&role) else { continue };
            match self.owners.get(&key) {
                Some(owner) if owner != id => {
                    tracing::warn!(service = ?id, other = ?owner, "an address and port is claimed by two services");
                    self.waiting.entry(key).or_default().insert(id.clone());
                }
                _ => {
                    self.displace_recovered(key)?;
                    self.maps.insert_frontend(key, head.index)?;
                    self.owners.insert(key, id.clone());
                    state.frontends.insert(key, role);
                    changed = true;
                }
            }
        }
        Ok(changed)
    }

    fn remove_frontend(&mut self, state: &mut PortState, key: FrontendKey) -> Result<(), DataplaneError> {
        self.maps.remove_frontend(key)?;
        state.frontends.remove(&key);
        self.owners.remove(&key);
        // Whoever waits for it is looked at again before the pass ends.
        self.again
            .extend(self.waiting.remove(&key).unwrap_or_default().into_iter().map(|waiting| waiting.service));
        Ok(())
    }

    fn allow_sources(
        &mut self,
        state: &mut PortState,
        ranges: &BTreeSet<Ipv4Net>,
    ) -> Result<bool, DataplaneError> {
        let missing: Vec<Ipv4Net> = ranges.difference(&state.ranges).copied().collect();
        for &range in &missing {
            self.maps.insert_source_range(state.service, range)?;
            state.ranges.insert(range);
        }
        Ok(!missing.is_empty())
    }

    fn forbid_sources(
        &mut self,
        state: &mut PortState,
        ranges: &BTreeSet<Ipv4Net>,
    ) -> Result<bool, DataplaneError> {
        let surplus: Vec<Ipv4Net> = state.ranges.difference(ranges).copied().collect();
        for range in &surplus {
            self.maps.remove_source_range(state.service, *range)?;
            state.ranges.remove(range);
        }
        Ok(!surplus.is_empty())
    }

    /// Retires sets no frontend leads to and backends no set holds.
    fn drop_unused(&mut self, state: &mut PortState, compiled: &CompiledPort, wanted: &BTreeSet<Target>) {
        let roles: Vec<Role> =
            state.heads.keys().filter(|role| !compiled.sets.contains_key(role)).copied().collect();
        for role in roles {
            if let Some(head) = state.heads.remove(&role) {
                self.retire_head(&head, state.service);
            }
        }
        let retired = &mut self.retired.backends;
        state.backends.retain(|target, handle| {
            let keep = wanted.contains(target);
            if !keep {
                retired.push(*handle);
            }
            keep
        });
    }

    /// Empties a set that nothing leads to any more.
    pub(super) fn retire_head(&mut self, head: &HeadState, service: u32) {
        // Never all zeros: what was used does not look as if it never had been.
        let epoch = head.epoch.wrapping_add(1).max(1);
        let empty = Publish { row: 0, slots: 0, flags: 0, epoch };
        self.store_head(head.index, empty, Head::aux(service, 0));
        self.retired.heads.push(head.index);
        self.retired.extents.push(head.extent);
    }

    /// Removes a port and everything it holds.
    pub(super) fn remove_port(&mut self, id: &PortId) -> Result<(), DataplaneError> {
        for waiting in self.waiting.values_mut() {
            waiting.remove(id);
        }
        let Some(mut state) = self.ports.remove(id) else { return Ok(()) };
        let empty = CompiledPort::default();
        let result = self
            .move_frontends(id, &mut state, &empty)
            .and_then(|_| self.forbid_sources(&mut state, &BTreeSet::new()));
        if let Err(error) = result {
            self.ports.insert(id.clone(), state);
            return Err(error);
        }
        self.drop_unused(&mut state, &empty, &BTreeSet::new());
        self.retired.services.push(state.service);
        Ok(())
    }
}

fn v4_range(range: &IpNet) -> Option<Ipv4Net> {
    match range {
        IpNet::V4(range) => Some(range.trunc()),
        IpNet::V6(_) => None,
    }
}
