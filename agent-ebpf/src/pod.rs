//! Services per packet, for pods: datagrams always, TCP when the socket path did not translate (sandboxes
//! without a socket on this kernel, processes outside the cgroup, the switch in the configuration).
//! One program serves all pods. What is done at a pod's interface is undone there.

use agent_ebpf_common::{
    abi::{FLOW_HAIRPIN, INSIDE, LEG_FROM_POD, LEG_TO_POD, Reason},
    nat::{self, Tuple},
    select::{Chosen, Selection, select},
};
use aya_ebpf::{macros::classifier, programs::TcContext};

use crate::{
    answer::refuse,
    flows::{TRIES, claim, follow, record},
    icmp,
    maps::{KernelTables, count_connection, frontend, is_node_address, ticks},
    packet::{Packet, Verdict, parse, rewrite, swap_ethernet},
};

#[classifier]
pub(crate) fn from_pod(ctx: TcContext) -> i32 {
    leaving(&ctx).0
}

#[classifier]
pub(crate) fn to_pod(ctx: TcContext) -> i32 {
    entering(&ctx).0
}

#[inline(always)]
fn leaving(ctx: &TcContext) -> Verdict {
    let Some(packet) = parse(ctx, LEG_FROM_POD) else { return icmp::translate(ctx, LEG_FROM_POD) };
    if let Some(flow) = follow(&packet, LEG_FROM_POD) {
        return forward(ctx, &packet, &packet.tuple.rewritten(&flow), flow.flags);
    }
    let Some(index) = find(&packet.tuple) else { return Verdict::PASS };
    for _ in 0..TRIES {
        match select(&KernelTables, index, packet.tuple.src_be) {
            Selection::Chosen(chosen) => match begin(&packet, &chosen) {
                Ok((to, flags)) => return forward(ctx, &packet, &to, flags),
                Err(Reason::FlowCollision) => {}
                Err(reason) => return Verdict::drop(reason),
            },
            Selection::Refuse => return refuse(ctx, &packet),
            Selection::Drop(reason) => return Verdict::drop(reason),
        }
    }
    Verdict::drop(Reason::FlowCollision)
}

/// A cluster or external address, or a NodePort of this node.
#[inline(always)]
fn find(tuple: &Tuple) -> Option<u32> {
    if let Some(index) = frontend(tuple.dst_be, tuple.dport_be, tuple.proto, INSIDE) {
        return Some(index);
    }
    if is_node_address(tuple.dst_be) { frontend(0, tuple.dport_be, tuple.proto, INSIDE) } else { None }
}

/// Records a new flow, the way back first.
#[inline(always)]
fn begin(packet: &Packet, chosen: &Chosen) -> Result<(Tuple, u32), Reason> {
    let (there, back) = nat::pod(packet.tuple, chosen, ticks());
    claim(&back)?;
    record(&there)?;
    count_connection(chosen.service);
    Ok((packet.tuple.rewritten(&there.flow), there.flow.flags))
}

#[inline(always)]
fn forward(ctx: &TcContext, packet: &Packet, to: &Tuple, flags: u32) -> Verdict {
    if rewrite(ctx, packet, to).is_none() {
        return Verdict::drop(Reason::RewriteFailed);
    }
    if flags & FLOW_HAIRPIN == 0 {
        return Verdict::PASS;
    }
    match swap_ethernet(ctx) {
        Some(()) => Verdict::send_back(ctx),
        None => Verdict::drop(Reason::RewriteFailed),
    }
}

#[inline(always)]
fn entering(ctx: &TcContext) -> Verdict {
    let Some(packet) = parse(ctx, LEG_TO_POD) else { return icmp::translate(ctx, LEG_TO_POD) };
    let Some(flow) = follow(&packet, LEG_TO_POD) else { return Verdict::PASS };
    match rewrite(ctx, &packet, &packet.tuple.rewritten(&flow)) {
        Some(()) => Verdict::PASS,
        None => Verdict::drop(Reason::RewriteFailed),
    }
}
