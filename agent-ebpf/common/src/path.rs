//! Services per packet: what each hook does with a packet that passes it.
//!
//! For pods: datagrams always, TCP when the socket path did not translate (sandboxes without a socket on this kernel,
//! processes outside the cgroup, the switch in the configuration). What is done at a pod's interface is undone there.
//! For clients outside, at the uplink: NodePorts, external and load balancer addresses. Destinations change on entry,
//! sources on exit; the stack in between routes.

use crate::{
    abi::{FLOW_HAIRPIN, INSIDE, LEG_FROM_POD, LEG_TO_POD, LEG_UPLINK_IN, LEG_UPLINK_OUT, OUTSIDE, Reason},
    errors::{quote, retell},
    family::Family,
    flows::{self, Maps, claim, claim_port, follow},
    nat::{self, Tuple},
    parse::{Kind, Packet, parse},
    reply::refuse,
    rewrite::rewrite,
    select::{Chosen, Selection, frontend, select},
    wire::{Wire, swap_ethernet},
    words::{LOCAL, MASQUERADE},
};

/// Draws of a backend for one packet: another when the way back of the drawn one is taken.
const TRIES: usize = 3;
/// Source ports tried for one flow: with half the range taken, all are taken once in 65,536 times.
const PORT_TRIES: u32 = 16;

/// What becomes of a packet. Must be acted on: a verdict that is computed and dropped is the classic fault of such
/// programs.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// On its way. Programs and filters behind ours, which are somebody else's, have their say.
    Pass,
    /// Gone, and counted.
    Drop,
    /// Back out of the interface that it came in by.
    Back,
}

/// What leaves a pod.
#[inline(always)]
pub fn from_pod<A: Family, W: Wire, M: Maps<A>>(wire: &W, maps: &M) -> Verdict {
    let packet = match served(wire, maps, LEG_FROM_POD) {
        Ok(packet) => packet,
        Err(verdict) => return verdict,
    };
    if let Some(flow) = follow(maps, &packet, LEG_FROM_POD) {
        return forward(wire, maps, &packet, &packet.tuple.rewritten(&flow), flow.flags);
    }
    let Tuple { dst_be, dport_be, proto, .. } = packet.tuple;
    let Some(index) = frontend(maps, dst_be, dport_be, proto, INSIDE, false) else { return Verdict::Pass };
    choose(wire, maps, &packet, index, |chosen| {
        let (there, back) = nat::pod(packet.tuple, chosen, maps.now());
        // The way back first, so that no reply can come before its entry.
        claim(maps, &back)?;
        maps.put_flow(&there.key, &there.flow)?;
        Ok((packet.tuple.rewritten(&there.flow), there.flow.flags))
    })
}

/// What enters a pod.
#[inline(always)]
pub fn to_pod<A: Family, W: Wire, M: Maps<A>>(wire: &W, maps: &M) -> Verdict {
    undo(wire, maps, LEG_TO_POD)
}

/// What enters by the uplink.
#[inline(always)]
pub fn uplink_in<A: Family, W: Wire, M: Maps<A>>(wire: &W, maps: &M) -> Verdict {
    let packet = match served(wire, maps, LEG_UPLINK_IN) {
        Ok(packet) => packet,
        Err(verdict) => return verdict,
    };
    if let Some(flow) = follow(maps, &packet, LEG_UPLINK_IN) {
        return forward(wire, maps, &packet, &packet.tuple.rewritten(&flow), 0);
    }
    let Tuple { dst_be, dport_be, proto, .. } = packet.tuple;
    let Some(index) = frontend(maps, dst_be, dport_be, proto, OUTSIDE, false) else { return Verdict::Pass };
    choose(wire, maps, &packet, index, |chosen| Ok((enter(maps, &packet, chosen)?, 0)))
}

/// What leaves by the uplink.
#[inline(always)]
pub fn uplink_out<A: Family, W: Wire, M: Maps<A>>(wire: &W, maps: &M) -> Verdict {
    undo(wire, maps, LEG_UPLINK_OUT)
}

/// The packet, when services are made of its kind; else what becomes of it.
#[inline(always)]
fn served<A: Family, W: Wire, M: Maps<A>>(wire: &W, maps: &M, leg: u8) -> Result<Packet<A>, Verdict> {
    let Some(packet) = parse(wire, maps, leg) else { return Err(Verdict::Pass) };
    if packet.is_served() {
        return Ok(packet);
    }
    Err(if packet.kind == Kind::Error { translate_error(wire, maps, &packet, leg) } else { Verdict::Pass })
}

/// At the hooks that begin no flow.
#[inline(always)]
fn undo<A: Family, W: Wire, M: Maps<A>>(wire: &W, maps: &M, leg: u8) -> Verdict {
    let packet = match served(wire, maps, leg) {
        Ok(packet) => packet,
        Err(verdict) => return verdict,
    };
    match follow(maps, &packet, leg) {
        Some(flow) => forward(wire, maps, &packet, &packet.tuple.rewritten(&flow), 0),
        None => Verdict::Pass,
    }
}

/// Draws a backend for a packet that belongs to no flow; `begin` records the new flow and says what it makes of the
/// packet.
#[inline(always)]
fn choose<A: Family, W: Wire, M: Maps<A>>(
    wire: &W,
    maps: &M,
    packet: &Packet<A>,
    index: u32,
    begin: impl Fn(&Chosen<A>) -> Result<(Tuple<A>, u32), Reason>,
) -> Verdict {
    for _ in 0..TRIES {
        match select(maps, index, || packet.tuple.src_be) {
            Selection::Chosen(chosen) => match begin(&chosen) {
                Ok((to, flags)) => {
                    maps.count_connection(chosen.service);
                    return forward(wire, maps, packet, &to, flags);
                }
                Err(Reason::FlowCollision) => {}
                Err(reason) => return drop(maps, reason),
            },
            Selection::Refuse => {
                maps.count_drop(Reason::NoEndpoint);
                return if refuse(wire, packet).is_some() { Verdict::Back } else { Verdict::Drop };
            }
            Selection::Drop(reason) => return drop(maps, reason),
        }
    }
    drop(maps, Reason::FlowCollision)
}

/// Records a flow from outside: the ways back before the way there.
#[inline(always)]
fn enter<A: Family, M: Maps<A>>(
    maps: &M,
    packet: &Packet<A>,
    chosen: &Chosen<A>,
) -> Result<Tuple<A>, Reason> {
    let now = maps.now();
    let elsewhere = chosen.flags & MASQUERADE != 0 && chosen.backend.flags() & LOCAL == 0;
    let node = maps.node();
    if elsewhere && node == A::NONE {
        return Err(Reason::NoNodeAddress);
    }
    let (there, back) = nat::outside(packet.tuple, chosen, now);
    claim(maps, &back)?;
    if elsewhere {
        masquerade(maps, packet, chosen, now, node)?;
    }
    maps.put_flow(&there.key, &there.flow)?;
    Ok(packet.tuple.rewritten(&there.flow))
}

/// A backend elsewhere must answer to this node, which alone knows the client's view.
#[inline(always)]
fn masquerade<A: Family, M: Maps<A>>(
    maps: &M,
    packet: &Packet<A>,
    chosen: &Chosen<A>,
    now: u32,
    node: A,
) -> Result<(), Reason> {
    for attempt in 0..PORT_TRIES {
        let port_be = nat::snat_port(packet.tuple, attempt);
        let (exit, reply) = nat::masqueraded(packet.tuple, chosen, now, node, port_be);
        if claim_port(maps, &reply) {
            return maps.put_flow(&exit.key, &exit.flow);
        }
    }
    Err(Reason::SnatExhausted)
}

#[inline(always)]
fn forward<A: Family, W: Wire, M: Maps<A>>(
    wire: &W,
    maps: &M,
    packet: &Packet<A>,
    to: &Tuple<A>,
    flags: u32,
) -> Verdict {
    if rewrite(wire, packet, to).is_none() {
        return drop(maps, Reason::RewriteFailed);
    }
    if flags & FLOW_HAIRPIN == 0 {
        return Verdict::Pass;
    }
    match swap_ethernet(wire) {
        Some(()) => Verdict::Back,
        None => drop(maps, Reason::RewriteFailed),
    }
}

/// Translates an error at the hook `leg`.
#[inline(always)]
fn translate_error<A: Family, W: Wire, M: Maps<A>>(
    wire: &W,
    maps: &M,
    packet: &Packet<A>,
    leg: u8,
) -> Verdict {
    let Some(quote) = quote(wire, packet) else { return Verdict::Pass };
    let Some((_, flow)) = flows::find(maps, &quote.reply.key(leg)) else { return Verdict::Pass };
    // What a pod says to itself is not routed.
    if flow.flags & FLOW_HAIRPIN != 0 {
        return Verdict::Pass;
    }
    match retell(wire, &quote, &quote.reply.rewritten(&flow)) {
        Some(()) => Verdict::Pass,
        None => drop(maps, Reason::RewriteFailed),
    }
}

#[inline(always)]
fn drop<A: Family, M: Maps<A>>(maps: &M, reason: Reason) -> Verdict {
    maps.count_drop(reason);
    Verdict::Drop
}

#[cfg(test)]
mod tests;
