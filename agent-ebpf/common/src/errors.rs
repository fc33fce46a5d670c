//! ICMP errors about translated flows. An error comes in place of a reply, and quotes the packet that it is about, as
//! that packet was on this wire. Its receiver only finds the connection when the quote is what it sent itself; then it
//! learns of the smaller MTU or the closed port. So an error is translated where the reply would be, and as that.

use crate::{
    family::{Family, Side},
    nat::Tuple,
    parse::{Packet, quoted},
    wire::{ETHERNET, Sum, Wire},
};

/// Bytes of an ICMP header in front of what it quotes.
const ICMP_HEADER: u32 = 8;

/// Where the parts of an error are, and what it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote<A> {
    /// The ICMP header.
    icmp: u32,
    /// The quoted IP header.
    ip: u32,
    /// The quoted ports.
    l4: u32,
    /// Sender and receiver of the error itself.
    outer_src: A,
    outer_dst: A,
    /// The reply in whose place the error comes: the quoted packet turned round.
    pub reply: Tuple<A>,
}

/// Reads what the error `packet` quotes; `None` when it is nothing with ports or an identifier.
#[inline(always)]
pub fn quote<A: Family, W: Wire>(wire: &W, packet: &Packet<A>) -> Option<Quote<A>> {
    let (icmp, ip) = (packet.l4, packet.l4 + ICMP_HEADER);
    let inner = quoted::<A, W>(wire, ip)?;
    let Tuple { src_be, dst_be, .. } = packet.tuple;
    Some(Quote {
        icmp,
        ip,
        l4: inner.l4,
        outer_src: src_be,
        outer_dst: dst_be,
        reply: inner.tuple.reversed(),
    })
}

/// Does to the quote, which has ports and is the reply turned round, what makes the reply `to`; and to the error itself where it is
/// between the same two. Another sender is a router on the way, and stays.
#[inline(always)]
pub fn retell<A: Family, W: Wire>(wire: &W, quote: &Quote<A>, to: &Tuple<A>) -> Option<()> {
    let from = &quote.reply;
    let sum = quote.icmp + 2;
    A::requote(wire, quote.ip, Side::Src, from.dst_be, to.dst_be, sum)?;
    A::requote(wire, quote.ip, Side::Dst, from.src_be, to.src_be, sum)?;
    port(wire, quote, 0, from.dport_be, to.dport_be)?;
    port(wire, quote, 2, from.sport_be, to.sport_be)?;
    let outer = A::ICMP_PSEUDO.then_some(Sum { at: sum, optional: false, pseudo: true });
    if quote.outer_src == from.src_be {
        A::readdress(wire, ETHERNET, Side::Src, from.src_be, to.src_be, outer)?;
    }
    if quote.outer_dst == from.dst_be {
        A::readdress(wire, ETHERNET, Side::Dst, from.dst_be, to.dst_be, outer)?;
    }
    Some(())
}

/// A quoted port. The quoted checksum of its datagram, if it is quoted at all, is nobody's concern.
#[inline(always)]
fn port<A: Family, W: Wire>(wire: &W, quote: &Quote<A>, offset: u32, from: u16, to: u16) -> Option<()> {
    wire.amend_half(Sum { at: quote.icmp + 2, optional: false, pseudo: false }, from, to)?;
    wire.store(quote.l4 + offset, &to.to_ne_bytes())
}
