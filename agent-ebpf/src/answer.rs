//! Refusals on the packet path: the client hears at once that a service has no endpoint.

use agent_ebpf_common::{
    abi::{Reason, TCP},
    reply::{IP, RESET, UNREACHABLE, reset, unreachable},
};
use aya_ebpf::{helpers::generated::bpf_skb_change_tail, programs::TcContext};

use crate::packet::{ETHERNET, Packet, Verdict, load, store, swap_ethernet};

/// Turns the packet into its refusal and sends it back.
#[inline(always)]
pub(crate) fn refuse(ctx: &TcContext, packet: &Packet) -> Verdict {
    let answered = if packet.headless {
        None
    } else if packet.tuple.proto == TCP {
        refuse_tcp(ctx, packet)
    } else {
        refuse_udp(ctx, packet)
    };
    match answered.and_then(|()| swap_ethernet(ctx)) {
        Some(()) => {
            crate::maps::count_drop(Reason::NoEndpoint);
            Verdict::send_back(ctx)
        }
        None => Verdict::drop(Reason::NoEndpoint),
    }
}

#[inline(always)]
fn refuse_tcp(ctx: &TcContext, packet: &Packet) -> Option<()> {
    let ip: [u8; IP] = load(ctx, ETHERNET)?;
    let tcp: [u8; 20] = load(ctx, packet.l4)?;
    let total = u16::from_be_bytes([ip[2], ip[3]]) as u32;
    let headers = (packet.l4 - ETHERNET) + ((tcp[12] >> 4) as u32) * 4;
    let reply = reset(&ip, &tcp, total.saturating_sub(headers))?;
    resize(ctx, RESET as u32)?;
    store(ctx, ETHERNET, &reply)
}

#[inline(always)]
fn refuse_udp(ctx: &TcContext, packet: &Packet) -> Option<()> {
    let ip: [u8; IP] = load(ctx, ETHERNET)?;
    // With options the quoted header would not be the packet's own.
    if packet.l4 != ETHERNET + IP as u32 {
        return None;
    }
    let first: [u8; 8] = load(ctx, packet.l4)?;
    let reply = unreachable(&ip, &first);
    resize(ctx, UNREACHABLE as u32)?;
    store(ctx, ETHERNET, &reply)
}

#[inline(always)]
fn resize(ctx: &TcContext, ip_length: u32) -> Option<()> {
    // SAFETY: the context is the program's own; no pointers into the packet are held.
    (unsafe { bpf_skb_change_tail(ctx.skb.skb, ETHERNET + ip_length, 0) } == 0).then_some(())
}
