//! Admission: whether network policy lets a packet pass at its pod's interface.
//!
//! In: the pod's policy word, the packet with the ends that it has on the wire between pod and peer (after the translation of
//! services on its way out, before it on its way in), and the entry of its flow where there is one. Out: pass, or the
//! reason of the drop. Flows are recorded here for pods that a policy isolates, and for no others: without one nothing is
//! looked up and nothing written.
//!
//! A flow belongs to who began it, and only that direction's set is asked. What comes back passes while the flow is alive
//! and still allowed. An entry says by which revision of the pod's word it was last allowed; at another one the question
//! is asked again. Revision 0 allows nothing: it is what entries have that nobody asked about.
//!
//! Never: a pass because something is missing or full.

use crate::{
    abi::{
        FLOW_BACK, FLOW_CLOSING, FLOW_REVISION, FLOW_UNTRANSLATED, Flow, LEG_FROM_POD, LEG_TO_POD, Reason,
        TCP,
    },
    family::Family,
    flows::{Element, Found, Maps, claim, find, touch},
    nat::{ACK, RST, SYN, Tuple, other_way, over, untranslated},
    parse::{Kind, Packet},
    policy::{Denial, Policies, PolicyWord, Target, Verdict, verdict},
};

/// Counters of what would have been dropped.
pub trait Audits {
    /// Counts one packet or flow that passes because all policies of its pod only audit.
    fn count_audited(&self);
}

/// The maps of admission.
pub trait Guarded<A: Family>: Maps<A> + Policies<A> + Audits {}
impl<A: Family, M: Maps<A> + Policies<A> + Audits> Guarded<A> for M {}

/// Where a packet passes: both at the pod's own interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It leaves the pod.
    Out,
    /// It enters the pod.
    In,
}

impl Way {
    /// The hook's part of flow keys.
    #[inline(always)]
    pub const fn leg(self) -> u8 {
        match self {
            Self::Out => LEG_FROM_POD,
            Self::In => LEG_TO_POD,
        }
    }

    #[inline(always)]
    const fn other(self) -> Self {
        match self {
            Self::Out => Self::In,
            Self::In => Self::Out,
        }
    }
}

/// Who is at the other end, as far as it can be told without its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Somebody else.
    Other,
    /// The node itself made the packet.
    Node,
    /// The pod: the packet comes back to where it came from.
    Itself,
}

/// One packet at its pod's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passing<'a, A> {
    /// Which way.
    pub way: Way,
    /// The packet as it was read.
    pub packet: &'a Packet<A>,
    /// Its ends between pod and peer.
    pub outer: Tuple<A>,
    /// Who sent it, of what enters.
    pub origin: Origin,
    /// The entry that stands for the packet as it was read, as it was before this packet.
    pub flow: Option<Flow<A>>,
}

/// A packet that passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// As one of the flow of its entry, which is then alive.
    OfFlow,
    /// For itself: its entry, if it has one, is of a flow that is over or goes the other way.
    ForItself,
}

/// Judges a packet that is no ICMP error, and notes it in the entry of its flow when it passes as one of that.
#[inline(always)]
pub fn pass<A: Family, M: Guarded<A>>(
    maps: &M,
    word: PolicyWord,
    way: Way,
    packet: &Packet<A>,
    origin: Origin,
    found: Option<Found<M::Element, A>>,
) -> Result<(), Reason> {
    let flow = found.as_ref().map(|found| found.flow);
    let outer = match flow {
        Some(flow) if way == Way::Out => packet.tuple.rewritten(&flow),
        _ => packet.tuple,
    };
    let pass = admit(maps, word, &Passing { way, packet, outer, origin, flow })?;
    if let (Pass::OfFlow, Some(found)) = (pass, found) {
        // Its flags may have changed: they say by which word it is allowed.
        touch(maps, packet, way.leg(), &Found { flow: found.element.read(), ..found });
    }
    Ok(())
}

/// Whether the packet, which is no ICMP error, passes a pod with this word.
///
/// The entry must not have been touched for the packet before: what is dropped keeps no flow alive.
#[inline(always)]
pub fn admit<A: Family, M: Guarded<A>>(
    maps: &M,
    word: PolicyWord,
    passing: &Passing<'_, A>,
) -> Result<Pass, Reason> {
    let Passing { way, packet, outer, flow, .. } = *passing;
    if !word.isolates() || is_exempt(maps, passing) {
        return Ok(if flow.is_some() { Pass::OfFlow } else { Pass::ForItself });
    }
    if let Some(flow) = flow
        && carries(maps, passing, &flow)
    {
        if !is_fresh(word, &flow) {
            ask_of_flow(maps, word, way, &outer, &flow)?;
            allow(maps, packet.tuple, way, word);
        }
        return Ok(Pass::OfFlow);
    }
    ask(maps, word, way, &outer)?;
    // Without ports it is of no flow, and a service's entry is not ours to replace.
    if packet.kind != Kind::Lost && flow.is_none_or(|flow| flow.flags & FLOW_UNTRANSLATED != 0) {
        record(maps, word, way, packet.tuple)?;
    }
    Ok(Pass::ForItself)
}

/// Whether an ICMP error passes: as the flow does that it is about; about none, like any packet without ports. `reply` is
/// what the error stands for: the quoted packet turned round.
#[inline(always)]
pub fn admit_error<A: Family, M: Guarded<A>>(
    maps: &M,
    word: PolicyWord,
    passing: &Passing<'_, A>,
    reply: Option<Tuple<A>>,
) -> Result<(), Reason> {
    if !word.isolates() || is_exempt(maps, passing) {
        return Ok(());
    }
    let way = passing.way;
    if let Some(reply) = reply
        && let Some((_, flow)) = find(maps, &reply.key(way.leg()))
        && is_alive(maps, reply, &flow, way)
    {
        let outer = if way == Way::Out { reply.rewritten(&flow) } else { reply };
        if is_fresh(word, &flow) || ask_of_flow(maps, word, way, &outer, &flow).is_ok() {
            return Ok(());
        }
    }
    ask(maps, word, way, &passing.outer)
}

/// The pod itself, its own node in both directions, and who is where on the link.
#[inline(always)]
fn is_exempt<A: Family, M: Maps<A>>(maps: &M, passing: &Passing<'_, A>) -> bool {
    if A::LINK_IS_ICMP && passing.packet.kind == Kind::Link {
        return true;
    }
    match (passing.way, passing.origin) {
        (_, Origin::Itself) => true,
        // Both: another's packets may carry the node's address, and the node may carry another's.
        (Way::In, Origin::Node) => maps.is_node_address(passing.outer.src_be),
        (Way::In, Origin::Other) => false,
        (Way::Out, _) => maps.is_node_address(passing.outer.dst_be),
    }
}

/// Which way the flow was begun that has this entry at the hook of `way`.
#[inline(always)]
fn begun<A>(flow: &Flow<A>, way: Way) -> Way {
    if flow.flags & FLOW_UNTRANSLATED == 0 {
        // Services are for those who leave.
        return Way::Out;
    }
    if flow.flags & FLOW_BACK == 0 { way } else { way.other() }
}

/// Whether the packet is one of the flow's. One that begins a connection is not when the flow was begun the other way or
/// is about to end.
#[inline(always)]
fn carries<A: Family, M: Maps<A>>(maps: &M, passing: &Passing<'_, A>, flow: &Flow<A>) -> bool {
    let Passing { way, packet, .. } = *passing;
    let begins = packet.tuple.proto == TCP && packet.tcp_flags & (SYN | ACK | RST) == SYN;
    if begins && (begun(flow, way) != way || flow.flags & FLOW_CLOSING != 0) {
        return false;
    }
    is_alive(maps, packet.tuple, flow, way)
}

/// Whether the flow of an entry for `tuple` is not over: either of its directions was used lately.
#[inline(always)]
fn is_alive<A: Family, M: Maps<A>>(maps: &M, tuple: Tuple<A>, flow: &Flow<A>, way: Way) -> bool {
    let now = maps.now();
    if !over(flow, tuple.proto, now) {
        return true;
    }
    let other = find(maps, &other_way(tuple, flow, way.leg()));
    other.is_some_and(|(_, other)| !over(&other, tuple.proto, now))
}

/// Allowed by the very word that the pod has.
#[inline(always)]
fn is_fresh<A>(word: PolicyWord, flow: &Flow<A>) -> bool {
    word.revision != 0 && flow.revision() == word.revision
}

/// Asks about the flow that a packet with these ends belongs to, in the direction that it was begun.
#[inline(always)]
fn ask_of_flow<A: Family, M: Guarded<A>>(
    maps: &M,
    word: PolicyWord,
    way: Way,
    outer: &Tuple<A>,
    flow: &Flow<A>,
) -> Result<(), Reason> {
    let begun = begun(flow, way);
    let forward = if begun == way { *outer } else { outer.reversed() };
    ask(maps, word, begun, &forward)
}

/// Asks the set of a direction about a flow with these ends, as who began it sends.
#[inline(always)]
fn ask<A: Family, M: Guarded<A>>(
    maps: &M,
    word: PolicyWord,
    begun: Way,
    forward: &Tuple<A>,
) -> Result<(), Reason> {
    let (set, peer) = match begun {
        Way::Out => (word.egress, forward.dst_be),
        Way::In => (word.ingress, forward.src_be),
    };
    // An ICMP query's ports are its identifier.
    let port_be = if forward.proto == A::ICMP { 0 } else { forward.dport_be };
    match verdict(maps, set, peer, Target { proto: forward.proto, port_be }) {
        Verdict::Open | Verdict::Allowed(_) => Ok(()),
        Verdict::Audited => {
            maps.count_audited();
            Ok(())
        }
        Verdict::Denied(Denial::NotAllowed) => Err(Reason::Policy),
        Verdict::Denied(Denial::NotKnown) => Err(Reason::PolicyNotKnown),
        Verdict::Denied(Denial::NoSet) => Err(Reason::NoPolicySet),
    }
}

/// Writes into the entry of a flow by what it is allowed.
#[inline(always)]
fn allow<A: Family, M: Maps<A>>(maps: &M, tuple: Tuple<A>, way: Way, word: PolicyWord) {
    if let Some((element, flow)) = find(maps, &tuple.key(way.leg())) {
        let flags = flow.flags & ((1 << FLOW_REVISION) - 1);
        element.set_flags(flags | (word.revision as u32) << FLOW_REVISION);
    }
}

/// Records an allowed flow: the way back before the way there. Where a service's flow has the way back, its entry
/// carries what comes back, and this one is asked about packet by packet.
#[inline(always)]
fn record<A: Family, M: Maps<A>>(
    maps: &M,
    word: PolicyWord,
    way: Way,
    tuple: Tuple<A>,
) -> Result<(), Reason> {
    let Some(scratch) = maps.scratch() else { return Err(Reason::FlowTableFull) };
    let (there, back) = untranslated(tuple, way.leg(), maps.now(), word.revision);
    scratch.there.set(there);
    scratch.back.set(back);
    match claim(maps, &scratch.back) {
        Ok(()) => maps.put_flow(&scratch.there),
        Err(Reason::FlowCollision) => Ok(()),
        Err(reason) => Err(reason),
    }
}

#[cfg(test)]
mod tests;
