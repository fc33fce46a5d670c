//! The flow tables: following an entry, and making the entries of a new choice.

use core::cell::Cell;

use crate::{
    abi::{FLOW_CHOICE, FLOW_CLOSING, FLOW_USED, Flow, FlowKey, Reason, TCP},
    family::Family,
    guard::Ends,
    nat::{Entry, FIN, RST, other_way, over, stands, tag},
    parse::{Fragments, Packet},
    select::Tables,
    words::Handle,
};

/// An element of a flow table. It may be recycled at any time, which the tag of what is read shows.
pub trait Element<A> {
    /// All of it.
    fn read(&self) -> Flow<A>;
    /// Notes the tick of a packet.
    fn set_last(&self, last: u32);
    /// Replaces the flags.
    fn set_flags(&self, flags: u32);
}

/// Where a packet and the entries of its new flow are put together: a program has 512 bytes of stack. Nobody else uses it while a hook
/// runs.
#[repr(C)]
pub struct Scratch<A> {
    /// The packet.
    pub packet: Cell<Packet<A>>,
    /// The way there.
    pub there: Cell<Entry<A>>,
    /// The way back.
    pub back: Cell<Entry<A>>,
    /// In this node's name.
    pub exit: Cell<Entry<A>>,
    /// The reply to that.
    pub reply: Cell<Entry<A>>,
}

/// The maps of the packet path.
pub trait Maps<A: Family>: Tables<A> + Fragments<A> + Ends<A> {
    /// What [`Maps::flow`] finds.
    type Element: Element<A>;
    /// The element of a flow.
    fn flow(&self, key: &FlowKey<A>) -> Option<Self::Element>;
    /// Adds the entry of a flow, if there is none.
    fn add_flow(&self, entry: &Cell<Entry<A>>) -> Result<(), Reason>;
    /// Writes the entry of a flow. Replacing one is safe here: readers compare tags, and a miss only chooses again.
    fn put_flow(&self, entry: &Cell<Entry<A>>) -> Result<(), Reason>;
    /// See [`Scratch`].
    fn scratch(&self) -> Option<&Scratch<A>>;
    /// The node's own address for packets in its name.
    fn node(&self) -> A;
    /// Counts a new connection or flow of a service.
    fn count_connection(&self, service: u32);
}

/// The entry of `key`.
#[inline(always)]
pub fn find<A: Family, M: Maps<A>>(maps: &M, key: &FlowKey<A>) -> Option<(M::Element, Flow<A>)> {
    let element = maps.flow(key)?;
    let flow = element.read();
    (flow.tag == tag(key)).then_some((element, flow))
}

/// An entry that stands for a packet.
pub struct Found<E, A> {
    /// Its element.
    pub element: E,
    /// What that held.
    pub flow: Flow<A>,
    /// When.
    pub now: u32,
}

/// The entry for a packet, when there is one and it still stands; the packet is noted in it.
#[inline(always)]
pub fn follow<A: Family, M: Maps<A>>(maps: &M, packet: &Packet<A>, leg: u8) -> Option<Flow<A>> {
    let found = look(maps, packet, leg)?;
    touch(maps, packet, leg, &found);
    Some(found.flow)
}

/// The entry for a packet, when there is one and it still stands.
#[inline(always)]
pub fn look<A: Family, M: Maps<A>>(maps: &M, packet: &Packet<A>, leg: u8) -> Option<Found<M::Element, A>> {
    let (element, flow) = find(maps, &packet.tuple.key(leg))?;
    let now = maps.now();
    if flow.flags & FLOW_CHOICE != 0 {
        let handle = Handle(flow.handle);
        let alive = maps.backend(handle.index()).is_some_and(|backend| backend.alive(handle));
        if !stands(&flow, packet.tuple.proto, packet.tcp_flags, now, alive) {
            return None;
        }
    }
    Some(Found { element, flow, now })
}

/// Notes a packet in its entry.
#[inline(always)]
pub fn touch<A: Family, M: Maps<A>>(maps: &M, packet: &Packet<A>, leg: u8, found: &Found<M::Element, A>) {
    let Found { element, flow, now } = found;
    let closes = packet.tuple.proto == TCP && packet.tcp_flags & (FIN | RST) != 0;
    let flags = flow.flags | FLOW_USED | if closes { FLOW_CLOSING } else { 0 };
    // Should the element have been recycled, another flow looks a little younger or, at worst, closing, which only
    // matters to its next SYN.
    if flow.last != *now {
        element.set_last(*now);
    }
    if flow.flags != flags {
        element.set_flags(flags);
    }
    if closes && flow.flags & FLOW_CLOSING == 0 {
        close(maps, &other_way(packet.tuple, flow, leg));
    }
}

/// The end of a connection is seen on one way only when it is a reset: the other way, which may own a port, is told.
#[inline(always)]
fn close<A: Family, M: Maps<A>>(maps: &M, key: &FlowKey<A>) {
    if let Some((element, flow)) = find(maps, key) {
        element.set_flags(flow.flags | FLOW_CLOSING);
    }
}

/// Takes the way back, which decides whether a choice is possible: two flows of one client that are one on the
/// wire cannot both have it. The same flow seen by two processors at once may.
#[inline(always)]
pub fn claim<A: Family, M: Maps<A>>(maps: &M, staged: &Cell<Entry<A>>) -> Result<(), Reason> {
    if maps.add_flow(staged).is_ok() {
        return Ok(());
    }
    let Some(taken) = maps.flow(&staged.get().key) else { return Err(Reason::FlowTableFull) };
    let (taken, entry) = (taken.read(), staged.get());
    if !same(&taken, &entry.flow)
        && taken.tag == entry.flow.tag
        && !over(&taken, entry.key.proto, entry.flow.last)
    {
        return Err(Reason::FlowCollision);
    }
    maps.put_flow(staged)
}

/// Takes the way back of a masqueraded flow: a free one, that of a flow that is over, or its own from before.
#[inline(always)]
pub fn claim_port<A: Family, M: Maps<A>>(maps: &M, staged: &Cell<Entry<A>>) -> bool {
    if maps.add_flow(staged).is_ok() {
        return true;
    }
    let Some(taken) = maps.flow(&staged.get().key) else { return false };
    let (taken, entry) = (taken.read(), staged.get());
    let free = same(&taken, &entry.flow) || over(&taken, entry.key.proto, entry.flow.last);
    free && maps.put_flow(staged).is_ok()
}

/// Both lead to the same place.
#[inline(always)]
fn same<A: Family>(a: &Flow<A>, b: &Flow<A>) -> bool {
    a.src_be == b.src_be && a.sport_be == b.sport_be && a.dst_be == b.dst_be && a.dport_be == b.dport_be
}
