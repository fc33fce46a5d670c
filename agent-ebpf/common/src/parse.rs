//! Reading a packet: every protocol, fragment and ICMP message has a kind, in both families. What a hook does with a
//! kind is the hook's; nothing here decides.

use crate::{
    abi::{FragmentKey, TCP, UDP},
    family::{Family, Icmp, Ip},
    nat::Tuple,
    wire::{Wire, half, word},
};

/// Protocols whose headers start with two ports, besides [`TCP`] and [`UDP`].
const DCCP: u8 = 33;
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;

/// What the upper layer of a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It has ports.
    Ports,
    /// A later fragment of something with ports, whose first was seen.
    Later,
    /// A later fragment whose first was not seen: nobody knows its ports.
    Lost,
    /// An ICMP question or answer. Both ports are its identifier.
    Query,
    /// An ICMP error: see [`crate::errors`].
    Error,
    /// Neighbour discovery and its like: the link does not work without.
    Link,
    /// A protocol without ports.
    Other,
}

/// A packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<A> {
    /// Addresses and, where there are such, ports.
    pub tuple: Tuple<A>,
    /// Where the upper layer's header starts. It has none in a later fragment.
    pub l4: u32,
    /// Of TCP.
    pub tcp_flags: u8,
    /// See [`Kind`].
    pub kind: Kind,
}

impl<A> Packet<A> {
    /// TCP or UDP with known ports: what services are made of.
    #[inline(always)]
    pub fn is_served(&self) -> bool {
        (self.tuple.proto == TCP || self.tuple.proto == UDP) && matches!(self.kind, Kind::Ports | Kind::Later)
    }

    /// Has no header of its upper layer.
    #[inline(always)]
    pub fn is_headless(&self) -> bool {
        matches!(self.kind, Kind::Later | Kind::Lost)
    }
}

/// What is remembered of fragmented packets.
pub trait Fragments<A> {
    /// The ports of a packet whose first fragment was seen.
    fn ports(&self, key: &FragmentKey<A>) -> Option<u32>;
    /// Remembers them. The worst of a failure is a packet that its later fragments do not complete.
    fn remember_ports(&self, key: &FragmentKey<A>, ports: u32);
}

/// Reads the packet that starts with `ip`. `None` when it is cut short or its headers are wrong: the stack will drop it.
#[inline(always)]
pub fn parse<A: Family, W: Wire, M: Fragments<A>>(
    wire: &W,
    maps: &M,
    ip: &Ip<A>,
    leg: u8,
) -> Option<Packet<A>> {
    if ip.later {
        let known = maps.ports(&fragment(ip, leg));
        let kind = if known.is_some() { Kind::Later } else { Kind::Lost };
        return Some(packet(ip, kind, known.unwrap_or(0).to_ne_bytes(), 0));
    }
    let (kind, ports, tcp_flags) = upper::<A, W>(wire, ip)?;
    if ip.more && matches!(kind, Kind::Ports | Kind::Query) {
        maps.remember_ports(&fragment(ip, leg), word(ports));
    }
    Some(packet(ip, kind, ports, tcp_flags))
}

/// The packet behind the header at `at`, which an ICMP error quotes; `None` when its ports, or the identifier of a question
/// or answer, are not quoted.
#[inline(always)]
pub(crate) fn quoted<A: Family, W: Wire>(wire: &W, at: u32) -> Option<Packet<A>> {
    let ip = A::ip(wire, at)?;
    if ip.later {
        return None;
    }
    if ip.proto == A::ICMP {
        let (kind, ports, _) = upper::<A, W>(wire, &ip)?;
        return (kind == Kind::Query).then(|| packet(&ip, kind, ports, 0));
    }
    // Of the upper layer only the first eight bytes are sure to be there.
    let ports: [u8; 4] = wire.load(ip.l4)?;
    has_ports(ip.proto).then(|| packet(&ip, Kind::Ports, ports, 0))
}

#[inline(always)]
fn packet<A: Family>(ip: &Ip<A>, kind: Kind, ports: [u8; 4], tcp_flags: u8) -> Packet<A> {
    let tuple = Tuple {
        src_be: ip.src,
        dst_be: ip.dst,
        sport_be: half([ports[0], ports[1]]),
        dport_be: half([ports[2], ports[3]]),
        proto: ip.proto,
    };
    Packet { tuple, l4: ip.l4, tcp_flags, kind }
}

#[inline(always)]
fn fragment<A: Family>(ip: &Ip<A>, leg: u8) -> FragmentKey<A> {
    FragmentKey { src_be: ip.src, dst_be: ip.dst, id: ip.id, proto: ip.proto, leg, pad: 0 }
}

#[inline(always)]
const fn has_ports(proto: u8) -> bool {
    matches!(proto, TCP | UDP | DCCP | SCTP | UDP_LITE)
}

/// Kind, ports and TCP flags.
#[inline(always)]
fn upper<A: Family, W: Wire>(wire: &W, ip: &Ip<A>) -> Option<(Kind, [u8; 4], u8)> {
    if ip.proto == TCP {
        let tcp: [u8; 14] = wire.load(ip.l4)?;
        return Some((Kind::Ports, [tcp[0], tcp[1], tcp[2], tcp[3]], tcp[13]));
    }
    if has_ports(ip.proto) {
        return Some((Kind::Ports, wire.load(ip.l4)?, 0));
    }
    if ip.proto != A::ICMP {
        return Some((Kind::Other, [0; 4], 0));
    }
    let icmp: [u8; 6] = wire.load(ip.l4)?;
    Some(match A::icmp(icmp[0]) {
        Icmp::Query => (Kind::Query, [icmp[4], icmp[5], icmp[4], icmp[5]], 0),
        Icmp::Error => (Kind::Error, [0; 4], 0),
        Icmp::Link => (Kind::Link, [0; 4], 0),
        Icmp::Other => (Kind::Other, [0; 4], 0),
    })
}

#[cfg(test)]
mod tests;
