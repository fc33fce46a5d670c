//! What a new agent must not touch before it knows better.

use std::net::{IpAddr, Ipv4Addr};

use super::*;

/// Programs of the earlier agent go on forwarding from outside: the address they put into packets stays.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_restart_keeps_the_address_for_flows_from_outside() {
    let scratch = tempfile::tempdir().unwrap();
    // No cgroup: the socket path is not what this is about, and nothing may be attached for real.
    let config = DataplaneConfig::scratch(scratch.path());
    let address = Ipv4Addr::new(192, 0, 2, 10);
    let dataplane = EbpfDataplane::open(config.clone()).unwrap();
    {
        let mut state = dataplane.lock();
        state.node.set_addresses(&[address]).unwrap();
        state.node.set_node(1, Some(address), true);
    }
    drop(dataplane);
    // Attaching fails for want of a cgroup, after the settings were written.
    assert!(EbpfDataplane::open(config.clone()).is_err());
    let maps = NodeMaps::open(&loader::maps_directory(&config.pins, &config.sizes)).unwrap();
    assert_eq!(maps.uplink_address(), Some(address));
    assert_eq!(v4_addresses(&[IpAddr::V4(address)]), [address]);
    drop(maps);
    EbpfDataplane::uninstall(&config).unwrap();
}
