//! The table on maps of plain memory, read by the code the kernel runs.

use std::{cell::Cell, collections::HashSet, net::SocketAddrV4};

use agent_ebpf_common::{
    abi::{AffinityKey, AffinityValue, INSIDE, TCP},
    select::{Selection, Tables, select},
};
use proptest::prelude::*;

use super::*;
use crate::{
    dataplane::endpoints::tests::{endpoint, port, spec},
    model::ServicePort,
};

/// Maps in memory. A frontend that is inserted twice or removed when absent fails the test, as would a kernel
/// reader.
struct Memory {
    heads: Vec<AtomicU64>,
    slots: Vec<AtomicU64>,
    backends: Vec<AtomicU64>,
    frontends: BTreeMap<FrontendKey, u32>,
    ranges: BTreeSet<(u32, Ipv4Net)>,
    capacity: u32,
    writes: Cell<usize>,
    random: Cell<u32>,
    /// After how many changes of a hash map the kernel refuses one.
    refuse_after: Cell<Option<usize>>,
}

impl Memory {
    fn new(frontends: u32, rows: usize, backends: usize) -> Self {
        let zeros = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            heads: zeros(frontends as usize * 2),
            slots: zeros(rows * 8),
            backends: zeros(backends * 2),
            frontends: BTreeMap::new(),
            ranges: BTreeSet::new(),
            capacity: frontends,
            writes: Cell::new(0),
            random: Cell::new(1),
            refuse_after: Cell::new(None),
        }
    }

    fn refused(&self) -> Result<(), DataplaneError> {
        let Some(left) = self.refuse_after.get() else { return Ok(()) };
        self.refuse_after.set(left.checked_sub(1));
        if left > 0 {
            return Ok(());
        }
        let (operation, subject) = ("update", "a map".to_owned());
        Err(DataplaneError::Kernel { operation, subject, source: "refused".into() })
    }
}

impl TableMaps for Memory {
    fn heads(&self) -> &[AtomicU64] {
        &self.heads
    }
    fn slots(&self) -> &[AtomicU64] {
        &self.slots
    }
    fn backends(&self) -> &[AtomicU64] {
        &self.backends
    }
    fn frontends(&self) -> Result<Vec<(FrontendKey, u32)>, DataplaneError> {
        Ok(self.frontends.iter().map(|(&key, &index)| (key, index)).collect())
    }
    fn frontend_capacity(&self) -> u32 {
        self.capacity
    }
    fn source_ranges(&self) -> Result<Vec<(u32, Ipv4Net)>, DataplaneError> {
        Ok(self.ranges.iter().copied().collect())
    }
    fn insert_frontend(&mut self, key: FrontendKey, index: u32) -> Result<(), DataplaneError> {
        if self.frontends.len() as u32 == self.capacity {
            return Err(DataplaneError::Full {
                map: "FRONTENDS",
                capacity: self.capacity,
                option: "frontends",
            });
        }
        self.refused()?;
        self.writes.set(self.writes.get() + 1);
        assert_eq!(self.frontends.insert(key, index), None, "an element was replaced");
        Ok(())
    }
    fn remove_frontend(&mut self, key: FrontendKey) -> Result<(), DataplaneError> {
        self.refused()?;
        self.writes.set(self.writes.get() + 1);
        assert!(self.frontends.remove(&key).is_some(), "removed twice");
        Ok(())
    }
    fn insert_source_range(&mut self, service: u32, range: Ipv4Net) -> Result<(), DataplaneError> {
        self.ranges.insert((service, range));
        Ok(())
    }
    fn remove_source_range(&mut self, service: u32, range: Ipv4Net) -> Result<(), DataplaneError> {
        self.refused()?;
        assert!(self.ranges.remove(&(service, range)));
        Ok(())
    }
    fn reset_connections(&mut self, _service: u32) {}
}

/// The kernel's reads. (Affinity and ranges have their own tests with the core.)
impl Tables for Memory {
    fn frontend(&self, key: &FrontendKey) -> Option<u32> {
        self.frontends.get(key).copied()
    }
    fn is_node_address(&self, _address: u32) -> bool {
        false
    }
    fn address(&self, _handle: Handle, backend: &Backend) -> Option<u32> {
        Some(backend.addr_be())
    }
    fn head(&self, index: u32) -> Option<Head> {
        let words = self.heads.get(index as usize * 2..index as usize * 2 + 2)?;
        Some(Head { word: words[0].load(Ordering::Acquire), aux: words[1].load(Ordering::Relaxed) })
    }
    fn handle(&self, row: u32, lane: u32) -> Option<Handle> {
        let word = self.slots.get((row * 8 + lane / 2) as usize)?.load(Ordering::Relaxed);
        Some(Handle((word >> (lane % 2 * 32)) as u32))
    }
    fn backend(&self, index: u32) -> Option<Backend> {
        let words = self.backends.get(index as usize * 2..index as usize * 2 + 2)?;
        Some(Backend { target: words[0].load(Ordering::Acquire), state: words[1].load(Ordering::Relaxed) })
    }
    fn affinity(&self, _key: AffinityKey) -> Option<AffinityValue> {
        None
    }
    fn remember(&self, _value: AffinityValue) {}
    fn touch(&self, _key: AffinityKey, _now: u32) {}
    fn in_source_range(&self, _service: u32, _client_be: u32) -> bool {
        true
    }
    fn random(&self) -> u32 {
        let next = self.random.get().wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.random.set(next);
        next
    }
    fn now(&self) -> u32 {
        0
    }
}

fn node() -> NodeName {
    "here".into()
}

fn id(name: &str) -> ServiceId {
    ServiceId { namespace: "test".into(), name: name.into() }
}

fn with(vip: &str, endpoints: &[&str]) -> Arc<ServiceSpec> {
    let endpoints = endpoints.iter().map(|address| endpoint(address, "here")).collect();
    Arc::new(ServiceSpec { cluster_ips: vec![vip.parse().unwrap()], ports: vec![port(endpoints)], ..spec() })
}

fn table() -> Table<Memory> {
    Table::recover(Memory::new(64, 64, 64)).unwrap()
}

/// Publishes and lets the grace period pass.
fn publish<const N: usize>(table: &mut Table<Memory>, services: [(&str, Arc<ServiceSpec>); N]) -> Programmed {
    let services = services.into_iter().map(|(name, spec)| (id(name), spec)).collect();
    let done = table.publish(&services, &node()).unwrap();
    let retired = table.take_retired();
    table.release(retired);
    done
}

fn restart(table: Table<Memory>) -> Table<Memory> {
    Table::recover(table.maps).unwrap()
}

/// All the backends that connections to `address` go to; `None` when it is no service.
fn answers(memory: &Memory, address: &str) -> Option<BTreeSet<String>> {
    let address: SocketAddrV4 = address.parse().unwrap();
    let key = FrontendKey {
        addr_be: u32::from_ne_bytes(address.ip().octets()),
        port_be: address.port().to_be(),
        proto: TCP,
        scope: INSIDE,
    };
    let index = *memory.frontends.get(&key)?;
    let draw = |_| match select(memory, index, || 1) {
        Selection::Chosen(chosen) => Some(SocketAddrV4::new(
            chosen.backend.addr_be().to_ne_bytes().into(),
            u16::from_be(chosen.backend.port_be()),
        )),
        Selection::Refuse => None,
        Selection::Drop(reason) => panic!("{reason:?}"),
    };
    Some((0..400).filter_map(draw).map(|address| address.to_string()).collect())
}

fn set(addresses: &[&str]) -> Option<BTreeSet<String>> {
    Some(addresses.iter().map(|address| (*address).to_owned()).collect())
}

#[test]
fn what_is_published_is_what_is_selected() {
    let mut table = table();
    let done = publish(
        &mut table,
        [("a", with("10.96.0.1", &["10.0.0.1:80", "10.0.0.2:80"])), ("b", with("10.96.0.2", &[]))],
    );
    assert_eq!(done, Programmed { changed: 2, removed: 0, kept: 0 });
    assert_eq!(answers(&table.maps, "10.96.0.1:80"), set(&["10.0.0.1:80", "10.0.0.2:80"]));
    assert_eq!(answers(&table.maps, "10.96.0.2:80"), set(&[]));
    assert_eq!(answers(&table.maps, "10.96.0.3:80"), None);
}

#[test]
fn an_endpoint_change_touches_no_hash_map() {
    let mut table = table();
    publish(&mut table, [("a", with("10.96.0.1", &["10.0.0.1:80"]))]);
    let before = table.maps.writes.get();
    let done = publish(&mut table, [("a", with("10.96.0.1", &["10.0.0.2:80"]))]);
    assert_eq!((done.changed, table.maps.writes.get()), (1, before));
    assert_eq!(answers(&table.maps, "10.96.0.1:80"), set(&["10.0.0.2:80"]));
}

#[test]
fn the_same_table_again_changes_nothing() {
    let mut table = table();
    let services =
        || [("a", with("10.96.0.1", &["10.0.0.1:80"])), ("b", with("10.96.0.2", &["10.0.0.1:80"]))];
    publish(&mut table, services());
    assert_eq!(publish(&mut table, services()), Programmed { changed: 0, removed: 0, kept: 2 });
    assert!(table.take_retired().is_empty());
}

#[test]
fn a_set_in_use_is_not_written_to_before_its_grace_period_ends() {
    let mut table = table();
    publish(&mut table, [("a", with("10.96.0.1", &["10.0.0.1:80"]))]);
    let old = table.maps.head(0).unwrap();
    let services =
        |endpoint: &str| [(id("a"), with("10.96.0.1", &[endpoint]))].into_iter().collect::<ServiceTable>();
    table.publish(&services("10.0.0.2:80"), &node()).unwrap();
    table.publish(&services("10.0.0.3:80"), &node()).unwrap();
    // A reader that loaded the first word still finds the first backend, alive.
    let handle = table.maps.handle(Publish::unpack(old.word).row, 0).unwrap();
    let backend = TableMaps::backends(&table.maps)[handle.index() as usize * 2].load(Ordering::Relaxed);
    assert_eq!(backend >> 32, u64::from(u32::from_ne_bytes([10, 0, 0, 1])));
    assert!(Tables::backend(&table.maps, handle.index()).unwrap().alive(handle));
    let retired = table.take_retired();
    table.release(retired);
    assert!(!Tables::backend(&table.maps, handle.index()).unwrap().alive(handle));
}

#[test]
fn a_restart_takes_over_without_a_write() {
    let services = || {
        [
            ("a", with("10.96.0.1", &["10.0.0.1:80", "10.0.0.2:80"])),
            ("b", with("10.96.0.2", &["10.0.0.1:80"])),
        ]
    };
    let mut table = table();
    publish(&mut table, services());
    let mut table = restart(table);
    let before = table.maps.writes.get();
    assert_eq!(publish(&mut table, services()), Programmed { changed: 0, removed: 0, kept: 2 });
    assert_eq!(table.maps.writes.get(), before);
    // And it knows what it took over well enough to change it.
    publish(&mut table, [("b", with("10.96.0.2", &["10.0.0.9:80"]))]);
    assert_eq!(answers(&table.maps, "10.96.0.1:80"), None);
    assert_eq!(answers(&table.maps, "10.96.0.2:80"), set(&["10.0.0.9:80"]));
}

#[test]
fn what_vanished_while_the_agent_was_away_is_removed() {
    let mut table = table();
    let ranged = ServiceSpec {
        source_ranges: vec!["10.0.0.0/8".parse().unwrap()],
        ..(*with("10.96.0.1", &["10.0.0.1:80"])).clone()
    };
    publish(&mut table, [("a", Arc::new(ranged)), ("b", with("10.96.0.2", &["10.0.0.1:80"]))]);
    let mut table = restart(table);
    publish(&mut table, [("b", with("10.96.0.2", &["10.0.0.1:80"]))]);
    assert_eq!(answers(&table.maps, "10.96.0.1:80"), None);
    assert!(table.maps.ranges.is_empty());
    publish(&mut table, []);
    assert_eq!(table.fill().map(|fill| fill.used), [0, 0, 0, 0]);
}

#[test]
fn an_address_changes_hands_in_one_pass() {
    let mut table = table();
    publish(
        &mut table,
        [("a", with("10.96.0.1", &["10.0.0.1:80"])), ("b", with("10.96.0.2", &["10.0.0.2:80"]))],
    );
    publish(
        &mut table,
        [("a", with("10.96.0.2", &["10.0.0.1:80"])), ("b", with("10.96.0.1", &["10.0.0.2:80"]))],
    );
    assert_eq!(answers(&table.maps, "10.96.0.2:80"), set(&["10.0.0.1:80"]));
    assert_eq!(answers(&table.maps, "10.96.0.1:80"), set(&["10.0.0.2:80"]));
}

#[test]
fn the_first_to_claim_an_address_keeps_it_until_it_lets_go() {
    let mut table = table();
    let a = || ("a", with("10.96.0.1", &["10.0.0.1:80"]));
    publish(&mut table, [a()]);
    publish(&mut table, [a(), ("b", with("10.96.0.1", &["10.0.0.2:80"]))]);
    assert_eq!(answers(&table.maps, "10.96.0.1:80"), set(&["10.0.0.1:80"]));
    publish(&mut table, [("b", with("10.96.0.1", &["10.0.0.2:80"]))]);
    assert_eq!(answers(&table.maps, "10.96.0.1:80"), set(&["10.0.0.2:80"]));
}

#[test]
fn a_full_table_says_so_and_serves_the_rest() {
    let mut table = Table::recover(Memory::new(2, 64, 64)).unwrap();
    let services: ServiceTable =
        (1..=3).map(|n| (id(&format!("s{n}")), with(&format!("10.96.0.{n}"), &["10.0.0.1:80"]))).collect();
    let error = table.publish(&services, &node()).unwrap_err();
    let DataplaneError::Services { failed, first } = error else { panic!("{error}") };
    assert!(matches!(*first, DataplaneError::Full { .. }), "{first}");
    let failed: Vec<_> = failed.into_iter().map(|(service, _)| service).collect();
    assert_eq!(failed, [id("s3")], "who could not be programmed is named");
    assert_eq!(answers(&table.maps, "10.96.0.1:80"), set(&["10.0.0.1:80"]));
    // Room again: the one that failed comes without being touched.
    let services: ServiceTable = services.into_iter().skip(1).collect();
    table.publish(&services, &node()).unwrap_err();
    let retired = table.take_retired();
    table.release(retired);
    table.publish(&services, &node()).unwrap();
    assert_eq!(answers(&table.maps, "10.96.0.3:80"), set(&["10.0.0.1:80"]));
}

fn of<const N: usize>(services: [(&str, Arc<ServiceSpec>); N]) -> ServiceTable {
    services.into_iter().map(|(name, spec)| (id(name), spec)).collect()
}

#[test]
fn a_failure_of_one_who_waited_for_an_address_is_told_until_it_is_mended() {
    let at = |address, endpoint| with(address, &[endpoint]);
    // What the second pass does: the first lets go, takes another address, and who waited gets the old one.
    for refused in 0..3 {
        let mut table = table();
        let third = at("10.96.0.1", "10.0.0.3:80");
        table.publish(&of([("b", at("10.96.0.1", "10.0.0.2:80")), ("c", third.clone())]), &node()).unwrap();
        let away = of([("b", at("10.96.0.9", "10.0.0.2:80")), ("c", third)]);
        table.maps.refuse_after.set(Some(refused));
        table.publish(&away, &node()).unwrap_err();
        table.publish(&away, &node()).unwrap();
        assert_eq!(answers(&table.maps, "10.96.0.9:80"), set(&["10.0.0.2:80"]), "after {refused}");
        assert_eq!(answers(&table.maps, "10.96.0.1:80"), set(&["10.0.0.3:80"]), "after {refused}");
    }
}

#[test]
fn a_port_that_could_not_be_removed_is_removed_by_the_next_pass() {
    let mut table = table();
    let one = with("10.96.0.1", &["10.0.0.1:80"]);
    let mut two = (*one).clone();
    two.ports.push(ServicePort { port: 81, ..two.ports[0].clone() });
    table.publish(&of([("a", Arc::new(two))]), &node()).unwrap();
    assert!(answers(&table.maps, "10.96.0.1:81").is_some());
    let services = of([("a", one)]);
    table.maps.refuse_after.set(Some(0));
    table.publish(&services, &node()).unwrap_err();
    table.publish(&services, &node()).unwrap();
    assert_eq!(answers(&table.maps, "10.96.0.1:81"), None);
}

#[test]
fn what_an_earlier_agent_left_is_removed_however_often_the_kernel_refuses() {
    let mut table = table();
    let restricted = ServiceSpec {
        load_balancer_ips: vec![("192.0.2.1".parse().unwrap(), None)],
        source_ranges: vec!["10.0.0.0/8".parse().unwrap(), "172.16.0.0/12".parse().unwrap()],
        ..(*with("10.96.0.1", &["10.0.0.1:80"])).clone()
    };
    table.publish(&of([("a", Arc::new(restricted))]), &node()).unwrap();
    let mut table = restart(table);
    assert_eq!((table.maps.frontends.len(), table.maps.ranges.len()), (3, 2));
    // Every pass gets one step further, and says that it is not done.
    for _ in 1..5 {
        table.maps.refuse_after.set(Some(1));
        table.publish(&ServiceTable::new(), &node()).unwrap_err();
    }
    table.publish(&ServiceTable::new(), &node()).unwrap();
    assert!(table.maps.frontends.is_empty() && table.maps.ranges.is_empty());
    let retired = table.take_retired();
    table.release(retired);
    assert_eq!(table.fill().map(|fill| fill.used), [0, 0, 0, 0]);
}

#[test]
fn an_address_in_two_roles_does_not_flap() {
    let mut table = table();
    let both = ServiceSpec {
        external_ips: vec!["192.0.2.1".parse().unwrap(), "192.0.2.1".parse().unwrap()],
        load_balancer_ips: vec![("192.0.2.1".parse().unwrap(), None)],
        source_ranges: vec!["10.0.0.0/8".parse().unwrap()],
        ..(*with("10.96.0.1", &["10.0.0.1:80"])).clone()
    };
    table.publish(&of([("a", Arc::new(both.clone()))]), &node()).unwrap();
    let writes = table.maps.writes.get();
    let done = table.publish(&of([("a", Arc::new(both))]), &node()).unwrap();
    assert_eq!((done.changed, table.maps.writes.get()), (0, writes));
}

#[test]
fn locality_follows_the_node() {
    let mut table = table();
    let local = ServiceSpec { internal_local: true, ..(*with("10.96.0.1", &["10.0.0.1:80"])).clone() };
    let services: ServiceTable = [(id("a"), Arc::new(local))].into_iter().collect();
    table.publish(&services, &node()).unwrap();
    assert_eq!(answers(&table.maps, "10.96.0.1:80"), set(&["10.0.0.1:80"]));
    let done = table.publish(&services, &"there".into()).unwrap();
    assert_eq!(done.changed, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Any history of tables and restarts: the maps answer as the last table says, and an empty table at the
    /// end frees everything.
    #[test]
    fn any_history_ends_as_the_last_table_says(
        history in proptest::collection::vec(
            (proptest::collection::btree_map(0..6_u8, proptest::collection::btree_set(1..40_u8, 0..34), 0..6), any::<bool>()),
            1..12,
        ),
    ) {
        let mut table = Table::recover(Memory::new(64, 128, 512)).unwrap();
        for (services, restarts) in history {
            let wanted: ServiceTable = services
                .iter()
                .map(|(number, backends)| {
                    let backends: Vec<String> = backends.iter().map(|last| format!("10.0.0.{last}:80")).collect();
                    let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
                    (id(&format!("s{number}")), with(&format!("10.96.0.{number}"), &backends))
                })
                .collect();
            if restarts {
                table = restart(table);
            }
            table.publish(&wanted, &node()).unwrap();
            let retired = table.take_retired();
            table.release(retired);
            for number in 0..6_u8 {
                let answers = answers(&table.maps, &format!("10.96.0.{number}:80"));
                let expected: Option<BTreeSet<String>> = services.get(&number).map(|backends| backends.iter().map(|last| format!("10.0.0.{last}:80")).collect());
                // 400 draws see each of at most 33 backends but for one time in ten thousand; so compare as subsets.
                match (&answers, &expected) {
                    (Some(seen), Some(all)) => prop_assert!(seen.is_subset(all) && seen.is_empty() == all.is_empty()),
                    _ => prop_assert_eq!(&answers, &expected),
                }
            }
            let handles: Vec<u32> = table.ports.values().flat_map(|state| state.backends.values().map(|handle| handle.index())).collect();
            prop_assert_eq!(handles.iter().collect::<HashSet<_>>().len(), handles.len(), "a backend has one owner");
        }
        table.publish(&ServiceTable::new(), &node()).unwrap();
        let retired = table.take_retired();
        table.release(retired);
        prop_assert_eq!(table.fill().map(|fill| fill.used), [0, 0, 0, 0]);
    }
}
