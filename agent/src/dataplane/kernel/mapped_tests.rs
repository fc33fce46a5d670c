//! What of the arrays counts as the agent's memory.

use std::{collections::BTreeSet, fs, sync::Arc};

use super::*;
use crate::{
    dataplane::{
        TableSizes,
        endpoints::tests::{endpoint, port, spec},
    },
    model::{ServiceId, ServiceSpec},
};

/// Resident bytes of all memory-mapped maps of this process.
fn resident() -> u64 {
    let maps = fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut sum, mut is_map) = (0, false);
    for line in maps.lines() {
        if let Some(size) = line.strip_prefix("Rss:") {
            let kib: u64 = size.trim().trim_end_matches(" kB").parse().unwrap();
            sum += if is_map { kib * 1024 } else { 0 };
        } else if line.starts_with(|first: char| first.is_ascii_hexdigit() && !first.is_ascii_uppercase()) {
            is_map = line.ends_with("bpf-map");
        }
    }
    sum
}

fn services(count: u8) -> ServiceTable {
    let service = |number: u8| {
        let endpoints = (1..=4).map(|last| endpoint(&format!("10.0.{number}.{last}:80"), "here")).collect();
        let cluster_ips = vec![format!("10.96.0.{number}").parse().unwrap()];
        let id = ServiceId { namespace: "test".into(), name: format!("s{number}").into() };
        (id, Arc::new(ServiceSpec { cluster_ips, ports: vec![port(endpoints)], ..spec() }))
    };
    (1..=count).map(service).collect()
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn of_large_arrays_only_what_is_in_use_is_mapped() {
    let scratch = tempfile::tempdir().unwrap();
    // The arrays as large as on a real node; the rest need not be.
    let sizes = TableSizes { affinity: 4096, flows: 4096, pods: 64, ..TableSizes::default() };
    let config = DataplaneConfig { sizes, ..DataplaneConfig::scratch(scratch.path()) };
    let before = resident();
    let mapped = || resident() - before;
    let maps = loader::load(&config).unwrap().maps;
    let publish = |table: &mut Table<KernelMaps>, count| {
        table.publish(&services(count), &"here".into()).unwrap();
        // Nobody reads.
        let retired = table.take_retired();
        table.release(retired);
    };
    let mut table = Table::recover(KernelMaps::open(&maps).unwrap()).unwrap();
    assert_eq!(mapped(), 0, "of empty arrays");
    publish(&mut table, 200);
    let window = 64 << 10;
    assert_eq!(mapped(), 3 * window, "one window of each array holds 200 services");
    let known: BTreeSet<String> = table.service_names().map(|(_, id)| format!("{id:?}")).collect();
    assert_eq!(known.len(), 200);
    drop(table);
    assert_eq!(mapped(), 0);
    let mut table = Table::recover(KernelMaps::open(&maps).unwrap()).unwrap();
    assert_eq!(mapped(), 3 * window, "taken over");
    let again = table.publish(&services(200), &"here".into()).unwrap();
    assert_eq!((again.changed, again.removed, again.kept), (0, 0, 200), "what was written is what is read");
    drop(table);
    loader::remove_pins(&config.pins).unwrap();
}
