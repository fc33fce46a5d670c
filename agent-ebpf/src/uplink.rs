//! Services for clients outside: NodePorts, external and load balancer addresses. Destinations change on
//! entry, sources on exit; the stack in between routes.

use agent_ebpf_common::{
    abi::{LEG_UPLINK_IN, LEG_UPLINK_OUT, OUTSIDE, Reason},
    nat::{self, Tuple},
    select::{Chosen, Selection, select},
    words::{LOCAL, MASQUERADE},
};
use aya_ebpf::{macros::classifier, programs::TcContext};

use crate::{
    answer::refuse,
    flows::{TRIES, claim, claim_port, follow, record},
    icmp,
    maps::{KernelTables, count_connection, frontend, is_node_address, settings, ticks},
    packet::{Packet, Verdict, parse, rewrite},
};

/// Source ports tried for one flow: with half the range taken, all are taken once in 65,536 times.
const PORT_TRIES: u32 = 16;

#[classifier]
pub(crate) fn uplink_in(ctx: TcContext) -> i32 {
    entering(&ctx).0
}

#[classifier]
pub(crate) fn uplink_out(ctx: TcContext) -> i32 {
    leaving(&ctx).0
}

#[inline(always)]
fn entering(ctx: &TcContext) -> Verdict {
    let Some(packet) = parse(ctx, LEG_UPLINK_IN) else { return icmp::translate(ctx, LEG_UPLINK_IN) };
    if let Some(flow) = follow(&packet, LEG_UPLINK_IN) {
        return apply(ctx, &packet, &packet.tuple.rewritten(&flow));
    }
    let Some(index) = find(&packet.tuple) else { return Verdict::PASS };
    for _ in 0..TRIES {
        match select(&KernelTables, index, packet.tuple.src_be) {
            Selection::Chosen(chosen) => match begin(&packet, &chosen) {
                Ok(to) => return apply(ctx, &packet, &to),
                Err(Reason::FlowCollision) => {}
                Err(reason) => return Verdict::drop(reason),
            },
            Selection::Refuse => return refuse(ctx, &packet),
            Selection::Drop(reason) => return Verdict::drop(reason),
        }
    }
    Verdict::drop(Reason::FlowCollision)
}

#[inline(always)]
fn leaving(ctx: &TcContext) -> Verdict {
    let Some(packet) = parse(ctx, LEG_UPLINK_OUT) else { return icmp::translate(ctx, LEG_UPLINK_OUT) };
    match follow(&packet, LEG_UPLINK_OUT) {
        Some(flow) => apply(ctx, &packet, &packet.tuple.rewritten(&flow)),
        None => Verdict::PASS,
    }
}

#[inline(always)]
fn find(tuple: &Tuple) -> Option<u32> {
    if let Some(index) = frontend(tuple.dst_be, tuple.dport_be, tuple.proto, OUTSIDE) {
        return Some(index);
    }
    if is_node_address(tuple.dst_be) { frontend(0, tuple.dport_be, tuple.proto, OUTSIDE) } else { None }
}

/// Records a new flow: the ways back before the way there, so that no reply can come before its entry.
#[inline(always)]
fn begin(packet: &Packet, chosen: &Chosen) -> Result<Tuple, Reason> {
    let now = ticks();
    let elsewhere = chosen.flags & MASQUERADE != 0 && chosen.backend.flags() & LOCAL == 0;
    let node_be = (settings().flags_and_uplink >> 32) as u32;
    if elsewhere && node_be == 0 {
        return Err(Reason::NoNodeAddress);
    }
    let (there, back) = nat::outside(packet.tuple, chosen, now);
    claim(&back)?;
    if elsewhere {
        masquerade(packet, chosen, now, node_be)?;
    }
    record(&there)?;
    count_connection(chosen.service);
    Ok(packet.tuple.rewritten(&there.flow))
}

/// A backend elsewhere must answer to this node, which alone knows the client's view.
#[inline(always)]
fn masquerade(packet: &Packet, chosen: &Chosen, now: u32, node_be: u32) -> Result<(), Reason> {
    for attempt in 0..PORT_TRIES {
        let port_be = nat::snat_port(packet.tuple, attempt);
        let (exit, reply) = nat::masqueraded(packet.tuple, chosen, now, node_be, port_be);
        if claim_port(&reply) {
            return record(&exit);
        }
    }
    Err(Reason::SnatExhausted)
}

#[inline(always)]
fn apply(ctx: &TcContext, packet: &Packet, to: &Tuple) -> Verdict {
    match rewrite(ctx, packet, to) {
        Some(()) => Verdict::PASS,
        None => Verdict::drop(Reason::RewriteFailed),
    }
}
