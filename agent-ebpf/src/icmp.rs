//! ICMP errors about a pod's translated flow: they quote the packet as it was on the wire, to the backend. The
//! pod's kernel only finds the socket when the quote names the service, and then learns of the smaller MTU or
//! the closed port.

use agent_ebpf_common::{
    abi::{LEG_TO_POD, Reason, TCP, UDP},
    nat::{Tuple, tag},
};
use aya_ebpf::{
    helpers::generated::{bpf_l3_csum_replace, bpf_l4_csum_replace},
    programs::TcContext,
};

use crate::{
    maps::FLOWS,
    packet::{ETHERNET, IPV4, Verdict, half, load, store, word},
};

const ICMP: u8 = 1;
const UNREACHABLE: u8 = 3;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;

/// Where the parts of an error are, and the flow it is about.
struct Quote {
    /// The ICMP header.
    icmp: u32,
    /// The quoted IP header.
    ip: u32,
    /// The quoted ports.
    l4: u32,
    outer_src_be: u32,
    tuple: Tuple,
}

/// Translates an error on its way into a pod.
#[inline(always)]
pub(crate) fn entering(ctx: &TcContext) -> Verdict {
    let Some(quote) = parse(ctx) else { return Verdict::PASS };
    let key = quote.tuple.reversed().key(LEG_TO_POD);
    // SAFETY: the element may be recycled under the read, which the tag shows.
    let Some(flow) = (unsafe { FLOWS.get(&key) }).copied() else { return Verdict::PASS };
    if flow.tag != tag(&key) {
        return Verdict::PASS;
    }
    match rewrite(ctx, &quote, flow.src_be, flow.sport_be) {
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
    Some(Quote { icmp, ip, l4, outer_src_be: word([outer[12], outer[13], outer[14], outer[15]]), tuple })
}

/// Puts the service into the quote. The quoted address and the quoted header's own checksum change by opposite
/// amounts, so the ICMP checksum over both only changes by the port.
#[inline(always)]
fn rewrite(ctx: &TcContext, quote: &Quote, vip_be: u32, port_be: u16) -> Option<()> {
    let skb = ctx.skb.skb;
    let (from, to) = (quote.tuple.dst_be, vip_be);
    let (from_port, to_port) = (quote.tuple.dport_be, port_be);
    // SAFETY: the context is the program's own; the helpers take plain numbers.
    unsafe {
        if bpf_l3_csum_replace(skb, quote.ip + 10, from as u64, to as u64, 4) != 0
            || bpf_l4_csum_replace(skb, quote.icmp + 2, from_port as u64, to_port as u64, 2) != 0
        {
            return None;
        }
    }
    store(ctx, quote.ip + 16, &to.to_ne_bytes())?;
    store(ctx, quote.l4 + 2, &to_port.to_ne_bytes())?;
    // The backend itself complains: to the pod it is the service that does.
    if quote.outer_src_be == from {
        // SAFETY: as above.
        if unsafe { bpf_l3_csum_replace(skb, ETHERNET + 10, from as u64, to as u64, 4) } != 0 {
            return None;
        }
        store(ctx, ETHERNET + 12, &to.to_ne_bytes())?;
    }
    Some(())
}
