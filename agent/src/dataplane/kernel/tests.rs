//! Verdicts of the packet programs, one packet at a time by BPF_PROG_TEST_RUN: what they return and every byte
//! they write, checksums included. No traffic, no interface.

use std::{collections::BTreeMap, sync::Arc};

use agent_ebpf_common::{
    abi::{FrontendKey, INSIDE, TCP, UDP},
    family::{Family as _, V4},
    tag::Tagged,
};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};

use super::*;
use crate::{
    dataplane::endpoints::tests::{endpoint, port, spec},
    model::{Protocol, ServiceId, ServiceSpec},
};

mod errors;
mod frames;
mod guard;
mod model;
mod random;

use super::lock;
use frames::{End, Frame, check, ends, fold, l4_checksum, sum};

/// `TC_ACT_UNSPEC`: the next program or filter has its say.
const PASS: u32 = u32::MAX;
const DROP: u32 = 2;
const REDIRECT: u32 = 7;
const NODE: [u8; 4] = [192, 0, 2, 10];
const CLIENT: [u8; 4] = [10, 244, 0, 2];
const BACKEND: [u8; 4] = [10, 244, 0, 3];
const VIP: [u8; 4] = [10, 96, 0, 10];
const HAIRPIN: [u8; 4] = V4::HAIRPIN.to_ne_bytes();
const SYN: u8 = 2;
const LOOPBACK: u32 = 1;

struct Bench {
    dataplane: EbpfDataplane,
    config: DataplaneConfig,
    _scratch: tempfile::TempDir,
}

impl Bench {
    /// Programs and maps without any attachment: the cgroup stays out of it.
    fn new(services: &[(&str, ServiceSpec)]) -> Self {
        Self::with_flows(32_768, services)
    }

    fn with_flows(flows: u32, services: &[(&str, ServiceSpec)]) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let mut config = DataplaneConfig::scratch(scratch.path());
        config.sizes.flows = flows;
        let dataplane = EbpfDataplane::open(config.clone()).unwrap();
        let services: BTreeMap<ServiceId, Arc<ServiceSpec>> = services
            .iter()
            .map(|(name, spec)| {
                (ServiceId { namespace: "test".into(), name: (*name).into() }, Arc::new(spec.clone()))
            })
            .collect();
        lock(&dataplane.table).publish(&services, &"here".into()).unwrap();
        let mut state = dataplane.lock();
        state.node.set_addresses(&[NODE.into()]).unwrap();
        state.node.set_node(1, Some(NODE.into()), true);
        drop(state);
        let bench = Self { dataplane, config, _scratch: scratch };
        bench.be(CLIENT);
        bench
    }

    /// Whose the packets are from now on: test runs are at the loopback interface.
    fn be(&self, pod: [u8; 4]) {
        let end = PodEnd { netns: 7, interface: LOOPBACK, v4: pod.into() };
        self.dataplane.lock().ends.add(end).unwrap();
    }

    /// Runs a program on a packet: its verdict and what became of the packet.
    fn run(&self, program: &str, packet: &[u8]) -> (u32, Vec<u8>) {
        let mut object = lock(&self.dataplane.object);
        let program: &mut SchedClassifier = object.program_mut(program).unwrap().try_into().unwrap();
        let mut out = vec![0; 2048];
        let options =
            TestRunOptions { data_in: Some(packet), data_out: Some(&mut out), ..TestRunOptions::new() };
        let result = program.test_run(options).unwrap();
        out.truncate(result.data_size_out as usize);
        (result.return_value, out)
    }

    fn all_drops(&self) -> Vec<(&'static str, u64)> {
        self.dataplane.lock().node.drops()
    }

    fn drops(&self, reason: &str) -> u64 {
        self.all_drops().iter().find(|(name, _)| *name == reason).unwrap().1
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let removed = EbpfDataplane::uninstall(&self.config);
        assert!(removed.is_ok() || std::thread::panicking());
    }
}

fn web(endpoints: &[&str]) -> ServiceSpec {
    let endpoints = endpoints.iter().map(|address| endpoint(address, "here")).collect();
    ServiceSpec {
        cluster_ips: vec![VIP.into()].into_iter().map(IpAddr::V4).collect(),
        ports: vec![port(endpoints)],
        ..spec()
    }
}

/// An Ethernet frame with right checksums.
fn packet(proto: u8, src: End, dst: End, tcp_flags: u8, payload: &[u8]) -> Vec<u8> {
    Frame { tcp_flags, payload, ..Frame::new(proto, src, dst) }.bytes()
}

/// The services of one address and port, for both protocols.
fn both(endpoints: &[&str]) -> [(&'static str, ServiceSpec); 2] {
    let mut dns = web(endpoints);
    dns.ports[0].protocol = Protocol::Udp;
    [("web", web(endpoints)), ("dns", dns)]
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn there_and_back_with_right_checksums() {
    let bench = Bench::new(&both(&["10.244.0.3:8080"]));
    // No operation four times, and the longest list of options there can be.
    for options in [&[][..], &[1; 4], &[1; 40]] {
        for payload in [&b""[..], b"odd", b"even"] {
            for (proto, checksum) in [(TCP, true), (UDP, true), (UDP, false)] {
                for (program, tcp_flags, (src, dst), as_seen) in [
                    ("from_pod", SYN, ((CLIENT, 4000), (VIP, 80)), ((CLIENT, 4000), (BACKEND, 8080))),
                    ("to_pod", 0x12, ((BACKEND, 8080), (CLIENT, 4000)), ((VIP, 80), (CLIENT, 4000))),
                ] {
                    let frame =
                        Frame { tcp_flags, options, payload, checksum, ..Frame::new(proto, src, dst) };
                    let (verdict, out) = bench.run(program, &frame.bytes());
                    assert_eq!(verdict, PASS, "{program}: {frame:?}");
                    // The same frame made for these ends is right in every byte.
                    let (src, dst) = as_seen;
                    assert_eq!(out, Frame { src, dst, ..frame }.bytes(), "{program}: {as_seen:?}");
                }
            }
        }
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn no_checksum_stays_none_and_none_comes_about() {
    let bench = Bench::new(&both(&["10.244.0.3:8080"]));
    let there = Frame::new(UDP, (CLIENT, 4000), (VIP, 80));
    let (_, out) = bench.run("from_pod", &Frame { checksum: false, payload: b"x", ..there.clone() }.bytes());
    assert_eq!((ends(&out).1, l4_checksum(&out)), ((BACKEND, 8080), [0, 0]));
    // What a datagram without payload is off by, as its payload: then its checksum comes out as zero.
    let empty = Frame { dst: (BACKEND, 8080), payload: &[0, 0], ..there.clone() }.bytes();
    let payload = &l4_checksum(&empty);
    let (_, out) = bench.run("from_pod", &Frame { payload, ..there }.bytes());
    assert_eq!((ends(&out).1, l4_checksum(&out)), ((BACKEND, 8080), [0xff, 0xff]));
    check(&out);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn fragments_go_there_and_back_and_only_the_first_has_the_checksum() {
    let bench = Bench::new(&both(&["10.244.0.3:8080"]));
    let payload = &[7; 61];
    for options in [&[][..], &[1; 8]] {
        for (proto, checksum) in [(TCP, true), (UDP, true), (UDP, false)] {
            for (program, src, dst, as_seen) in [
                ("from_pod", (CLIENT, 4000), (VIP, 80), ((CLIENT, 4000), (BACKEND, 8080))),
                ("to_pod", (BACKEND, 8080), (CLIENT, 4000), ((VIP, 80), (CLIENT, 4000))),
            ] {
                let frame = Frame { options, payload, checksum, ..Frame::new(proto, src, dst) };
                let fragments = frame.fragments(24);
                assert!(fragments.len() > 2, "a first, a last and one between");
                let out: Vec<Vec<u8>> = fragments.iter().map(|part| bench.run(program, part).1).collect();
                let (src, dst) = as_seen;
                assert_eq!(out, Frame { src, dst, ..frame.clone() }.fragments(24), "{program}: {as_seen:?}");
                // Of another datagram whose first did not come, nobody knows the ports.
                let stray = Frame { id: 0x4321, ..frame }.fragments(24).swap_remove(1);
                assert_eq!(bench.run(program, &stray), (PASS, stray.clone()), "{program}");
            }
        }
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_is_not_for_a_service_is_not_touched() {
    let bench = Bench::new(&[("web", web(&["10.244.0.3:8080"]))]);
    let arp = guard::arp(CLIENT);
    for frame in [
        packet(TCP, (CLIENT, 4000), (BACKEND, 8080), SYN, b""),
        packet(TCP, (CLIENT, 4000), (VIP, 81), SYN, b""),
        packet(UDP, (CLIENT, 4000), (VIP, 80), 0, b""),
        arp,
    ] {
        for program in ["from_pod", "to_pod", "uplink_in", "uplink_out"] {
            assert_eq!(bench.run(program, &frame), (PASS, frame.clone()), "{program}");
        }
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_refused_segment_comes_back_as_a_reset() {
    let bench = Bench::new(&[("web", web(&[]))]);
    let (verdict, reset) = bench.run("from_pod", &packet(TCP, (CLIENT, 4000), (VIP, 80), SYN, b"data"));
    assert_eq!((verdict, reset.len()), (REDIRECT, 54));
    check(&reset);
    assert_eq!(ends(&reset), ((VIP, 80), (CLIENT, 4000)));
    assert_eq!(
        (reset[47], &reset[42..46]),
        (0x14, &14_u32.to_be_bytes()[..]),
        "SYN and 4 bytes acknowledged"
    );
    assert_eq!(&reset[..12], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1], "back to the sender");
    // A reset is never answered.
    assert_eq!(bench.run("from_pod", &packet(TCP, (CLIENT, 4000), (VIP, 80), 4, b"")).0, DROP);
    assert_eq!(bench.drops("no_endpoint"), 2);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_refused_datagram_comes_back_as_unreachable() {
    let mut dns = web(&[]);
    dns.ports[0].protocol = Protocol::Udp;
    let bench = Bench::new(&[("dns", dns)]);
    let sent = packet(UDP, (CLIENT, 4000), (VIP, 80), 0, b"a question of some length");
    let (verdict, answer) = bench.run("from_pod", &sent);
    assert_eq!((verdict, answer.len(), answer[23]), (REDIRECT, 14 + 56, 1));
    check(&answer);
    assert_eq!(fold(sum(&answer[34..])), 0, "the ICMP checksum");
    assert_eq!(&answer[34..36], [3, 3], "port unreachable");
    assert_eq!(answer[42..70], sent[14..42], "quotes the refused packet");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_pod_that_reaches_itself_gets_the_packet_back() {
    let bench = Bench::new(&[("web", web(&["10.244.0.2:8080"]))]);
    let (verdict, request) = bench.run("from_pod", &packet(TCP, (CLIENT, 4000), (VIP, 80), SYN, b""));
    assert_eq!(verdict, REDIRECT);
    check(&request);
    assert_eq!(ends(&request), ((HAIRPIN, 4000), (CLIENT, 8080)));
    let (verdict, reply) = bench.run("from_pod", &packet(TCP, (CLIENT, 8080), (HAIRPIN, 4000), 0x12, b""));
    assert_eq!(verdict, REDIRECT);
    check(&reply);
    assert_eq!(ends(&reply), ((VIP, 80), (CLIENT, 4000)));
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_retransmitted_syn_keeps_its_backend_and_a_new_connection_is_free() {
    let bench = Bench::new(&[("web", web(&["10.244.0.3:8080", "10.244.0.4:8080", "10.244.0.5:8080"]))]);
    let to = |flags: u8| {
        let (_, out) = bench.run("from_pod", &packet(TCP, (CLIENT, 4000), (VIP, 80), flags, b""));
        ends(&out).1.0
    };
    let first = to(SYN);
    assert!((0..50).all(|_| to(SYN) == first && to(0x10) == first));
    // After a FIN the port may be used again, and then draws anew.
    let redrawn = (0..50).any(|_| {
        to(0x11);
        to(SYN) != first
    });
    assert!(redrawn);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_flood_of_datagrams_pushes_out_no_connection() {
    let endpoints: Vec<String> = (3..19).map(|last| format!("10.244.0.{last}:8080")).collect();
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    let bench = Bench::with_flows(4096, &both(&endpoints));
    let connections = (4000..4020).map(|port| {
        let (_, out) = bench.run("from_pod", &packet(TCP, (CLIENT, port), (VIP, 80), SYN, b""));
        (port, ends(&out).1)
    });
    let connections: Vec<(u16, End)> = connections.collect();
    for number in 0..10_000_u16 {
        bench.run("from_pod", &packet(UDP, (CLIENT, number), (VIP, 80), 0, b""));
    }
    for (port, backend) in connections {
        let (_, out) = bench.run("from_pod", &packet(TCP, (CLIENT, port), (VIP, 80), 0x10, b""));
        assert_eq!(ends(&out).1, backend, "port {port}");
    }
}

/// The kernel gives the element of a removed frontend to the next one at once, under a program that still reads it.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn an_element_of_another_frontend_is_nobodys() {
    let bench = Bench::new(&both(&["10.244.0.3:8080"]));
    let maps = loader::maps_directory(&bench.config.pins, &bench.config.sizes);
    let data = aya::maps::MapData::from_pin(maps.join("FRONTENDS")).unwrap();
    let map = aya::maps::Map::HashMap(data);
    let mut frontends: aya::maps::HashMap<_, FrontendKey, Tagged> = map.try_into().unwrap();
    let served =
        FrontendKey { addr_be: u32::from_ne_bytes(VIP), port_be: 80_u16.to_be(), proto: TCP, scope: INSIDE };
    let other = FrontendKey { port_be: 81_u16.to_be(), ..served };
    let element = frontends.get(&served, 0).unwrap();
    frontends.insert(other, element, 0).unwrap();
    let sent = packet(TCP, (CLIENT, 4000), (VIP, 81), SYN, b"");
    assert_eq!(bench.run("from_pod", &sent), (PASS, sent.clone()));
    // The same set under a tag of its own is served.
    frontends.insert(other, Tagged::new(&other, element.value()), 0).unwrap();
    assert_eq!(ends(&bench.run("from_pod", &sent).1).1, (BACKEND, 8080));
}
