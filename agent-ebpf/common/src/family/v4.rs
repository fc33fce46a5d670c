//! IPv4.

use super::{Family, Icmp, Ip, Side, V4};
use crate::{
    checksum::{add, finish},
    tag,
    wire::{Sum, Wire, half, word},
};

const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;
const TTL: u8 = 64;

const fn offset(side: Side) -> u32 {
    match side {
        Side::Src => 12,
        Side::Dst => 16,
    }
}

impl Family for V4 {
    const ETHERTYPE: u16 = 0x0800;
    const HEADER: u32 = 20;
    const ICMP: u8 = 1;
    const ICMP_PSEUDO: bool = false;
    const LINK_IS_ICMP: bool = false;
    const PORT_UNREACHABLE: [u8; 2] = [3, 3];
    const NONE: Self = 0;
    const HAIRPIN: Self = word([169, 254, 42, 1]);

    #[inline(always)]
    fn mix(self, hash: u64) -> u64 {
        tag::mix(hash, self as u64)
    }

    #[inline(always)]
    fn sum(self, sum: u32) -> u32 {
        add(sum, &self.to_ne_bytes())
    }

    #[inline(always)]
    fn is_loopback(self) -> bool {
        self.to_ne_bytes()[0] == 127
    }

    #[inline(always)]
    fn icmp(kind: u8) -> Icmp {
        match kind {
            // Unreachable, time exceeded, parameter problem.
            3 | 11 | 12 => Icmp::Error,
            // Echo, timestamp, information, address mask.
            0 | 8 | 13..=18 => Icmp::Query,
            // Redirect, router advertisement and solicitation.
            5 | 9 | 10 => Icmp::Link,
            _ => Icmp::Other,
        }
    }

    /// Neighbours find each other by ARP, and only routers say the rest.
    #[inline(always)]
    fn speaks_to_link(self, _kind: u8) -> bool {
        false
    }

    #[inline(always)]
    fn ip<W: Wire>(wire: &W, at: u32) -> Option<Ip<Self>> {
        let ip: [u8; 20] = wire.load(at)?;
        let header = ((ip[0] & 0x0f) as u32) * 4;
        // No IP header is that short: the stack will drop it.
        if header < Self::HEADER {
            return None;
        }
        let fragment = u16::from_be_bytes([ip[6], ip[7]]);
        Some(Ip {
            src: word([ip[12], ip[13], ip[14], ip[15]]),
            dst: word([ip[16], ip[17], ip[18], ip[19]]),
            proto: ip[9],
            l4: at + header,
            end: at + u16::from_be_bytes([ip[2], ip[3]]) as u32,
            id: half([ip[4], ip[5]]) as u32,
            later: fragment & FRAGMENT_OFFSET != 0,
            more: fragment & MORE_FRAGMENTS != 0,
        })
    }

    #[inline(always)]
    fn put_header<W: Wire>(wire: &W, at: u32, src: Self, dst: Self, proto: u8, length: u16) -> Option<()> {
        let (src, dst) = (src.to_ne_bytes(), dst.to_ne_bytes());
        let total = (length + 20).to_be_bytes();
        // Do not fragment: an answer this small never is.
        let mut ip = [
            0x45, 0, total[0], total[1], 0, 0, 0x40, 0, TTL, proto, 0, 0, src[0], src[1], src[2], src[3],
            dst[0], dst[1], dst[2], dst[3],
        ];
        let checksum = finish(add(0, &ip)).to_be_bytes();
        ip[10] = checksum[0];
        ip[11] = checksum[1];
        wire.store(at, &ip)
    }

    #[inline(always)]
    fn readdress<W: Wire>(
        wire: &W,
        at: u32,
        side: Side,
        from: Self,
        to: Self,
        sum: Option<Sum>,
    ) -> Option<()> {
        if let Some(sum) = sum {
            wire.amend_word(sum, from, to)?;
        }
        wire.amend_header(at + 10, from, to)?;
        wire.store(at + offset(side), &to.to_ne_bytes())
    }

    /// The quoted address and its header's checksum change by opposite amounts, so the ICMP checksum over both stays.
    #[inline(always)]
    fn requote<W: Wire>(wire: &W, at: u32, side: Side, from: Self, to: Self, _sum: u32) -> Option<()> {
        Self::readdress(wire, at, side, from, to, None)
    }
}
