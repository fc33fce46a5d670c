//! IPv6. What IPv4 has in its header, this has in a chain of extension headers; and no checksum of its own, so that
//! every transport's includes the addresses, ICMP's too.

use super::{Family, Icmp, Ip, Side, V6};
use crate::{
    checksum::add,
    tag,
    wire::{Sum, Wire, word},
};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM: u8 = 140;

/// Extension headers that are followed. The six that RFC 8200 lists come to at most seven, of which nobody sends all;
/// behind more the packet is of a protocol that nothing here serves.
const EXTENSIONS: usize = 6;
const FRAGMENT_OFFSET: u16 = 0xfff8;
const MORE_FRAGMENTS: u16 = 1;
const HOP_LIMIT: u8 = 64;

const fn offset(side: Side) -> u32 {
    match side {
        Side::Src => 8,
        Side::Dst => 24,
    }
}

#[inline(always)]
fn bytes(address: V6) -> [u8; 16] {
    let [a, b, c, d] = [
        address[0].to_ne_bytes(),
        address[1].to_ne_bytes(),
        address[2].to_ne_bytes(),
        address[3].to_ne_bytes(),
    ];
    [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
}

#[inline(always)]
fn address(header: &[u8; 40], at: usize) -> V6 {
    let part = |at: usize| word([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    [part(at), part(at + 4), part(at + 8), part(at + 12)]
}

/// Follows the chain from `ip.proto` at `ip.l4` to the upper layer.
#[inline(always)]
fn extensions<W: Wire>(wire: &W, mut ip: Ip<V6>) -> Option<Ip<V6>> {
    for _ in 0..EXTENSIONS {
        match ip.proto {
            HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY | HOST_IDENTITY | SHIM => {
                let header: [u8; 2] = wire.load(ip.l4)?;
                ip.proto = header[0];
                ip.l4 += (header[1] as u32 + 1) * 8;
            }
            AUTHENTICATION => {
                let header: [u8; 2] = wire.load(ip.l4)?;
                ip.proto = header[0];
                ip.l4 += (header[1] as u32 + 2) * 4;
            }
            FRAGMENT => {
                let header: [u8; 8] = wire.load(ip.l4)?;
                let fragment = u16::from_be_bytes([header[2], header[3]]);
                ip.proto = header[0];
                ip.l4 += 8;
                ip.id = word([header[4], header[5], header[6], header[7]]);
                ip.later = fragment & FRAGMENT_OFFSET != 0;
                ip.more = fragment & MORE_FRAGMENTS != 0;
                // What follows is the middle of something.
                if ip.later {
                    return Some(ip);
                }
            }
            _ => return Some(ip),
        }
    }
    Some(ip)
}

impl Family for V6 {
    const ETHERTYPE: u16 = 0x86dd;
    const HEADER: u32 = 40;
    const ICMP: u8 = 58;
    const ICMP_PSEUDO: bool = true;
    const LINK_IS_ICMP: bool = true;
    const PORT_UNREACHABLE: [u8; 2] = [1, 4];
    const NONE: Self = [0; 4];
    /// `fe80::a9fe:2a01`: the IPv4 one's bytes below the link-local prefix.
    const HAIRPIN: Self = [word([0xfe, 0x80, 0, 0]), 0, 0, word([169, 254, 42, 1])];

    #[inline(always)]
    fn mix(self, hash: u64) -> u64 {
        let high = (self[0] as u64) << 32 | self[1] as u64;
        tag::mix(tag::mix(hash, high), (self[2] as u64) << 32 | self[3] as u64)
    }

    #[inline(always)]
    fn sum(self, sum: u32) -> u32 {
        add(sum, &bytes(self))
    }

    #[inline(always)]
    fn is_loopback(self) -> bool {
        self == [0, 0, 0, word([0, 0, 0, 1])]
    }

    #[inline(always)]
    fn icmp(kind: u8) -> Icmp {
        match kind {
            // Unreachable, packet too big, time exceeded, parameter problem.
            1..=4 => Icmp::Error,
            128 | 129 => Icmp::Query,
            // Listeners, routers, neighbours, redirect; inverse discovery; listeners again; certified paths.
            130..=137 | 141..=143 | 148 | 149 => Icmp::Link,
            _ => Icmp::Other,
        }
    }

    #[inline(always)]
    fn speaks_to_link(self, kind: u8) -> bool {
        let is_link_local = self[0] & word([0xff, 0xc0, 0, 0]) == word([0xfe, 0x80, 0, 0]);
        // What listeners report, a router's solicitation, a neighbour's and its answer; not what only routers say.
        (self == Self::NONE || is_link_local) && matches!(kind, 131..=133 | 135 | 136 | 143)
    }

    #[inline(always)]
    fn ip<W: Wire>(wire: &W, at: u32) -> Option<Ip<Self>> {
        let header: [u8; 40] = wire.load(at)?;
        let length = u16::from_be_bytes([header[4], header[5]]) as u32;
        let ip = Ip {
            src: address(&header, 8),
            dst: address(&header, 24),
            proto: header[6],
            l4: at + Self::HEADER,
            end: at + Self::HEADER + length,
            id: 0,
            later: false,
            more: false,
        };
        extensions(wire, ip)
    }

    #[inline(always)]
    fn put_header<W: Wire>(wire: &W, at: u32, src: Self, dst: Self, proto: u8, length: u16) -> Option<()> {
        let length = length.to_be_bytes();
        wire.store(at, &[0x60, 0, 0, 0, length[0], length[1], proto, HOP_LIMIT])?;
        wire.store(at + offset(Side::Src), &bytes(src))?;
        wire.store(at + offset(Side::Dst), &bytes(dst))
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
            wire.amend_wide(sum, &from, &to)?;
        }
        wire.store(at + offset(side), &bytes(to))
    }

    /// The quoted address is a part of the message like any other.
    #[inline(always)]
    fn requote<W: Wire>(wire: &W, at: u32, side: Side, from: Self, to: Self, sum: u32) -> Option<()> {
        let sum = Sum { at: sum, optional: false, pseudo: false };
        Self::readdress(wire, at, side, from, to, Some(sum))
    }
}
