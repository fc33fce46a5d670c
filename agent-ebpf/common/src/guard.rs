//! Anti-spoofing: whether what leaves a pod is in the pod's own name.
//!
//! The pod is told by the interface, never by the packet. A pod that is not known owns nothing, so that whatever failed
//! before, nothing opens. In: a header or an ARP message. Out: yes or no; what becomes of the packet is the hook's.

use crate::{
    abi::Reason,
    family::{Family, Ip, V4},
    wire::{ETHERNET, Wire, word},
};

/// Counters of what is refused or dropped.
pub trait Drops {
    /// Counts one.
    fn count_drop(&self, reason: Reason);
}

/// Who is behind an interface.
pub trait Ends<A>: Drops {
    /// The address of the pod there; [`Family::NONE`] when it has none of this family.
    fn pod_behind(&self, interface: u32) -> Option<A>;
}

/// An ARP message about IPv4 on Ethernet, as its first six bytes say.
const ARP_OF_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// Whether the pod behind the interface may send the packet that starts with `ip`.
#[inline(always)]
pub fn is_its_own<A: Family, W: Wire, M: Ends<A>>(wire: &W, maps: &M, ip: &Ip<A>) -> bool {
    let Some(own) = maps.pod_behind(wire.interface()) else { return false };
    own == ip.src && own != A::NONE || speaks_to_link(wire, ip)
}

/// Finding neighbours, which works without an address of one's own. It is never fragmented (RFC 6980).
#[inline(always)]
fn speaks_to_link<A: Family, W: Wire>(wire: &W, ip: &Ip<A>) -> bool {
    if ip.proto != A::ICMP || ip.later || ip.more {
        return false;
    }
    wire.load::<1>(ip.l4).is_some_and(|kind| ip.src.speaks_to_link(kind[0]))
}

/// Whether the pod behind the interface may send this ARP message: it names its own address, or none, as a pod does that
/// asks whether an address is taken (RFC 5227).
#[inline(always)]
pub fn claims_its_own<W: Wire, M: Ends<V4>>(wire: &W, maps: &M) -> bool {
    let Some(own) = maps.pod_behind(wire.interface()) else { return false };
    let Some(arp) = wire.load::<18>(ETHERNET) else { return false };
    let [a, b, c, d, e, f, ..] = arp;
    let sender = word([arp[14], arp[15], arp[16], arp[17]]);
    [a, b, c, d, e, f] == ARP_OF_IPV4 && (sender == own || sender == V4::NONE)
}

#[cfg(test)]
mod tests;
