//! Layouts of map keys and values. `repr(C)`, fixed width, no implicit padding (asserted), every bit pattern
//! valid. What holds an address exists for each family. Addresses and ports are in network byte order as the kernel hands them out, and say so by `_be`.

use crate::{
    family::{Family, V4, V6},
    tag::{self, Digest},
};

/// IP protocol numbers the load balancer knows.
pub const TCP: u8 = 6;
/// See [`TCP`].
pub const UDP: u8 = 17;

/// Frontend scope: connections from this node and its pods.
pub const INSIDE: u8 = 0;
/// Frontend scope: packets that entered by the uplink.
pub const OUTSIDE: u8 = 1;

/// Source ports for connections that this node forwards to a backend on another node. Below the ephemeral
/// range (32768) and the NodePort range (30000), so that no socket of the host can own one.
pub const SNAT_PORTS: (u16, u16) = (20000, 27999);

/// Slots in one row of the slot table.
pub const ROW: u32 = 16;

/// A service frontend. `addr_be == 0` is any address of this node (a NodePort).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrontendKey<A = V4> {
    /// Address.
    pub addr_be: A,
    /// Port.
    pub port_be: u16,
    /// [`TCP`] or [`UDP`].
    pub proto: u8,
    /// [`INSIDE`] or [`OUTSIDE`].
    pub scope: u8,
}

impl<A: Family> Digest for FrontendKey<A> {
    #[inline(always)]
    fn digest(&self) -> (u64, u32) {
        let rest = (self.port_be as u32) << 16 | (self.proto as u32) << 8 | self.scope as u32;
        (self.addr_be.mix(0), rest)
    }
}

/// What a frontend's index leads to: see [`crate::words`] for the fields packed into each word.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The publish word: one aligned store makes a new endpoint set visible.
    pub word: u64,
    /// Service index and affinity timeout; written before `word`.
    pub aux: u64,
}

/// One row of backend handles (64 bytes, a cache line).
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRow {
    /// Handles.
    pub handles: [u32; ROW as usize],
}

/// A backend: `target` never changes while a handle of its generation can be reached; only `state` does.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// Address, port and generation in one word: read together or not at all.
    pub target: u64,
    /// State, flags and owner service.
    pub state: u64,
}

/// A pod of this node: its network namespace and its interface both lead here. Elements are used again, so each says
/// whose it is: who finds its own name in a word, or in one read after it, has read what belongs to it.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Cookie of the network namespace; 0 is nobody's. Written last and erased first.
    pub netns: u64,
    /// IPv4 address and interface in one word, see [`crate::words`].
    pub place: u64,
    /// IPv6 address.
    pub v6: V6,
}

/// Affinity is per service port and client address (the pod's, also for connections made by a socket).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AffinityKey<A = V4> {
    /// Client; 0 is the node itself.
    pub client_be: A,
    /// Service index.
    pub service: u32,
}

/// The backend a client is bound to. Repeats its key: an LRU element can be recycled under a live pointer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AffinityValue<A = V4> {
    /// Backend handle.
    pub handle: u32,
    /// Tick of the last new connection.
    pub last: u32,
    /// The key, repeated.
    pub key: AffinityKey<A>,
}

/// A backend that this socket sees as a service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Translation<A = V4> {
    /// Backend address; 0 is an unused entry.
    pub backend_be: A,
    /// Service address.
    pub vip_be: A,
    /// Backend port.
    pub backend_port_be: u16,
    /// Service port.
    pub vip_port_be: u16,
}

/// Number of unconnected peers a UDP socket of the host may alternate between.
pub const SOCKET_RING: usize = 4;

/// Kept inside the socket, freed with it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketState<A = V4> {
    /// The connected peer.
    pub peer: Translation<A>,
    /// Peers of unconnected datagrams.
    pub ring: [Translation<A>; SOCKET_RING],
    /// Next ring entry to overwrite.
    pub next: u32,
}

/// [`FlowKey::leg`]: what leaves a pod.
pub const LEG_FROM_POD: u8 = 0;
/// [`FlowKey::leg`]: what enters a pod.
pub const LEG_TO_POD: u8 = 1;
/// [`FlowKey::leg`]: what enters by the uplink.
pub const LEG_UPLINK_IN: u8 = 2;
/// [`FlowKey::leg`]: what leaves by the uplink.
pub const LEG_UPLINK_OUT: u8 = 3;

/// [`Flow::flags`]: a FIN or RST passed; a new SYN is a new connection.
pub const FLOW_CLOSING: u32 = 1;
/// [`Flow::flags`]: a pod reaches itself: send the packet back into the pod it came from.
pub const FLOW_HAIRPIN: u32 = 2;
/// [`Flow::flags`]: this entry carries the choice of backend, and may be made again.
pub const FLOW_CHOICE: u32 = 4;
/// [`Flow::flags`]: a packet has used the entry since it was made.
pub const FLOW_USED: u32 = 8;

/// [`Flow::flags`]: the entry changes nothing; it remembers a flow that is not translated, of whatever protocol.
pub const FLOW_UNTRANSLATED: u32 = 16;
/// [`Flow::flags`]: of an untranslated flow, the entry of what comes back.
pub const FLOW_BACK: u32 = 32;
/// [`Flow::flags`]: from this bit up, the revision of what the flow was last allowed by ([`Flow::revision`]).
pub const FLOW_REVISION: u32 = 16;

/// A flow in one direction, as a packet of that direction shows it before translation.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey<A = V4> {
    /// Source address.
    pub src_be: A,
    /// Destination address.
    pub dst_be: A,
    /// Source port.
    pub sport_be: u16,
    /// Destination port.
    pub dport_be: u16,
    /// [`TCP`] or [`UDP`].
    pub proto: u8,
    /// One of the `LEG_` constants: which hook may use the entry.
    pub leg: u8,
    /// Zero.
    pub pad: u16,
}

/// How packets of a flow are rewritten. Repeats a digest of its key (LRU recycling).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow<A = V4> {
    /// New source address.
    pub src_be: A,
    /// New destination address.
    pub dst_be: A,
    /// New source port.
    pub sport_be: u16,
    /// New destination port.
    pub dport_be: u16,
    /// Backend handle, to notice that it died.
    pub handle: u32,
    /// Tick of the last packet.
    pub last: u32,
    /// `FLOW_` flags and a revision.
    pub flags: u32,
    /// Service index.
    pub service: u32,
    /// Digest of the key.
    pub tag: u32,
}

/// A datagram whose first fragment was seen; leads to its ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey<A = V4> {
    /// Source address.
    pub src_be: A,
    /// Destination address.
    pub dst_be: A,
    /// IP identification.
    pub id: u32,
    /// Protocol.
    pub proto: u8,
    /// Which hook recorded it: the same datagram passes several, each with its own view.
    pub leg: u8,
    /// Zero.
    pub pad: u16,
}

impl<A: Family> Digest for FragmentKey<A> {
    #[inline(always)]
    fn digest(&self) -> (u64, u32) {
        let rest = (self.proto as u32) << 8 | self.leg as u32;
        (tag::mix(self.dst_be.mix(self.src_be.mix(0)), self.id as u64), rest)
    }
}

/// Allowed client ranges of a load balancer address: a trie over (service, address).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceRangeKey<A = V4> {
    /// Service index.
    pub service_be: u32,
    /// Client.
    pub addr_be: A,
}

/// Settings the programs read on every run; element 0 of an array.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Network namespace cookie of the node.
    pub host_cookie: u64,
    /// `SETTING_` flags in the low half, the node's uplink address (network order) in the high half.
    pub flags_and_uplink: u64,
}

/// [`Settings`]: leave TCP connects of pods to the packet path.
pub const SETTING_POD_SOCKETS_OFF: u32 = 1;

/// Why a packet or connect was refused or dropped, in words for the metric's label.
pub const DROP_REASONS: [&str; 13] = [
    "no_endpoint",
    "no_local_endpoint",
    "stale_slot",
    "source_range",
    "flow_table_full",
    "flow_collision",
    "snat_exhausted",
    "no_node_address",
    "rewrite_failed",
    "spoofed",
    "policy",
    "policy_not_known",
    "no_policy_set",
];

/// Index into the drop counters, and into [`DROP_REASONS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Reason {
    /// The service has no endpoint: refused.
    NoEndpoint = 0,
    /// Endpoints exist, but none here, and the policy is Local: dropped silently.
    NoLocalEndpoint = 1,
    /// A slot led to a backend of another generation: a bug, counted so that tests see it.
    StaleSlot = 2,
    /// The client is outside `loadBalancerSourceRanges`.
    SourceRange = 3,
    /// The flow table refused an entry.
    FlowTableFull = 4,
    /// Two flows of one client to one backend would be one on the wire.
    FlowCollision = 5,
    /// No free source port.
    SnatExhausted = 6,
    /// The node's own address is not known yet: nothing can be sent on in its name.
    NoNodeAddress = 7,
    /// A helper refused to rewrite the packet.
    RewriteFailed = 8,
    /// It left a pod in another's name, or in none that can be checked.
    Spoofed = 9,
    /// No network policy allows it.
    Policy = 10,
    /// It is not known yet which policies the pod has.
    PolicyNotKnown = 11,
    /// A pod's word leads to no set: a bug, counted so that tests see it.
    NoPolicySet = 12,
}

#[cfg(feature = "user")]
mod pod {
    #![expect(unsafe_code, reason = "aya's marker for types that may cross the kernel boundary is unsafe")]
    use super::{
        AffinityKey, AffinityValue, Flow, FlowKey, FragmentKey, FrontendKey, SocketState, SourceRangeKey,
    };
    use crate::{
        family::{V4, V6},
        tag::Tagged,
    };

    macro_rules! pod {
        ($($type:ty),* $(,)?) => { $(
            // SAFETY: repr(C), no implicit padding (asserted by the schema), every bit pattern valid.
            unsafe impl aya::Pod for $type {}
        )* };
    }
    macro_rules! in_both_families {
        ($($type:ident),* $(,)?) => { $( pod!($type<V4>, $type<V6>); )* };
    }
    in_both_families!(
        FrontendKey,
        AffinityKey,
        AffinityValue,
        SocketState,
        FlowKey,
        Flow,
        FragmentKey,
        SourceRangeKey,
    );
    pod!(Tagged);
}
