//! ICMP errors, which stand for replies: each reaches whoever sent the packet, about the packet as that one sent it.

use agent_ebpf_common::abi::{TCP, UDP};

use super::{
    frames::{ETHERNET, End, Frame, address, check, ends, fold, set_ip_checksum, sum},
    *,
};

const OUTSIDER: End = ([198, 51, 100, 1], 4000);
const ROUTER: [u8; 4] = [203, 0, 113, 9];
const NODE_PORT: End = (NODE, 30_080);
const POD: End = (CLIENT, 4000);
const SERVICE: End = (VIP, 80);
const AT: End = (BACKEND, 8080);
/// Of the quoted packet, the header and eight bytes.
const QUOTED: usize = 28;

/// "Fragmentation needed" by `by` to `to` about a packet between two ends.
fn error(by: [u8; 4], to: [u8; 4], proto: u8, (src, dst): (End, End)) -> Vec<u8> {
    let about = Frame::new(proto, src, dst).bytes();
    let mut icmp = vec![3, 4, 0, 0, 0, 0, 5, 0x78];
    icmp.extend(&about[ETHERNET..ETHERNET + QUOTED]);
    let checksum = fold(sum(&icmp)).to_be_bytes();
    icmp[2..4].copy_from_slice(&checksum);
    let mut frame = about[..ETHERNET + 20].to_vec();
    frame[23] = 1;
    frame[16..18].copy_from_slice(&(20 + icmp.len() as u16).to_be_bytes());
    frame[26..30].copy_from_slice(&by);
    frame[30..34].copy_from_slice(&to);
    set_ip_checksum(&mut frame);
    frame.extend(icmp);
    frame
}

/// Runs `program` on the error and returns sender, receiver and the ends of what it is then about; all checksums right.
fn through(bench: &Bench, program: &str, error: &[u8]) -> ([u8; 4], [u8; 4], (End, End)) {
    let (verdict, out) = bench.run(program, error);
    assert_eq!((verdict, out.len()), (PASS, error.len()), "{program}");
    check(&out);
    let icmp = &out[ETHERNET + 20..];
    assert_eq!(fold(sum(icmp)), 0, "the ICMP checksum");
    assert_eq!(fold(sum(&icmp[8..28])), 0, "the checksum of the quoted header");
    // Read as a frame of its own.
    let quoted = [&out[..ETHERNET], &icmp[8..]].concat();
    (address(&out, 26), address(&out, 30), ends(&quoted))
}

fn services(node: &str) -> [(&'static str, ServiceSpec); 2] {
    let mut both = both(&["10.244.0.3:8080"]);
    for (_, spec) in &mut both {
        spec.ports[0].node_port = Some(NODE_PORT.1);
        spec.ports[0].endpoints[0].node = Some(node.into());
    }
    both
}

fn open(bench: &Bench, program: &str, proto: u8, src: End, dst: End) -> Vec<u8> {
    let (verdict, out) = bench.run(program, &Frame { tcp_flags: SYN, ..Frame::new(proto, src, dst) }.bytes());
    assert_eq!(verdict, PASS);
    out
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn errors_about_a_pods_flow_name_the_service_to_the_pod_and_the_pod_to_the_backend() {
    let bench = Bench::new(&services("here"));
    for proto in [TCP, UDP] {
        open(&bench, "from_pod", proto, POD, SERVICE);
        for (by, seen) in [(BACKEND, VIP), (ROUTER, ROUTER)] {
            let about = error(by, CLIENT, proto, (POD, AT));
            assert_eq!(through(&bench, "to_pod", &about), (seen, CLIENT, (POD, SERVICE)));
        }
        let about = error(CLIENT, VIP, proto, (SERVICE, POD));
        assert_eq!(through(&bench, "from_pod", &about), (CLIENT, BACKEND, (AT, POD)));
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn errors_about_a_flow_from_outside_reach_the_local_backend_and_the_client() {
    let bench = Bench::new(&services("here"));
    for proto in [TCP, UDP] {
        open(&bench, "uplink_in", proto, OUTSIDER, NODE_PORT);
        // A link behind the router is narrower: the backend must send smaller segments.
        let about = error(ROUTER, NODE, proto, (NODE_PORT, OUTSIDER));
        assert_eq!(through(&bench, "uplink_in", &about), (ROUTER, BACKEND, (AT, OUTSIDER)));
        let about = error(BACKEND, OUTSIDER.0, proto, (OUTSIDER, AT));
        assert_eq!(through(&bench, "uplink_out", &about), (NODE, OUTSIDER.0, (OUTSIDER, NODE_PORT)));
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn errors_about_a_masqueraded_flow_pass_this_node_both_ways() {
    let bench = Bench::new(&services("there"));
    for proto in [TCP, UDP] {
        let inside = open(&bench, "uplink_in", proto, OUTSIDER, NODE_PORT);
        let (_, disguised) = bench.run("uplink_out", &inside);
        let disguise = ends(&disguised).0;
        assert_eq!(disguise.0, NODE);
        let twice = |first: &[u8]| {
            let (_, between) = bench.run("uplink_in", first);
            through(&bench, "uplink_out", &between)
        };
        let to_client = error(BACKEND, NODE, proto, (disguise, AT));
        assert_eq!(twice(&to_client), (NODE, OUTSIDER.0, (OUTSIDER, NODE_PORT)));
        let to_backend = error(ROUTER, NODE, proto, (NODE_PORT, OUTSIDER));
        assert_eq!(twice(&to_backend), (ROUTER, BACKEND, (AT, disguise)));
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn errors_about_other_flows_are_not_touched() {
    let bench = Bench::new(&services("here"));
    open(&bench, "from_pod", TCP, POD, SERVICE);
    let other = error(BACKEND, CLIENT, TCP, ((CLIENT, 4001), AT));
    let mut answer = error(BACKEND, CLIENT, TCP, (POD, AT));
    // An echo reply quotes nothing.
    answer[ETHERNET + 20] = 0;
    for frame in [other, answer] {
        bench.be(BACKEND);
        for program in ["from_pod", "to_pod", "uplink_in", "uplink_out"] {
            assert_eq!(bench.run(program, &frame), (PASS, frame.clone()), "{program}");
        }
    }
}
