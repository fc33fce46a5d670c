//! Answers, checked by summing them as a receiver does.

use proptest::prelude::*;

use super::*;

fn ip(src: [u8; 4], dst: [u8; 4], proto: u8) -> [u8; IP] {
    let mut ip = [0; IP];
    ip[0] = 0x45;
    ip[9] = proto;
    ip[12..16].copy_from_slice(&src);
    ip[16..20].copy_from_slice(&dst);
    ip
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum()
}

proptest! {
    #[test]
    fn a_reset_is_valid_and_goes_back(src: [u8; 4], dst: [u8; 4], mut tcp: [u8; 20], segment in 0..1500_u32) {
        tcp[13] &= !RST;
        let reply = reset(&ip(src, dst, TCP), &tcp, segment).unwrap();
        prop_assert_eq!(finish(sum(&reply[..IP])), 0, "the IP checksum");
        prop_assert_eq!(finish(sum(&reply[12..]) + u32::from(TCP) + 20), 0, "the TCP checksum");
        prop_assert_eq!((&reply[12..16], &reply[16..20]), (&dst[..], &src[..]));
        prop_assert_eq!((&reply[20..22], &reply[22..24]), (&tcp[2..4], &tcp[0..2]));
        prop_assert!(reply[33] & RST != 0);
    }

    #[test]
    fn an_unreachable_is_valid_and_quotes(src: [u8; 4], dst: [u8; 4], first: [u8; 8]) {
        let refused = ip(src, dst, 17);
        let reply = unreachable(&refused, &first);
        prop_assert_eq!(finish(sum(&reply[..IP])), 0, "the IP checksum");
        prop_assert_eq!(finish(sum(&reply[IP..])), 0, "the ICMP checksum");
        prop_assert_eq!(&reply[IP + 8..IP + 8 + IP], &refused[..]);
        prop_assert_eq!(&reply[IP + 8 + IP..], &first[..]);
        prop_assert_eq!((&reply[12..16], &reply[16..20]), (&dst[..], &src[..]));
    }
}

#[test]
fn a_syn_is_acknowledged_and_a_reset_is_not_answered() {
    let mut tcp = [0; 20];
    tcp[4..8].copy_from_slice(&1000_u32.to_be_bytes());
    tcp[13] = SYN;
    let reply = reset(&ip([10, 0, 0, 1], [10, 96, 0, 1], TCP), &tcp, 0).unwrap();
    assert_eq!(reply[28..32], 1001_u32.to_be_bytes());
    assert_eq!(reply[33], RST | ACK);
    tcp[13] = RST;
    assert_eq!(reset(&ip([10, 0, 0, 1], [10, 96, 0, 1], TCP), &tcp, 0), None);
}
