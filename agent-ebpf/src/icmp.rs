//! ICMP errors about translated flows. An error comes in place of a reply, and quotes the packet that it is about, as
//! that packet was on this wire. Its receiver only finds the connection when the quote is what it sent itself; then it
//! learns of the smaller MTU or the closed port. So an error is translated where the reply would be, and as that.

use core::ptr::read_volatile;

use agent_ebpf_common::{
    abi::{FLOW_HAIRPIN, Reason, TCP, UDP},
    nat::{Tuple, tag},
};
use aya_ebpf::{
    helpers::generated::{bpf_l3_csum_replace, bpf_l4_csum_replace},
    programs::TcContext,
};

use crate::{
    maps::flow,
    packet::{ETHERNET, IPV4, Verdict, half, load, store, word},
};

const ICMP: u8 = 1;
const UNREACHABLE: u8 = 3;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;

/// Where the parts of an error are, and what it is about.
struct Quote {
    /// The ICMP header.
    icmp: u32,
    /// The quoted IP header.
    ip: u32,
    /// The quoted ports.
    l4: u32,
    outer_src_be: u32,
    outer_dst_be: u32,
    /// The quoted packet.
    tuple: Tuple,
}

/// Translates an error at the hook `leg`.
#[inline(always)]
pub(crate) fn translate(ctx: &TcContext, leg: u8) -> Verdict {
    let Some(quote) = parse(ctx) else { return Verdict::PASS };
    let reply = quote.tuple.reversed();
    let key = reply.key(leg);
    let Some(entry) = flow(&key) else { return Verdict::PASS };
    // SAFETY: an element of the map; it may be recycled under the read, which the tag shows.
    let flow = unsafe { read_volatile(entry) };
    // What a pod says to itself is not routed.
    if flow.tag != tag(&key) || flow.flags & FLOW_HAIRPIN != 0 {
        return Verdict::PASS;
    }
    match rewrite(ctx, &quote, &reply, &reply.rewritten(&flow)) {
        Some(()) => Verdict::PASS,
        None => Verdict::drop(Reason::RewriteFailed),
    }
}

#[inline(always)]
fn parse(ctx: &TcContext) -> Option<Quote> {
    // SAFETY: a context field.
    if unsafe { (*ctx.skb.skb).protocol } != IPV4 {
        return None;
    }
    let outer: [u8; 20] = load(ctx, ETHERNET)?;
    if outer[9] != ICMP {
        return None;
    }
    let icmp = ETHERNET + ((outer[0] & 0x0f) as u32) * 4;
    let kind = load::<1>(ctx, icmp)?[0];
    if kind != UNREACHABLE && kind != TIME_EXCEEDED && kind != PARAMETER_PROBLEM {
        return None;
    }
    let ip = icmp + 8;
    let inner: [u8; 20] = load(ctx, ip)?;
    let proto = inner[9];
    if proto != TCP && proto != UDP {
        return None;
    }
    let l4 = ip + ((inner[0] & 0x0f) as u32) * 4;
    let ports: [u8; 4] = load(ctx, l4)?;
    let tuple = Tuple {
        src_be: word([inner[12], inner[13], inner[14], inner[15]]),
        dst_be: word([inner[16], inner[17], inner[18], inner[19]]),
        sport_be: half([ports[0], ports[1]]),
        dport_be: half([ports[2], ports[3]]),
        proto,
    };
    let outer_src_be = word([outer[12], outer[13], outer[14], outer[15]]);
    let outer_dst_be = word([outer[16], outer[17], outer[18], outer[19]]);
    Some(Quote { icmp, ip, l4, outer_src_be, outer_dst_be, tuple })
}

/// Does to the quote, which is the reply turned round, what makes `to` of the reply `from`; and to the error itself where
/// it is between the same two. Another sender is a router on the way, and stays.
#[inline(always)]
fn rewrite(ctx: &TcContext, quote: &Quote, from: &Tuple, to: &Tuple) -> Option<()> {
    address(ctx, quote.ip, 12, from.dst_be, to.dst_be)?;
    address(ctx, quote.ip, 16, from.src_be, to.src_be)?;
    port(ctx, quote, 0, from.dport_be, to.dport_be)?;
    port(ctx, quote, 2, from.sport_be, to.sport_be)?;
    if quote.outer_src_be == from.src_be {
        address(ctx, ETHERNET, 12, from.src_be, to.src_be)?;
    }
    if quote.outer_dst_be == from.dst_be {
        address(ctx, ETHERNET, 16, from.dst_be, to.dst_be)?;
    }
    Some(())
}

/// In an IP header, the error's own or the quoted one. The quoted address and its header's checksum change by opposite
/// amounts, so the ICMP checksum over both stays.
#[inline(always)]
fn address(ctx: &TcContext, header: u32, offset: u32, from: u32, to: u32) -> Option<()> {
    // SAFETY: the context is the program's own; the helper takes plain numbers.
    if unsafe { bpf_l3_csum_replace(ctx.skb.skb, header + 10, from as u64, to as u64, 4) } != 0 {
        return None;
    }
    store(ctx, header + offset, &to.to_ne_bytes())
}

/// A quoted port. The quoted checksum of its datagram, if it is quoted at all, is nobody's concern.
#[inline(always)]
fn port(ctx: &TcContext, quote: &Quote, offset: u32, from: u16, to: u16) -> Option<()> {
    // SAFETY: as above.
    if unsafe { bpf_l4_csum_replace(ctx.skb.skb, quote.icmp + 2, from as u64, to as u64, 2) } != 0 {
        return None;
    }
    store(ctx, quote.l4 + offset, &to.to_ne_bytes())
}
