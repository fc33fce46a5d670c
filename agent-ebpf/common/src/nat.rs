//! Flows of the packet path: which entries a choice of backend makes, and when a choice holds.
//!
//! Each hook rewrites with one entry. A pod's flow is undone where it was done, at the pod's own interface. A
//! flow from outside is rewritten in two halves, on entry (destination) and on exit (source), so that the
//! stack in between routes ordinary packets, and never one with its own address as the source.

use crate::{
    abi::{
        FLOW_BACK, FLOW_CHOICE, FLOW_CLOSING, FLOW_HAIRPIN, FLOW_REVISION, FLOW_UNTRANSLATED, FLOW_USED,
        Flow, FlowKey, LEG_FROM_POD, LEG_TO_POD, LEG_UPLINK_IN, LEG_UPLINK_OUT, SNAT_PORTS, TCP,
    },
    family::Family,
    select::Chosen,
    tag::mix,
    words::ticks,
};

/// Addresses and ports of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple<A> {
    /// Source address.
    pub src_be: A,
    /// Destination address.
    pub dst_be: A,
    /// Source port.
    pub sport_be: u16,
    /// Destination port.
    pub dport_be: u16,
    /// Protocol.
    pub proto: u8,
}

impl<A: Family> Tuple<A> {
    /// The tuple of a reply.
    #[must_use]
    #[inline(always)]
    pub fn reversed(self) -> Self {
        Self {
            src_be: self.dst_be,
            dst_be: self.src_be,
            sport_be: self.dport_be,
            dport_be: self.sport_be,
            proto: self.proto,
        }
    }

    /// The key of this tuple at a hook.
    #[inline(always)]
    pub fn key(self, leg: u8) -> FlowKey<A> {
        FlowKey {
            src_be: self.src_be,
            dst_be: self.dst_be,
            sport_be: self.sport_be,
            dport_be: self.dport_be,
            proto: self.proto,
            leg,
            pad: 0,
        }
    }

    /// What `flow` makes of it.
    #[must_use]
    #[inline(always)]
    pub fn rewritten(self, flow: &Flow<A>) -> Self {
        Self {
            src_be: flow.src_be,
            dst_be: flow.dst_be,
            sport_be: flow.sport_be,
            dport_be: flow.dport_be,
            proto: self.proto,
        }
    }
}

/// One entry of the flow table.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<A> {
    /// Key.
    pub key: FlowKey<A>,
    /// Value.
    pub flow: Flow<A>,
}

/// A digest of the key, to notice an element that was recycled while it was read.
#[inline(always)]
pub fn tag<A: Family>(key: &FlowKey<A>) -> u32 {
    let ports = (key.sport_be as u64) << 16 | key.dport_be as u64;
    let rest = ports << 32 | (key.proto as u64) << 8 | key.leg as u64;
    mix(key.dst_be.mix(key.src_be.mix(0)), rest) as u32
}

#[inline(always)]
fn entry<A: Family>(
    from: Tuple<A>,
    leg: u8,
    to: Tuple<A>,
    chosen: &Chosen<A>,
    now: u32,
    flags: u32,
) -> Entry<A> {
    let key = from.key(leg);
    Entry {
        key,
        flow: Flow {
            src_be: to.src_be,
            dst_be: to.dst_be,
            sport_be: to.sport_be,
            dport_be: to.dport_be,
            handle: chosen.handle.0,
            last: now,
            flags,
            service: chosen.service,
            tag: tag(&key),
        },
    }
}

impl<A> Flow<A> {
    /// Of what the flow was last allowed by; 0 when nothing was asked.
    #[inline(always)]
    pub const fn revision(&self) -> u16 {
        (self.flags >> FLOW_REVISION) as u16
    }
}

/// The two entries of a flow that is not translated, first seen at the hook `leg`: replies pass the other of the same
/// interface. Until an interface has a policy, nobody asks for them.
#[inline(always)]
pub fn untranslated<A: Family>(packet: Tuple<A>, leg: u8, now: u32, revision: u16) -> (Entry<A>, Entry<A>) {
    let allowed = FLOW_UNTRANSLATED | (revision as u32) << FLOW_REVISION;
    let entry = |tuple: Tuple<A>, leg, flags| {
        let key = tuple.key(leg);
        let Tuple { src_be, dst_be, sport_be, dport_be, .. } = tuple;
        let tag = tag(&key);
        Entry {
            key,
            flow: Flow { src_be, dst_be, sport_be, dport_be, handle: 0, last: now, flags, service: 0, tag },
        }
    };
    (entry(packet, leg, allowed), entry(packet.reversed(), leg ^ 1, allowed | FLOW_BACK))
}

/// The two entries of a pod's flow: the way there, and the way back.
#[inline(always)]
pub fn pod<A: Family>(packet: Tuple<A>, chosen: &Chosen<A>, now: u32) -> (Entry<A>, Entry<A>) {
    let mut there = Tuple { dst_be: chosen.addr_be, dport_be: chosen.backend.port_be(), ..packet };
    let hairpin = there.dst_be == packet.src_be;
    // The pod would drop a packet from itself; and its reply leaves by the hook that the request left by.
    let (back_leg, flags) = if hairpin {
        there.src_be = A::HAIRPIN;
        (LEG_FROM_POD, FLOW_HAIRPIN)
    } else {
        (LEG_TO_POD, 0)
    };
    (
        entry(packet, LEG_FROM_POD, there, chosen, now, flags | FLOW_CHOICE),
        entry(there.reversed(), back_leg, packet.reversed(), chosen, now, flags),
    )
}

/// The two entries of a flow from outside to a backend whose replies pass this node anyway.
#[inline(always)]
pub fn outside<A: Family>(packet: Tuple<A>, chosen: &Chosen<A>, now: u32) -> (Entry<A>, Entry<A>) {
    let there = Tuple { dst_be: chosen.addr_be, dport_be: chosen.backend.port_be(), ..packet };
    (
        entry(packet, LEG_UPLINK_IN, there, chosen, now, FLOW_CHOICE),
        entry(there.reversed(), LEG_UPLINK_OUT, packet.reversed(), chosen, now, 0),
    )
}

/// The further two entries when the backend is on another node and must answer to this one: the exit that puts
/// this node's address and `port_be` on the request, and the entry of the reply that takes them off again. The
/// latter's key is what a port is claimed by.
#[inline(always)]
pub fn masqueraded<A: Family>(
    packet: Tuple<A>,
    chosen: &Chosen<A>,
    now: u32,
    node_be: A,
    port_be: u16,
) -> (Entry<A>, Entry<A>) {
    let there = Tuple { dst_be: chosen.addr_be, dport_be: chosen.backend.port_be(), ..packet };
    let disguised = Tuple { src_be: node_be, sport_be: port_be, ..there };
    (
        entry(there, LEG_UPLINK_OUT, disguised, chosen, now, 0),
        entry(disguised.reversed(), LEG_UPLINK_IN, there.reversed(), chosen, now, 0),
    )
}

/// The `attempt`th source port to try for a flow.
#[inline(always)]
pub fn snat_port<A: Family>(packet: Tuple<A>, attempt: u32) -> u16 {
    let span = (SNAT_PORTS.1 - SNAT_PORTS.0) as u32 + 1;
    let start = tag(&packet.key(LEG_UPLINK_OUT)).wrapping_add(attempt.wrapping_mul(2_654_435_761));
    // The high half of the product: uniform without a division.
    (SNAT_PORTS.0 + ((start as u64 * span as u64) >> 32) as u16).to_be()
}

/// TCP flags that matter here.
pub const FIN: u8 = 0x01;
/// See [`FIN`].
pub const SYN: u8 = 0x02;
/// See [`FIN`].
pub const RST: u8 = 0x04;
/// See [`FIN`].
pub const ACK: u8 = 0x10;

/// Idle datagram flows may choose again: conntrack's timeout for a stream of datagrams.
const UDP_IDLE: u32 = ticks(120);
/// A SYN on an entry idle for this long is a new connection that reuses the port.
const TCP_IDLE: u32 = ticks(60);
/// A flow is over, with conntrack's times: after its end, without an answer, and when it has an answer and goes quiet.
const CLOSING_IDLE: u32 = ticks(10);
const UNANSWERED_IDLE: u32 = ticks(60);
const ESTABLISHED_IDLE: u32 = ticks(6 * 3600);

/// Whether an entry that carries a choice still stands for this packet. `alive` tells whether the backend takes
/// new connections.
#[inline(always)]
pub fn stands<A: Family>(flow: &Flow<A>, proto: u8, tcp_flags: u8, now: u32, alive: bool) -> bool {
    let idle = idle(flow, now);
    if proto != TCP {
        // A dead backend is left at once, which connected sockets could not do.
        return alive && idle < UDP_IDLE;
    }
    if tcp_flags & (SYN | ACK) != SYN {
        // Established connections drain, whatever became of the backend.
        return true;
    }
    // A retransmitted SYN keeps its backend; one on a closed or long idle entry is a new connection.
    alive && flow.flags & FLOW_CLOSING == 0 && idle < TCP_IDLE
}

/// Whether an entry in the way of a new one belongs to a flow that is over. It is the way back: used as soon as the
/// other side has answered.
#[inline(always)]
pub fn over<A: Family>(flow: &Flow<A>, proto: u8, now: u32) -> bool {
    let limit = match (flow.flags & FLOW_CLOSING != 0, flow.flags & FLOW_USED != 0, proto) {
        (true, _, _) => CLOSING_IDLE,
        (_, false, _) => UNANSWERED_IDLE,
        (_, true, TCP) => ESTABLISHED_IDLE,
        (_, true, _) => UDP_IDLE,
    };
    idle(flow, now) >= limit
}

/// Ticks since the last packet. Another processor may have seen one after this one read the clock.
#[inline(always)]
fn idle<A: Family>(flow: &Flow<A>, now: u32) -> u32 {
    let idle = now.wrapping_sub(flow.last);
    if idle > u32::MAX / 2 { 0 } else { idle }
}

/// The key of the entry that undoes what `flow` does to `packet` at the hook `leg`.
#[inline(always)]
pub fn other_way<A: Family>(packet: Tuple<A>, flow: &Flow<A>, leg: u8) -> FlowKey<A> {
    // A pod that reaches itself has both ways at one hook; else they are the two of a pair.
    let leg = if flow.flags & FLOW_HAIRPIN != 0 { leg } else { leg ^ 1 };
    packet.rewritten(flow).reversed().key(leg)
}

#[cfg(test)]
mod tests;
