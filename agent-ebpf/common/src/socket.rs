//! Services at the socket: where a connect or datagram that asks for an address is sent instead. Nothing here touches
//! a packet.

use crate::{
    abi::{INSIDE, Reason, Translation},
    family::Family,
    select::{Selection, Tables, frontend, select},
};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A process in the node's own network namespace.
    Host,
    /// A process in this one.
    Pod(u64),
}

/// What becomes of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination<A> {
    /// It is no service's.
    Own,
    /// Replaced by the backend's; the service's index, for its counter.
    Service(Translation<A>, u32),
    /// Nobody is there.
    Refused(Reason),
}

/// Looks `addr_be` up: the exact frontend, or a NodePort on an address of this node; loopback counts for the node's own
/// processes, and a pod's is the pod's own. `client` tells a pod's address by its namespace.
#[inline(always)]
pub fn destination<A: Family, T: Tables<A>>(
    tables: &T,
    addr_be: A,
    port_be: u16,
    proto: u8,
    asker: Asker,
    client: impl FnOnce(u64) -> A,
) -> Destination<A> {
    let loopback = addr_be.is_loopback();
    if loopback && asker != Asker::Host {
        return Destination::Own;
    }
    let Some(index) = frontend(tables, addr_be, port_be, proto, INSIDE, loopback) else {
        return Destination::Own;
    };
    let client = || match asker {
        Asker::Host => A::NONE,
        Asker::Pod(netns) => client(netns),
    };
    match select(tables, index, client) {
        Selection::Chosen(chosen) => Destination::Service(
            Translation {
                backend_be: chosen.addr_be,
                vip_be: addr_be,
                backend_port_be: chosen.backend.port_be(),
                vip_port_be: port_be,
            },
            chosen.service,
        ),
        Selection::Refuse => Destination::Refused(Reason::NoEndpoint),
        Selection::Drop(reason) => Destination::Refused(reason),
    }
}

#[cfg(test)]
mod tests;
