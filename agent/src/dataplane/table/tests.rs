//! The table on maps of plain memory, read by the code the kernel runs.

use std::net::SocketAddrV4;

use agent_ebpf_common::{abi::TCP, select::Tables};

use super::*;
use crate::{
    dataplane::{
        endpoints::tests::{endpoint, port, spec},
        memory::Memory,
    },
    model::ServicePort,
};

mod history;
mod kills;
mod readers;

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
    let answers = memory.answers(address.parse().unwrap(), TCP)?;
    Some(answers.iter().map(ToString::to_string).collect())
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
    let before = table.maps.hash_writes();
    let done = publish(&mut table, [("a", with("10.96.0.1", &["10.0.0.2:80"]))]);
    assert_eq!((done.changed, table.maps.hash_writes()), (1, before));
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
    let old = Tables::head(&table.maps, 0).unwrap();
    let services =
        |endpoint: &str| [(id("a"), with("10.96.0.1", &[endpoint]))].into_iter().collect::<ServiceTable>();
    table.publish(&services("10.0.0.2:80"), &node()).unwrap();
    table.publish(&services("10.0.0.3:80"), &node()).unwrap();
    // A reader that loaded the first word still finds the first backend, alive.
    let handle = table.maps.handle(Publish::unpack(old.word).row, 0).unwrap();
    let backend = Tables::backend(&table.maps, handle.index()).unwrap();
    assert_eq!(backend.target >> 32, u64::from(u32::from_ne_bytes([10, 0, 0, 1])));
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
    let before = table.maps.hash_writes();
    assert_eq!(publish(&mut table, services()), Programmed { changed: 0, removed: 0, kept: 2 });
    assert_eq!(table.maps.hash_writes(), before);
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
    assert_eq!(table.maps.sizes().1, 0);
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
        table.maps.refuse_after(Some(refused));
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
    table.maps.refuse_after(Some(0));
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
    assert_eq!(table.maps.sizes(), (3, 2));
    // Every pass gets one step further, and says that it is not done.
    for _ in 1..5 {
        table.maps.refuse_after(Some(1));
        table.publish(&ServiceTable::new(), &node()).unwrap_err();
    }
    table.publish(&ServiceTable::new(), &node()).unwrap();
    assert_eq!(table.maps.sizes(), (0, 0));
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
    let writes = table.maps.hash_writes();
    let done = table.publish(&of([("a", Arc::new(both))]), &node()).unwrap();
    assert_eq!((done.changed, table.maps.hash_writes()), (0, writes));
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

/// Elements reached of heads, rows and backends.
fn reached(table: &Table<Memory>) -> [usize; 3] {
    let words = table.maps.reached();
    Array::ALL.map(|array| words[array as usize] / array.words())
}

#[test]
fn no_more_of_the_arrays_is_mapped_than_is_in_use() {
    let mut table = Table::recover(Memory::new(1024, 1024, 1024)).unwrap();
    assert_eq!(reached(&table), [0, 0, 0], "nothing is in use");
    let endpoints: Vec<String> = (1..=40).map(|last| format!("10.0.0.{last}:80")).collect();
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    let services = || [("a", with("10.96.0.1", &endpoints)), ("b", with("10.96.0.2", &["10.0.0.9:80"]))];
    publish(&mut table, services());
    assert_eq!(reached(&table), [2, 4, 41]);
    publish(&mut table, [("b", with("10.96.0.2", &["10.0.0.9:80"]))]);
    assert_eq!(reached(&table), [2, 4, 41], "what is freed is used again first");
    // The next agent reads everything, and keeps what is in use: here the last of each.
    let mut table = restart(table);
    assert_eq!(reached(&table), [2, 4, 41]);
    publish(&mut table, services());
    publish(&mut table, []);
    assert_eq!(reached(&restart(table)), [0, 0, 0]);
}

#[test]
fn a_service_for_which_no_more_can_be_mapped_is_named_and_comes_when_it_can() {
    let one = ("a", with("10.96.0.1", &["10.0.0.1:80"]));
    let two = of([one.clone(), ("b", with("10.96.0.2", &["10.0.0.1:80", "10.0.0.2:80"]))]);
    for array in Array::ALL {
        let mut table = table();
        table.publish(&of([one.clone()]), &node()).unwrap();
        table.maps.refuse_reach(Some(array));
        let error = table.publish(&two, &node()).unwrap_err();
        let DataplaneError::Services { failed, .. } = &error else { panic!("{error}") };
        assert!(failed.iter().all(|(service, _)| *service == id("b")), "{failed:?}");
        assert_eq!(answers(&table.maps, "10.96.0.1:80"), set(&["10.0.0.1:80"]));
        assert_eq!(answers(&table.maps, "10.96.0.2:80"), None, "without more of {array:?}");
        table.maps.refuse_reach(None);
        table.publish(&two, &node()).unwrap();
        assert_eq!(answers(&table.maps, "10.96.0.2:80"), set(&["10.0.0.1:80", "10.0.0.2:80"]));
        assert_eq!(readers::leaks(&table), Vec::<String>::new(), "after more of {array:?}");
    }
}

#[test]
fn a_set_that_leads_out_of_bounds_is_not_taken_over() {
    let mut table = table();
    publish(&mut table, [("a", with("10.96.0.1", &["10.0.0.1:80"]))]);
    // Not by us: the first slot of the first row.
    table.maps.raw(Array::Slots, 0).store(u64::from(Handle::new(64, 1).0), Ordering::Relaxed);
    let mut table = restart(table);
    publish(&mut table, [("a", with("10.96.0.1", &["10.0.0.1:80"]))]);
    assert_eq!(answers(&table.maps, "10.96.0.1:80"), set(&["10.0.0.1:80"]));
    assert_eq!(readers::leaks(&table), Vec::<String>::new());
}
