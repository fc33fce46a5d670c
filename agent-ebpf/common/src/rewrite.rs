//! Making a packet carry other addresses and ports, with its checksums as right or wrong as they were.

use crate::{
    abi::TCP,
    family::{Family, Side},
    nat::Tuple,
    parse::Packet,
    wire::{ETHERNET, Sum, Wire},
};

/// Makes `packet`, which must be TCP or UDP, carry `to`.
#[inline(always)]
pub fn rewrite<A: Family, W: Wire>(wire: &W, packet: &Packet<A>, to: &Tuple<A>) -> Option<()> {
    let from = &packet.tuple;
    // The checksum of a later fragment is in the first.
    let pseudo = if packet.is_headless() { None } else { Some(sum(packet, true)) };
    if from.src_be != to.src_be {
        A::readdress(wire, ETHERNET, Side::Src, from.src_be, to.src_be, pseudo)?;
    }
    if from.dst_be != to.dst_be {
        A::readdress(wire, ETHERNET, Side::Dst, from.dst_be, to.dst_be, pseudo)?;
    }
    if packet.is_headless() {
        return Some(());
    }
    if from.sport_be != to.sport_be {
        port(wire, packet, packet.l4, from.sport_be, to.sport_be)?;
    }
    if from.dport_be != to.dport_be {
        port(wire, packet, packet.l4 + 2, from.dport_be, to.dport_be)?;
    }
    Some(())
}

#[inline(always)]
fn sum<A: Family>(packet: &Packet<A>, pseudo: bool) -> Sum {
    if packet.tuple.proto == TCP {
        Sum { at: packet.l4 + 16, optional: false, pseudo }
    } else {
        Sum { at: packet.l4 + 6, optional: true, pseudo }
    }
}

#[inline(always)]
fn port<A: Family, W: Wire>(wire: &W, packet: &Packet<A>, at: u32, from: u16, to: u16) -> Option<()> {
    wire.amend_half(sum(packet, false), from, to)?;
    wire.store(at, &to.to_ne_bytes())
}
