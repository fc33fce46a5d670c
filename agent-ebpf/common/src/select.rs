//! Choosing a backend: the one decision that sockets and packets share.
//!
//! Reads through [`Tables`] only; the writer's order (backends, slots, publish word, grace, free) guarantees
//! that a word read once leads to a whole set, old or new.

use crate::{
    abi::{AffinityKey, AffinityValue, Backend, FrontendKey, Head, ROW, Reason},
    family::{Family, V4},
    words::{AFFINITY, EMPTY_DROP, Handle, LOCAL, LOCAL_ONLY, Publish, SOURCE_RANGES},
};

/// The maps a selection reads. All methods are single lookups.
pub trait Tables<A = V4> {
    /// The index behind a frontend.
    fn frontend(&self, key: &FrontendKey<A>) -> Option<u32>;
    /// Whether this is an address of the node.
    fn is_node_address(&self, address: A) -> bool;
    /// The head behind a frontend's index.
    fn head(&self, index: u32) -> Option<Head>;
    /// A slot.
    fn handle(&self, row: u32, lane: u32) -> Option<Handle>;
    /// A backend by index.
    fn backend(&self, index: u32) -> Option<Backend>;
    /// The address of a backend that was just read: in its own word when it is an IPv4 one, else beside it.
    fn address(&self, handle: Handle, backend: &Backend) -> Option<A>;
    /// A remembered choice.
    fn affinity(&self, key: AffinityKey<A>) -> Option<AffinityValue<A>>;
    /// Remembers a choice.
    fn remember(&self, value: AffinityValue<A>);
    /// Counts the timeout of a remembered choice from `now`, in place: an update of an LRU map costs ten times a
    /// look-up.
    fn touch(&self, key: AffinityKey<A>, now: u32);
    /// Whether a client is in the service's source ranges.
    fn in_source_range(&self, service: u32, client_be: A) -> bool;
    /// A random number.
    fn random(&self) -> u32;
    /// The clock, in ticks.
    fn now(&self) -> u32;
}

/// What to do with a new connection or datagram flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection<A = V4> {
    /// Send it there.
    Chosen(Chosen<A>),
    /// Refuse so that the client knows.
    Refuse,
    /// Drop silently.
    Drop(Reason),
}

/// A chosen backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen<A = V4> {
    /// Its handle.
    pub handle: Handle,
    /// The backend as read.
    pub backend: Backend,
    /// Its address.
    pub addr_be: A,
    /// Service index, for counters.
    pub service: u32,
    /// Flags of the set, see [`crate::words`].
    pub flags: u16,
}

/// A slot may be stale only while a bug is alive; three tries keep a connection through it and count it.
const TRIES: usize = 3;

/// The index behind an exact address and port, or behind a NodePort on an address of this node; `here`: it is known to
/// be one.
#[inline(always)]
pub fn frontend<A: Family, T: Tables<A>>(
    tables: &T,
    addr_be: A,
    port_be: u16,
    proto: u8,
    scope: u8,
    here: bool,
) -> Option<u32> {
    if let Some(index) = tables.frontend(&FrontendKey { addr_be, port_be, proto, scope }) {
        return Some(index);
    }
    if !here && !tables.is_node_address(addr_be) {
        return None;
    }
    tables.frontend(&FrontendKey { addr_be: A::NONE, port_be, proto, scope })
}

/// Chooses a backend from the set behind `index` for a client, who is only asked for where it matters
/// ([`Family::NONE`]: the node itself).
#[inline(always)]
pub fn select<A: Family, T: Tables<A>>(tables: &T, index: u32, client: impl FnOnce() -> A) -> Selection<A> {
    let Some(head) = tables.head(index) else { return Selection::Refuse };
    let set = Publish::unpack(head.word);
    let service = head.service();
    let client_be = if set.flags & (SOURCE_RANGES | AFFINITY) == 0 { A::NONE } else { client() };
    // The node itself may always use its own load balancer addresses.
    if set.flags & SOURCE_RANGES != 0 && client_be != A::NONE && !tables.in_source_range(service, client_be) {
        return Selection::Drop(Reason::SourceRange);
    }
    if set.slots == 0 {
        return if set.flags & EMPTY_DROP != 0 {
            Selection::Drop(Reason::NoLocalEndpoint)
        } else {
            Selection::Refuse
        };
    }
    let key = AffinityKey { client_be, service };
    if set.flags & AFFINITY != 0
        && let Some((handle, backend)) = bound(tables, key, head.timeout(), set.flags)
        && let Some(addr_be) = tables.address(handle, &backend)
    {
        return Selection::Chosen(Chosen { handle, backend, addr_be, service, flags: set.flags });
    }
    for _ in 0..TRIES {
        let slot = scale(tables.random(), set.slots);
        let Some(handle) = tables.handle(set.row + slot / ROW, slot % ROW) else { continue };
        let Some(backend) = tables.backend(handle.index()) else { continue };
        if !backend.alive(handle) {
            continue;
        }
        let Some(addr_be) = tables.address(handle, &backend) else { continue };
        if set.flags & AFFINITY != 0 {
            tables.remember(AffinityValue { handle: handle.0, last: tables.now(), key });
        }
        return Selection::Chosen(Chosen { handle, backend, addr_be, service, flags: set.flags });
    }
    Selection::Drop(Reason::StaleSlot)
}

/// The backend `key` is bound to, when the binding is fresh and its backend still serves this set. As in
/// kube-proxy, the timeout counts from the last new connection.
#[inline(always)]
fn bound<A: Family, T: Tables<A>>(
    tables: &T,
    key: AffinityKey<A>,
    timeout: u32,
    flags: u16,
) -> Option<(Handle, Backend)> {
    let value = tables.affinity(key)?;
    let now = tables.now();
    if value.key != key || now.wrapping_sub(value.last) >= timeout {
        return None;
    }
    let handle = Handle(value.handle);
    let backend = tables.backend(handle.index())?;
    let serves = backend.alive(handle)
        && backend.service() == key.service
        && (flags & LOCAL_ONLY == 0 || backend.flags() & LOCAL != 0);
    if !serves {
        return None;
    }
    if now != value.last {
        tables.touch(key, now);
    }
    Some((handle, backend))
}

/// A uniform number below `slots` without a division: the high half of the product.
#[inline(always)]
pub fn scale(random: u32, slots: u16) -> u32 {
    ((random as u64 * slots as u64) >> 32) as u32
}

#[cfg(test)]
mod tests;
