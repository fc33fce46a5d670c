//! Verdicts of the packet programs, one packet at a time by BPF_PROG_TEST_RUN: what they return and every byte
//! they write, checksums included. No traffic, no interface.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

use agent_ebpf_common::abi::{HAIRPIN, TCP, UDP};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};

use super::*;
use crate::{
    dataplane::{
        TableSizes, TcAttachment,
        endpoints::tests::{endpoint, port, spec},
    },
    model::{Protocol, ServiceId, ServiceSpec},
};

const PASS: u32 = 0;
const DROP: u32 = 2;
const REDIRECT: u32 = 7;
const CLIENT: [u8; 4] = [10, 244, 0, 2];
const BACKEND: [u8; 4] = [10, 244, 0, 3];
const VIP: [u8; 4] = [10, 96, 0, 10];
const SYN: u8 = 2;

struct Bench {
    dataplane: EbpfDataplane,
    config: DataplaneConfig,
    _scratch: tempfile::TempDir,
}

impl Bench {
    /// Programs and maps without any attachment: the cgroup stays out of it.
    fn new(services: &[(&str, ServiceSpec)]) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let config = DataplaneConfig {
            pins: scratch.path().join("bpf"),
            cgroup: scratch.path().to_owned(),
            uplink: None,
            pod_sockets: true,
            tc: TcAttachment::default(),
            sizes: TableSizes { frontends: 1024, backends: 8192, affinity: 4096, flows: 4096, pods: 64 },
        };
        let dataplane = EbpfDataplane::open(config.clone()).unwrap();
        let services: BTreeMap<ServiceId, Arc<ServiceSpec>> = services
            .iter()
            .map(|(name, spec)| {
                (ServiceId { namespace: "test".into(), name: (*name).into() }, Arc::new(spec.clone()))
            })
            .collect();
        lock(&dataplane.table).publish(&services, &"here".into()).unwrap();
        let mut state = dataplane.lock();
        state.node.set_addresses(&[Ipv4Addr::new(192, 0, 2, 10)]).unwrap();
        state.node.set_node(1, Some(Ipv4Addr::new(192, 0, 2, 10)), true);
        drop(state);
        Self { dataplane, config, _scratch: scratch }
    }

    /// Runs a program on a packet: its verdict and what became of the packet.
    fn run(&self, program: &str, packet: &[u8]) -> (u32, Vec<u8>) {
        let mut state = self.dataplane.lock();
        let program: &mut SchedClassifier = state.object.program_mut(program).unwrap().try_into().unwrap();
        let mut out = vec![0; 2048];
        let options =
            TestRunOptions { data_in: Some(packet), data_out: Some(&mut out), ..TestRunOptions::new() };
        let result = program.test_run(options).unwrap();
        out.truncate(result.data_size_out as usize);
        (result.return_value, out)
    }

    fn drops(&self, reason: &str) -> u64 {
        self.dataplane.snapshot().drops.iter().find(|(name, _)| *name == reason).unwrap().1
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

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The sum over addresses, protocol and length that TCP and UDP checksums include.
fn pseudo(packet: &[u8]) -> u32 {
    sum(&packet[26..34]) + u32::from(packet[23]) + (packet.len() - 34) as u32
}

/// An Ethernet frame with right checksums.
fn packet(proto: u8, src: ([u8; 4], u16), dst: ([u8; 4], u16), flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut l4 = Vec::new();
    l4.extend(src.1.to_be_bytes());
    l4.extend(dst.1.to_be_bytes());
    if proto == TCP {
        l4.extend([0, 0, 0, 9, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    } else {
        l4.extend((8 + payload.len() as u16).to_be_bytes());
        l4.extend([0, 0]);
    }
    l4.extend(payload);
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([0x45, 0]);
    frame.extend((20 + l4.len() as u16).to_be_bytes());
    frame.extend([0x12, 0x34, 0, 0, 64, proto, 0, 0]);
    frame.extend(src.0);
    frame.extend(dst.0);
    let header = fold(sum(&frame[14..34])).to_be_bytes();
    frame[24..26].copy_from_slice(&header);
    frame.extend(l4);
    let at = if proto == TCP { 50 } else { 40 };
    let checksum = fold(sum(&frame[34..]) + pseudo(&frame)).to_be_bytes();
    frame[at..at + 2].copy_from_slice(&checksum);
    frame
}

/// Fails unless a receiver would take the packet.
fn check(packet: &[u8]) {
    assert_eq!(fold(sum(&packet[14..34])), 0, "the IP checksum of {packet:02x?}");
    if packet[23] == TCP || packet[23] == UDP {
        assert_eq!(fold(sum(&packet[34..]) + pseudo(packet)), 0, "the checksum of {packet:02x?}");
    }
}

fn ends(packet: &[u8]) -> (([u8; 4], u16), ([u8; 4], u16)) {
    let address = |at: usize| [packet[at], packet[at + 1], packet[at + 2], packet[at + 3]];
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    ((address(26), port(34)), (address(30), port(36)))
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn there_and_back_with_right_checksums() {
    let bench = Bench::new(&[("web", web(&["10.244.0.3:8080"]))]);
    for (proto, payload) in [(TCP, &b""[..]), (TCP, b"odd"), (TCP, b"even")] {
        let (verdict, there) = bench.run("from_pod", &packet(proto, (CLIENT, 4000), (VIP, 80), SYN, payload));
        assert_eq!(verdict, PASS);
        check(&there);
        assert_eq!(ends(&there), ((CLIENT, 4000), (BACKEND, 8080)));
        let (verdict, back) =
            bench.run("to_pod", &packet(proto, (BACKEND, 8080), (CLIENT, 4000), 0x12, payload));
        assert_eq!(verdict, PASS);
        check(&back);
        assert_eq!(ends(&back), ((VIP, 80), (CLIENT, 4000)));
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_datagram_without_a_checksum_keeps_none() {
    let mut dns = web(&["10.244.0.3:8080"]);
    dns.ports[0].protocol = Protocol::Udp;
    let bench = Bench::new(&[("dns", dns)]);
    let mut bare = packet(UDP, (CLIENT, 4000), (VIP, 80), 0, b"x");
    bare[40..42].copy_from_slice(&[0, 0]);
    let (_, out) = bench.run("from_pod", &bare);
    assert_eq!((ends(&out).1, &out[40..42]), ((BACKEND, 8080), &[0, 0][..]));
    let (_, out) = bench.run("from_pod", &packet(UDP, (CLIENT, 4001), (VIP, 80), 0, b"x"));
    check(&out);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_is_not_for_a_service_is_not_touched() {
    let bench = Bench::new(&[("web", web(&["10.244.0.3:8080"]))]);
    let mut arp = packet(TCP, (CLIENT, 4000), (VIP, 80), SYN, b"");
    arp[12..14].copy_from_slice(&[8, 6]);
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
fn no_packet_upsets_a_program() {
    let mut dns = web(&["10.244.0.3:8080"]);
    dns.ports[0].protocol = Protocol::Udp;
    let bench = Bench::new(&[("web", web(&["10.244.0.3:8080"])), ("dns", dns)]);
    let whole = packet(TCP, (CLIENT, 4000), (VIP, 80), SYN, b"payload");
    // Every prefix of a packet, and every byte of its headers set to extremes.
    // The kernel runs no test on less than the IP header.
    for length in 34..whole.len() {
        for program in ["from_pod", "to_pod", "uplink_in", "uplink_out"] {
            assert!([PASS, DROP, REDIRECT].contains(&bench.run(program, &whole[..length]).0));
        }
    }
    for at in 14..54 {
        for value in [0, 1, 0x7f, 0xff] {
            let mut broken = whole.clone();
            broken[at] = value;
            for program in ["from_pod", "to_pod", "uplink_in", "uplink_out"] {
                assert!([PASS, DROP, REDIRECT].contains(&bench.run(program, &broken).0));
            }
        }
    }
}
