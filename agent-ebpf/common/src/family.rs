//! The address families. Everything in this crate that depends on one is a method here; all else is written once and
//! compiled for each: IPv4 keeps its keys of four-byte addresses, and pays nothing for IPv6.

use core::{fmt::Debug, hash::Hash};

use crate::wire::{Sum, Wire};

mod v4;
mod v6;

/// An IPv4 address in network byte order: its family, too.
pub type V4 = u32;
/// An IPv6 address in network byte order: its family, too.
pub type V6 = [u32; 4];

/// The IP layer of a packet, or of one quoted in an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// The upper layer's protocol; of a later fragment what its header says.
    pub proto: u8,
    /// Where the upper layer starts, behind options and extension headers.
    pub l4: u32,
    /// Where the packet ends, by its own word.
    pub end: u32,
    /// Identification, of a fragment.
    pub id: u32,
    /// A fragment that does not start the upper layer.
    pub later: bool,
    /// A fragment that others follow.
    pub more: bool,
}

/// One of the two addresses of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The source.
    Src,
    /// The destination.
    Dst,
}

/// What an ICMP message is, by its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icmp {
    /// A question with an identifier, or the answer to one.
    Query,
    /// An error; quotes the packet that it is about.
    Error,
    /// The link's own: who is where (neighbour discovery, group membership).
    Link,
    /// Anything else.
    Other,
}

/// An address, and with it all that differs between the families.
pub trait Family: Copy + Eq + Default + Debug + Hash + 'static {
    /// The frame's type.
    const ETHERTYPE: u16;
    /// Bytes of the IP header without options or extension headers.
    const HEADER: u32;
    /// Protocol number of the family's ICMP.
    const ICMP: u8;
    /// The ICMP checksum includes the addresses.
    const ICMP_PSEUDO: bool;
    /// The neighbours on a link find each other by ICMP.
    const LINK_IS_ICMP: bool;
    /// Type and code of "port unreachable".
    const PORT_UNREACHABLE: [u8; 2];
    /// No address: of clients, the node itself; of frontends, any address of the node.
    const NONE: Self;
    /// Source address of a pod that reaches itself through a service: the pod would drop a packet from itself.
    /// Link-local, never on the wire: the host side of the pod's own veth answers for it.
    const HAIRPIN: Self;

    /// Goes into a digest.
    fn mix(self, hash: u64) -> u64;
    /// Goes into a sum for a checksum.
    fn sum(self, sum: u32) -> u32;
    /// An address of the host itself.
    fn is_loopback(self) -> bool;
    /// What an ICMP type says.
    fn icmp(kind: u8) -> Icmp;
    /// Whether anybody may send the ICMP message `kind` to the neighbours from this address: how a family whose
    /// neighbours find each other by ICMP does it, before or beside an address of one's own.
    fn speaks_to_link(self, kind: u8) -> bool;
    /// Reads the header at `at` and what stands between it and the upper layer.
    fn ip<W: Wire>(wire: &W, at: u32) -> Option<Ip<Self>>;
    /// Writes a header without options at `at`, for `length` bytes behind it.
    fn put_header<W: Wire>(wire: &W, at: u32, src: Self, dst: Self, proto: u8, length: u16) -> Option<()>;
    /// Replaces an address of the header at `at`, in `sum` too: the upper layer's, where that is in the packet.
    fn readdress<W: Wire>(
        wire: &W,
        at: u32,
        side: Side,
        from: Self,
        to: Self,
        sum: Option<Sum>,
    ) -> Option<()>;
    /// Replaces an address of the header at `at`, which an ICMP message with its checksum at `sum` quotes.
    fn requote<W: Wire>(wire: &W, at: u32, side: Side, from: Self, to: Self, sum: u32) -> Option<()>;
}
