//! The flow table: following an entry, and making the entries of a new choice.

use core::ptr::{addr_of_mut, read_volatile, write_volatile};

use agent_ebpf_common::{
    abi::{FLOW_CHOICE, FLOW_CLOSING, FLOW_USED, Flow, FlowKey, Reason, TCP},
    nat::{Entry, FIN, RST, other_way, over, stands, tag},
    select::Tables as _,
    words::Handle,
};
use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};

use crate::{
    maps::{KernelTables, flow, put_flow, ticks},
    packet::Packet,
};

/// Draws of a backend for one packet: another when the way back of the drawn one is taken.
pub(crate) const TRIES: usize = 3;

/// The entry for a packet, when there is one and it still stands.
#[inline(always)]
pub(crate) fn follow(packet: &Packet, leg: u8) -> Option<Flow> {
    let key = packet.tuple.key(leg);
    let entry = flow(&key)?;
    // SAFETY: an element of the map; it may be recycled meanwhile, which the tag shows.
    let flow = unsafe { read_volatile(entry) };
    if flow.tag != tag(&key) {
        return None;
    }
    let now = ticks();
    if flow.flags & FLOW_CHOICE != 0 {
        let handle = Handle(flow.handle);
        let alive = KernelTables.backend(handle.index()).is_some_and(|backend| backend.alive(handle));
        if !stands(&flow, packet.tuple.proto, packet.tcp_flags, now, alive) {
            return None;
        }
    }
    let closes = packet.tuple.proto == TCP && packet.tcp_flags & (FIN | RST) != 0;
    let flags = flow.flags | FLOW_USED | if closes { FLOW_CLOSING } else { 0 };
    // SAFETY: as above. Should the element have been recycled, another flow looks a little younger or, at
    // worst, closing, which only matters to its next SYN.
    unsafe {
        if flow.last != now {
            write_volatile(addr_of_mut!((*entry).last), now);
        }
        if flow.flags != flags {
            write_volatile(addr_of_mut!((*entry).flags), flags);
        }
    }
    if closes && flow.flags & FLOW_CLOSING == 0 {
        close(&other_way(packet.tuple, &flow, leg));
    }
    Some(flow)
}

/// The end of a connection is seen on one way only when it is a reset: the other way, which may own a port, is told.
#[inline(always)]
fn close(key: &FlowKey) {
    let Some(entry) = flow(key) else { return };
    // SAFETY: an element of the map, as in `follow`; the tag shows whether it was recycled.
    unsafe {
        let flow = read_volatile(entry);
        if flow.tag == tag(key) {
            write_volatile(addr_of_mut!((*entry).flags), flow.flags | FLOW_CLOSING);
        }
    }
}

/// Takes the way back, which decides whether a choice is possible: two flows of one client that are one on the
/// wire cannot both have it. The same flow seen by two processors at once may.
#[inline(always)]
pub(crate) fn claim(entry: &Entry) -> Result<(), Reason> {
    if put_flow(&entry.key, &entry.flow, BPF_NOEXIST).is_ok() {
        return Ok(());
    }
    // SAFETY: as in `follow`.
    let taken = match flow(&entry.key) {
        Some(taken) => unsafe { read_volatile(taken) },
        None => return Err(Reason::FlowTableFull),
    };
    if !same(&taken, &entry.flow)
        && taken.tag == tag(&entry.key)
        && !over(&taken, entry.key.proto, entry.flow.last)
    {
        return Err(Reason::FlowCollision);
    }
    record(entry)
}

/// Both lead to the same place.
#[inline(always)]
fn same(a: &Flow, b: &Flow) -> bool {
    a.src_be == b.src_be && a.sport_be == b.sport_be && a.dst_be == b.dst_be && a.dport_be == b.dport_be
}

/// Takes the way back of a masqueraded flow: a free one, that of a flow that is over, or its own from before.
#[inline(always)]
pub(crate) fn claim_port(entry: &Entry) -> bool {
    if put_flow(&entry.key, &entry.flow, BPF_NOEXIST).is_ok() {
        return true;
    }
    let Some(taken) = flow(&entry.key) else { return false };
    // SAFETY: as in `follow`.
    let taken = unsafe { read_volatile(taken) };
    let free = same(&taken, &entry.flow) || over(&taken, entry.key.proto, entry.flow.last);
    free && record(entry).is_ok()
}

/// Writes an entry. Replacing one is safe here: readers compare tags, and a miss only chooses again.
#[inline(always)]
pub(crate) fn record(entry: &Entry) -> Result<(), Reason> {
    put_flow(&entry.key, &entry.flow, BPF_ANY).map_err(|_| Reason::FlowTableFull)
}
