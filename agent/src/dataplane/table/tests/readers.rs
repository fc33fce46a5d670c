//! What readers of the maps may see: the sets of a table that was published, while it is replaced by another, and when
//! nothing is left to do. In: tables as wanted. Out: faults in words.

use std::sync::Mutex;

use super::*;
use crate::dataplane::{
    endpoints::Role,
    memory::{Served, Set},
};

/// Who wants a frontend, and what it then leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    port: PortId,
    role: Role,
    set: Set,
}

/// By frontend, everybody who wants it: mostly one.
pub(super) type Claims = BTreeMap<FrontendKey, Vec<Claim>>;

/// What `services` are to be, each from a table that was freshly built and holds nothing else.
pub(super) fn claims(services: &ServiceTable, node: &NodeName) -> Claims {
    let mut claims = Claims::new();
    for (id, spec) in services {
        let memory = Memory::new(64, 64, 128);
        let alone = ServiceTable::from([(id.clone(), Arc::clone(spec))]);
        Table::recover(memory.clone()).unwrap().publish(&alone, node).unwrap();
        let served = memory.served();
        for port in &spec.ports {
            let Some(proto) = endpoints::protocol_number(port.protocol) else { continue };
            let owner = PortId { service: id.clone(), proto, port: port.port };
            for (key, role) in endpoints::compile(spec, port, node).frontends {
                let claim = Claim { port: owner.clone(), role, set: served[&key].set.clone() };
                claims.entry(key).or_default().push(claim);
            }
        }
    }
    claims
}

/// What is not as it should be once `wanted` is published: whole sets, and nothing else.
pub(super) fn differences(memory: &Memory, wanted: &Claims) -> Vec<String> {
    let served = memory.served();
    let mut faults: Vec<String> = served
        .keys()
        .filter(|key| !wanted.contains_key(key))
        .map(|key| format!("left behind: {key:?}"))
        .collect();
    for (key, claims) in wanted {
        let set = served.get(key).map(|served| &served.set);
        if !claims.iter().any(|claim| Some(&claim.set) == set) {
            faults.push(format!("{key:?} leads to {set:?}, not to {claims:?}"));
        }
    }
    faults
}

/// What a reader must not see while one table takes the place of another, in whatever direction.
pub(super) fn mixtures(memory: &Memory, one: &Claims, other: &Claims) -> Vec<String> {
    let served = memory.served();
    let none = Vec::new();
    let mut faults = memory.broken_promises();
    let keys: BTreeSet<&FrontendKey> = one.keys().chain(other.keys()).chain(served.keys()).collect();
    for key in keys {
        let [a, b] = [one, other].map(|claims| claims.get(key).unwrap_or(&none));
        let mut allowed: Vec<&Claim> = a.iter().chain(b).collect();
        if !is_steady(a, b) {
            // On its way to somebody else or to nobody, it may lead to the other set of whom it belonged to.
            let all = one.values().chain(other.values()).flatten();
            allowed.extend(all.filter(|claim| a.iter().chain(b).any(|known| known.port == claim.port)));
        }
        match served.get(key) {
            None if is_steady(a, b) => faults.push(format!("{key:?} leads nowhere")),
            Some(served) if !is_allowed(&served.set, &allowed) => {
                faults.push(format!("{key:?} leads to {:?}, not to one of {allowed:?}", served.set));
            }
            _ => {}
        }
    }
    faults
}

/// The same ports want it in the same roles: there is no moment at which it leads nowhere.
fn is_steady(a: &[Claim], b: &[Claim]) -> bool {
    let wanting = |claims: &[Claim]| claims.iter().map(|c| (c.port.clone(), c.role)).collect::<Vec<_>>();
    !a.is_empty() && wanting(a) == wanting(b)
}

/// Backends and flags come in one word and are of one table. Of the ranges each is a map's element: while they change, a
/// client in both is let in and one in neither is not.
fn is_allowed(set: &Set, allowed: &[&Claim]) -> bool {
    let sets: Vec<&Set> = allowed.iter().map(|claim| &claim.set).collect();
    let whole = sets.iter().any(|known| (&known.targets, known.flags) == (&set.targets, set.flags));
    let restricted = |set: &Set| set.flags & words::SOURCE_RANGES != 0;
    let in_any = |range| sets.iter().any(|known| restricted(known) && known.ranges.contains(range));
    let in_all =
        |range: &&Ipv4Net| sets.iter().all(|known| !restricted(known) || known.ranges.contains(*range));
    let told = sets.iter().filter(|known| restricted(known)).flat_map(|known| &known.ranges);
    let ranges_fit = !restricted(set)
        || (set.ranges.iter().all(in_any) && told.filter(in_all).all(|range| set.ranges.contains(range)));
    whole && ranges_fit && sets.iter().any(|known| known.timeout == set.timeout)
}

/// What is by frontend remembered by flows and clients: the service, and the handle of each backend.
pub(super) fn bonds(memory: &Memory) -> BTreeMap<FrontendKey, (u32, BTreeMap<SocketAddrV4, Handle>)> {
    let bonds = |served: Served| {
        let targets = served.set.targets.iter().flatten().map(|target| target.address);
        (served.service, targets.zip(served.handles.iter().copied()).collect())
    };
    memory.served().into_iter().map(|(key, served)| (key, bonds(served))).collect()
}

/// Bonds of `before` that are broken though the frontend stays whose it was and the backend stays in its set.
pub(super) fn broken_bonds(
    memory: &Memory,
    before: &BTreeMap<FrontendKey, (u32, BTreeMap<SocketAddrV4, Handle>)>,
    [one, other]: [&Claims; 2],
) -> Vec<String> {
    let after = bonds(memory);
    let mut broken = Vec::new();
    for (key, (service, handles)) in before {
        let (Some(a), Some(b), Some((now, kept))) = (one.get(key), other.get(key), after.get(key)) else {
            continue;
        };
        if !is_steady(a, b) || a.len() > 1 {
            continue;
        }
        if service != now {
            broken.push(format!("{key:?} was service {service} and is {now}"));
        }
        let in_both = |address: &SocketAddrV4| {
            let has =
                |claim: &Claim| claim.set.targets.iter().flatten().any(|target| target.address == *address);
            has(&a[0]) && has(&b[0])
        };
        let other_handle = |(address, handle): (&SocketAddrV4, &Handle)| {
            let now = kept.get(address).filter(|_| in_both(address))?;
            (now != handle).then(|| format!("{key:?}: {address} was {handle:?} and is {now:?}"))
        };
        broken.extend(handles.iter().filter_map(other_handle));
    }
    broken
}

/// What the table's own books and the maps say differently, once everything retired was released.
pub(super) fn leaks(table: &Table<Memory>) -> Vec<String> {
    let memory = &table.maps;
    let ports = || table.ports.values();
    let known = (0..).map_while(|index| Tables::backend(memory, index));
    let active = known.filter(|backend| backend.state as u8 == words::ACTIVE).count();
    let backends: BTreeSet<u32> =
        ports().flat_map(|p| p.backends.values().map(|handle| handle.index())).collect();
    let services: BTreeSet<u32> = ports().map(|port| port.service).collect();
    let ranges: BTreeSet<(u32, Ipv4Net)> =
        ports().flat_map(|port| port.ranges.iter().map(|range| (port.service, *range))).collect();
    let known = memory.source_ranges().unwrap().into_iter().collect::<BTreeSet<_>>();
    let rows: u32 = ports().flat_map(|port| port.heads.values()).map(|head| head.extent.rows).sum();
    let heads: BTreeSet<u32> = ports().flat_map(|p| p.heads.values().map(|head| head.index)).collect();
    let mut faults = Vec::new();
    let mut same = |what: &str, one: usize, other: usize| {
        if one != other {
            faults.push(format!("{what}: {one} and {other}"));
        }
    };
    same("a backend has one owner", backends.len(), ports().map(|port| port.backends.len()).sum());
    same("backends alive and in use", active, backends.len());
    same("backends reserved and in use", table.backends.in_use() as usize, backends.len());
    same("a service index has one owner", services.len(), table.ports.len());
    same("service indices reserved and in use", table.services.in_use() as usize, services.len());
    same("a head has one owner", heads.len(), ports().map(|port| port.heads.len()).sum());
    same("heads reserved and in use", table.heads.in_use() as usize, heads.len());
    same("rows reserved and in use", table.rows.in_use() as usize, rows as usize);
    same("owners and frontends", table.owners.len(), memory.sizes().0);
    if known != ranges {
        faults.push(format!("source ranges: {known:?} and {ranges:?}"));
    }
    for served in memory.served().into_values() {
        let of = |handle: &Handle| Tables::backend(memory, handle.index()).map(|backend| backend.service());
        if served.handles.iter().any(|handle| of(handle) != Some(served.service)) {
            faults.push(format!("a backend of another service: {served:?}"));
        }
    }
    faults
}

/// Faults that an observer has seen, each once.
#[derive(Clone, Default)]
pub(super) struct Faults(Arc<Mutex<BTreeSet<String>>>);

impl Faults {
    pub(super) fn add(&self, seen: impl IntoIterator<Item = String>) {
        self.0.lock().unwrap().extend(seen);
    }

    pub(super) fn none(&self) -> Result<(), String> {
        let seen = self.0.lock().unwrap();
        if seen.is_empty() { Ok(()) } else { Err(seen.iter().cloned().collect::<Vec<_>>().join("\n")) }
    }
}

/// Publishes under the eyes of readers, lets the grace period pass and frees.
pub(super) fn replace(
    table: &mut Table<Memory>,
    wanted: &ServiceTable,
    node: &NodeName,
    [one, other]: [&Claims; 2],
) -> Result<Programmed, String> {
    let (memory, faults) = (table.maps.clone(), Faults::default());
    let (seen, a, b) = (faults.clone(), one.clone(), other.clone());
    let done = memory.observed(
        move |memory| seen.add(mixtures(memory, &a, &b)),
        || {
            let done = table.publish(wanted, node);
            faults.add(mixtures(&table.maps, one, other));
            table.maps.grace();
            let retired = table.take_retired();
            table.release(retired);
            done
        },
    );
    faults.none()?;
    done.map_err(|error| Chain(&error).to_string())
}
