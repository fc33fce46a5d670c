//! The maps of pods in the kernel, without anything attached.

use super::*;
use crate::dataplane::{DataplaneConfig, loader};

struct Bench {
    config: DataplaneConfig,
    directory: std::path::PathBuf,
    _scratch: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let mut config = DataplaneConfig::scratch(scratch.path());
        config.sizes.pods = 2;
        let directory = loader::load(&config).unwrap().maps;
        Self { config, directory, _scratch: scratch }
    }

    fn open(&self) -> PodMaps {
        PodMaps::open(&self.directory).unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let removed = loader::remove_pins(&self.config.pins);
        assert!(removed.is_ok() || std::thread::panicking());
    }
}

fn end(number: u8) -> PodEnd {
    let v4 = Ipv4Addr::new(10, 244, 0, number);
    PodEnd { netns: 0xffff_0000_0000 + u64::from(number), interface: 100 + u32::from(number), v4 }
}

/// What the programs find, by either name.
fn found(maps: &PodMaps) -> Vec<PodEnd> {
    let namespaces = entries(&maps.namespaces, NAMESPACES).unwrap();
    let interfaces = entries(&maps.interfaces, INTERFACES).unwrap();
    let mut by_interface: Vec<PodEnd> =
        interfaces.iter().map(|(_, &index)| maps.read(index).unwrap()).collect();
    by_interface.sort_by_key(|end| end.netns);
    let by_namespace: Vec<PodEnd> = namespaces.iter().map(|(_, &index)| maps.read(index).unwrap()).collect();
    assert_eq!(by_namespace, by_interface);
    assert!(namespaces.keys().eq(by_namespace.iter().map(|end| &end.netns)), "each under its own name");
    assert!(interfaces.keys().all(|key| by_interface.iter().any(|end| end.interface == *key)));
    by_namespace
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_pod_is_found_by_both_names_until_it_goes_or_another_has_one_of_them() {
    let bench = Bench::new();
    let mut maps = bench.open();
    for _ in 0..2 {
        maps.add(end(1)).unwrap();
        maps.add(end(2)).unwrap();
        assert_eq!(found(&maps), [end(1), end(2)]);
    }
    maps.remove(end(1).netns).unwrap();
    maps.remove(end(1).netns).unwrap();
    assert_eq!(found(&maps), [end(2)]);
    // Each of the three may be given out again before anybody was told that the pod went.
    let mut last = end(2);
    for next in [
        PodEnd { netns: last.netns, ..end(3) },
        PodEnd { interface: end(3).interface, ..end(4) },
        PodEnd { v4: end(4).v4, ..end(5) },
        PodEnd { v4: Ipv4Addr::new(10, 244, 0, 9), ..end(5) },
    ] {
        maps.add(next).unwrap();
        assert_eq!(found(&maps), [next], "in place of {last:?}");
        last = next;
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_restart_takes_over_what_is_whole_and_removes_the_rest() {
    let bench = Bench::new();
    let mut maps = bench.open();
    for number in 1..=5 {
        maps.add(end(number)).unwrap();
    }
    // Agents that were killed: before the second name was added, before it was removed, and before the element was.
    remove(&mut maps.interfaces, INTERFACES, end(1).interface).unwrap();
    remove(&mut maps.namespaces, NAMESPACES, end(2).netns).unwrap();
    let index = *maps.known.iter().find(|(_, known)| **known == end(3)).unwrap().0;
    maps.erase(index);
    drop(maps);
    let mut maps = bench.open();
    assert_eq!(found(&maps), [end(4), end(5)]);
    // The others' elements are free again, and theirs are not given away.
    let room = maps.capacity as u8 - 2;
    for number in 0..room {
        maps.add(end(10 + number)).unwrap();
    }
    assert_eq!(found(&maps).len(), usize::from(room) + 2);
    let full = maps.add(end(99)).unwrap_err().to_string();
    assert!(full.contains("ENDPOINTS is full") && full.contains("raise pods"), "{full}");
    maps.remove(end(4).netns).unwrap();
    maps.add(end(99)).unwrap();
}

/// An agent that was killed between the wire and the names leaves the names, and the next one knows nothing of the pod.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn names_of_a_pod_whose_wire_is_gone_are_forgotten() {
    let bench = Bench::new();
    let mut maps = bench.open();
    maps.add(end(1)).unwrap();
    maps.add(end(2)).unwrap();
    let mut maps = bench.open();
    assert_eq!(maps.fill().used, 2);
    maps.retain(|interface| interface == end(1).interface).unwrap();
    assert_eq!((found(&maps), maps.fill().used), (vec![end(1)], 1));
}
