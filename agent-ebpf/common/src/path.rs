//! Services per packet: what each hook does with a packet that passes it.
//!
//! For pods: datagrams always, TCP when the socket path did not translate (sandboxes without a socket on this kernel,
//! processes outside the cgroup, the switch in the configuration). What is done at a pod's interface is undone there.
//! For clients outside, at the uplink: NodePorts, external and load balancer addresses. Destinations change on entry,
//! sources on exit; the stack in between routes. Before anything else, what leaves a pod must be in the pod's own name.

use crate::{
    abi::{
        FLOW_HAIRPIN, FLOW_UNTRANSLATED, Flow, INSIDE, LEG_FROM_POD, LEG_TO_POD, LEG_UPLINK_IN,
        LEG_UPLINK_OUT, OUTSIDE, Reason,
    },
    errors::{quote, retell},
    family::{Family, Ip, V4},
    flows::{self, Maps, Scratch, claim, claim_port, follow},
    guard::{self, Drops, Ends},
    nat::{self, Tuple},
    parse::{Kind, Packet, parse},
    reply::refuse,
    rewrite::rewrite,
    select::{Chosen, Selection, frontend, select},
    wire::{ETHERNET, Wire, swap_ethernet},
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
    match A::ip(wire, ETHERNET) {
        Some(ip) if guard::is_its_own(wire, maps, &ip) => starting(wire, maps, &ip, Way::Inside),
        _ => drop(maps, Reason::Spoofed),
    }
}

/// What leaves a pod in a family without services. A function of its own: extension headers have many paths.
#[inline(never)]
pub fn plain_from_pod<A: Family, W: Wire, M: Ends<A>>(wire: &W, maps: &M) -> Verdict {
    match A::ip(wire, ETHERNET) {
        Some(ip) if guard::is_its_own(wire, maps, &ip) => Verdict::Pass,
        _ => drop(maps, Reason::Spoofed),
    }
}

/// ARP that leaves a pod.
#[inline(always)]
pub fn arp_from_pod<W: Wire, M: Ends<V4>>(wire: &W, maps: &M) -> Verdict {
    if guard::claims_its_own(wire, maps) { Verdict::Pass } else { drop(maps, Reason::Spoofed) }
}

/// Any other frame that leaves a pod: whose it is cannot be told. Were it let through, the kernel would take off two VLAN
/// tags without a number and deliver what is within, which no program has seen.
#[inline(always)]
pub fn other_from_pod<M: Drops>(maps: &M) -> Verdict {
    drop(maps, Reason::Spoofed)
}

/// What enters a pod.
#[inline(always)]
pub fn to_pod<A: Family, W: Wire, M: Maps<A>>(wire: &W, maps: &M) -> Verdict {
    undoing(wire, maps, LEG_TO_POD)
}

/// What enters by the uplink.
#[inline(always)]
pub fn uplink_in<A: Family, W: Wire, M: Maps<A>>(wire: &W, maps: &M) -> Verdict {
    match A::ip(wire, ETHERNET) {
        Some(ip) => starting(wire, maps, &ip, Way::Outside),
        None => Verdict::Pass,
    }
}

/// What leaves by the uplink.
#[inline(always)]
pub fn uplink_out<A: Family, W: Wire, M: Maps<A>>(wire: &W, maps: &M) -> Verdict {
    undoing(wire, maps, LEG_UPLINK_OUT)
}

/// By which way a flow comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// From a pod.
    Inside,
    /// By the uplink.
    Outside,
}

/// At the hooks that flows start at.
#[inline(always)]
fn starting<A: Family, W: Wire, M: Maps<A>>(wire: &W, maps: &M, ip: &Ip<A>, way: Way) -> Verdict {
    let (leg, scope) = match way {
        Way::Inside => (LEG_FROM_POD, INSIDE),
        Way::Outside => (LEG_UPLINK_IN, OUTSIDE),
    };
    let packet = match served(wire, maps, ip, leg) {
        Ok(packet) => packet,
        Err(verdict) => return verdict,
    };
    if let Some(flow) = follow(maps, &packet, leg) {
        return forward(wire, maps, &packet, &flow);
    }
    let Tuple { dst_be, dport_be, proto, .. } = packet.tuple;
    let Some(index) = frontend(maps, dst_be, dport_be, proto, scope, false) else { return Verdict::Pass };
    let Some(scratch) = maps.scratch() else { return drop(maps, Reason::FlowTableFull) };
    // From here on the packet is read from a map: whatever way through its headers led here, the verifier has the same to
    // look at, once.
    scratch.packet.set(packet);
    for _ in 0..TRIES {
        match begin(maps, index, way) {
            Begun::Flow => return forward(wire, maps, &scratch.packet.get(), &scratch.there.get().flow),
            Begun::Collision => {}
            Begun::Refused if refuse(wire, &scratch.packet.get()).is_some() => return Verdict::Back,
            Begun::Refused | Begun::Dropped => return Verdict::Drop,
        }
    }
    drop(maps, Reason::FlowCollision)
}

/// At the hooks that flows only pass.
#[inline(always)]
fn undoing<A: Family, W: Wire, M: Maps<A>>(wire: &W, maps: &M, leg: u8) -> Verdict {
    let Some(ip) = A::ip(wire, ETHERNET) else { return Verdict::Pass };
    let packet = match served(wire, maps, &ip, leg) {
        Ok(packet) => packet,
        Err(verdict) => return verdict,
    };
    match follow(maps, &packet, leg) {
        Some(flow) => forward(wire, maps, &packet, &flow),
        None => Verdict::Pass,
    }
}

/// The packet, when services are made of its kind; else what becomes of it.
#[inline(always)]
fn served<A: Family, W: Wire, M: Maps<A>>(
    wire: &W,
    maps: &M,
    ip: &Ip<A>,
    leg: u8,
) -> Result<Packet<A>, Verdict> {
    let Some(packet) = parse(wire, maps, ip, leg) else { return Err(Verdict::Pass) };
    if packet.is_served() {
        return Ok(packet);
    }
    Err(if packet.kind == Kind::Error { translate_error(wire, maps, &packet, leg) } else { Verdict::Pass })
}

/// What became of a packet that belonged to no flow; counted, but for a collision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    /// Its flow is recorded; the way there is still in the scratch.
    Flow,
    /// The drawn backend's way back is another flow's: another may be free.
    Collision,
    /// Nobody is there.
    Refused,
    /// It may not or cannot be served.
    Dropped,
}

/// Draws a backend for the packet in the scratch, which belongs to no flow, and records the new flow. A function of its own
/// to the kernel: with a part of the stack for itself, and with its paths not multiplied by its caller's.
#[inline(never)]
fn begin<A: Family, M: Maps<A>>(maps: &M, index: u32, way: Way) -> Begun {
    let fail = |reason| {
        maps.count_drop(reason);
        Begun::Dropped
    };
    let Some(scratch) = maps.scratch() else { return fail(Reason::FlowTableFull) };
    let packet = &scratch.packet.get();
    // A pod's source is its own by now.
    let chosen = match select(maps, index, || packet.tuple.src_be) {
        Selection::Chosen(chosen) => chosen,
        Selection::Refuse => {
            maps.count_drop(Reason::NoEndpoint);
            return Begun::Refused;
        }
        Selection::Drop(reason) => return fail(reason),
    };
    let recorded = match way {
        Way::Inside => leave(maps, scratch, packet, &chosen),
        Way::Outside => enter(maps, scratch, packet, &chosen),
    };
    match recorded {
        Ok(()) => {
            maps.count_connection(chosen.service);
            Begun::Flow
        }
        Err(Reason::FlowCollision) => Begun::Collision,
        Err(reason) => fail(reason),
    }
}

/// Records a pod's flow: the way back before the way there, so that no reply can come before its entry.
#[inline(always)]
fn leave<A: Family, M: Maps<A>>(
    maps: &M,
    scratch: &Scratch<A>,
    packet: &Packet<A>,
    chosen: &Chosen<A>,
) -> Result<(), Reason> {
    let (there, back) = nat::pod(packet.tuple, chosen, maps.now());
    scratch.there.set(there);
    scratch.back.set(back);
    claim(maps, &scratch.back)?;
    maps.put_flow(&scratch.there)
}

/// Records a flow from outside: the ways back before the way there.
#[inline(always)]
fn enter<A: Family, M: Maps<A>>(
    maps: &M,
    scratch: &Scratch<A>,
    packet: &Packet<A>,
    chosen: &Chosen<A>,
) -> Result<(), Reason> {
    let now = maps.now();
    let elsewhere = chosen.flags & MASQUERADE != 0 && chosen.backend.flags() & LOCAL == 0;
    let node = maps.node();
    if elsewhere && node == A::NONE {
        return Err(Reason::NoNodeAddress);
    }
    let (there, back) = nat::outside(packet.tuple, chosen, now);
    scratch.there.set(there);
    scratch.back.set(back);
    claim(maps, &scratch.back)?;
    if elsewhere {
        masquerade(maps, scratch, packet, chosen, now, node)?;
    }
    maps.put_flow(&scratch.there)
}

/// A backend elsewhere must answer to this node, which alone knows the client's view.
#[inline(always)]
fn masquerade<A: Family, M: Maps<A>>(
    maps: &M,
    scratch: &Scratch<A>,
    packet: &Packet<A>,
    chosen: &Chosen<A>,
    now: u32,
    node: A,
) -> Result<(), Reason> {
    for attempt in 0..PORT_TRIES {
        let port_be = nat::snat_port(packet.tuple, attempt);
        let (exit, reply) = nat::masqueraded(packet.tuple, chosen, now, node, port_be);
        scratch.exit.set(exit);
        scratch.reply.set(reply);
        if claim_port(maps, &scratch.reply) {
            return maps.put_flow(&scratch.exit);
        }
    }
    Err(Reason::SnatExhausted)
}

#[inline(always)]
fn forward<A: Family, W: Wire, M: Maps<A>>(
    wire: &W,
    maps: &M,
    packet: &Packet<A>,
    flow: &Flow<A>,
) -> Verdict {
    if rewrite(wire, packet, &packet.tuple.rewritten(flow)).is_none() {
        return drop(maps, Reason::RewriteFailed);
    }
    if flow.flags & FLOW_HAIRPIN == 0 {
        return Verdict::Pass;
    }
    match swap_ethernet(wire) {
        Some(()) => Verdict::Back,
        None => drop(maps, Reason::RewriteFailed),
    }
}

/// Translates an error at the hook `leg`. A function of its own, as [`begin`].
#[inline(never)]
fn translate_error<A: Family, W: Wire, M: Maps<A>>(
    wire: &W,
    maps: &M,
    packet: &Packet<A>,
    leg: u8,
) -> Verdict {
    let Some(quote) = quote(wire, packet) else { return Verdict::Pass };
    let Some((_, flow)) = flows::find(maps, &quote.reply.key(leg)) else { return Verdict::Pass };
    // What a pod says to itself is not routed, and what is not translated (all questions of ICMP) is as it was sent.
    if flow.flags & (FLOW_HAIRPIN | FLOW_UNTRANSLATED) != 0 {
        return Verdict::Pass;
    }
    match retell(wire, &quote, &quote.reply.rewritten(&flow)) {
        Some(()) => Verdict::Pass,
        None => drop(maps, Reason::RewriteFailed),
    }
}

#[inline(always)]
fn drop<M: Drops>(maps: &M, reason: Reason) -> Verdict {
    maps.count_drop(reason);
    Verdict::Drop
}

#[cfg(test)]
mod tests;
