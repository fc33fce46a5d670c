//! Layouts of map keys and values. `repr(C)`, fixed width, no implicit padding (asserted), every bit pattern
//! valid. Addresses and ports are in network byte order as the kernel hands them out, and say so by `_be`.

use core::mem::size_of;

use crate::tag::{self, Digest, Tagged};

/// IP protocol numbers the load balancer knows.
pub const TCP: u8 = 6;
/// See [`TCP`].
pub const UDP: u8 = 17;

/// Frontend scope: connections from this node and its pods.
pub const INSIDE: u8 = 0;
/// Frontend scope: packets that entered by the uplink.
pub const OUTSIDE: u8 = 1;

/// Source address of a pod that reaches itself through a service: the pod would drop a packet from itself.
/// Link-local, never on the wire: the host side of the pod's own veth answers for it.
pub const HAIRPIN: [u8; 4] = [169, 254, 42, 1];

/// Source ports for connections that this node forwards to a backend on another node. Below the ephemeral
/// range (32768) and the NodePort range (30000), so that no socket of the host can own one.
pub const SNAT_PORTS: (u16, u16) = (20000, 27999);

/// Slots in one row of the slot table.
pub const ROW: u32 = 16;

/// A service frontend. `addr_be == 0` is any address of this node (a NodePort).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrontendKey {
    /// Address.
    pub addr_be: u32,
    /// Port.
    pub port_be: u16,
    /// [`TCP`] or [`UDP`].
    pub proto: u8,
    /// [`INSIDE`] or [`OUTSIDE`].
    pub scope: u8,
}

impl Digest for FrontendKey {
    #[inline(always)]
    fn digest(&self) -> u32 {
        let rest = (self.port_be as u32) << 16 | (self.proto as u32) << 8 | self.scope as u32;
        tag::mix(tag::mix(0, self.addr_be), rest)
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

/// Affinity is per service port and client address (the pod's, also for connections made by a socket).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AffinityKey {
    /// Client; 0 is the node itself.
    pub client_be: u32,
    /// Service index.
    pub service: u32,
}

/// The backend a client is bound to. Repeats its key: an LRU element can be recycled under a live pointer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AffinityValue {
    /// Backend handle.
    pub handle: u32,
    /// Tick of the last new connection.
    pub last: u32,
    /// The key, repeated.
    pub key: AffinityKey,
}

/// A backend that this socket sees as a service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    /// Backend address; 0 is an unused entry.
    pub backend_be: u32,
    /// Service address.
    pub vip_be: u32,
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
pub struct SocketState {
    /// The connected peer.
    pub peer: Translation,
    /// Peers of unconnected datagrams.
    pub ring: [Translation; SOCKET_RING],
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

/// A flow in one direction, as a packet of that direction shows it before translation.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Source address.
    pub src_be: u32,
    /// Destination address.
    pub dst_be: u32,
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
pub struct Flow {
    /// New source address.
    pub src_be: u32,
    /// New destination address.
    pub dst_be: u32,
    /// New source port.
    pub sport_be: u16,
    /// New destination port.
    pub dport_be: u16,
    /// Backend handle, to notice that it died.
    pub handle: u32,
    /// Tick of the last packet.
    pub last: u32,
    /// `FLOW_` flags.
    pub flags: u32,
    /// Service index.
    pub service: u32,
    /// Digest of the key.
    pub tag: u32,
}

/// A datagram whose first fragment was seen; leads to its ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentKey {
    /// Source address.
    pub src_be: u32,
    /// Destination address.
    pub dst_be: u32,
    /// IP identification.
    pub id_be: u16,
    /// Protocol.
    pub proto: u8,
    /// Which hook recorded it: the same datagram passes several, each with its own view.
    pub leg: u8,
}

impl Digest for FragmentKey {
    #[inline(always)]
    fn digest(&self) -> u32 {
        let rest = (self.id_be as u32) << 16 | (self.proto as u32) << 8 | self.leg as u32;
        tag::mix(tag::mix(tag::mix(0, self.src_be), self.dst_be), rest)
    }
}

/// Allowed client ranges of a load balancer address: a trie over (service, address).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceRangeKey {
    /// Service index.
    pub service_be: u32,
    /// Client.
    pub addr_be: u32,
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
pub const DROP_REASONS: [&str; 9] = [
    "no_endpoint",
    "no_local_endpoint",
    "stale_slot",
    "source_range",
    "flow_table_full",
    "flow_collision",
    "snat_exhausted",
    "no_node_address",
    "rewrite_failed",
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
}

/// A map as both sides know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSchema {
    /// Name in the object and of the pin.
    pub name: &'static str,
    /// Bytes of a key.
    pub key: u32,
    /// Bytes of a value.
    pub value: u32,
}

const fn schema(name: &'static str, key: usize, value: usize) -> MapSchema {
    MapSchema { name, key: key as u32, value: value as u32 }
}

/// All pinned maps.
pub const MAPS: [MapSchema; 15] = [
    schema("FRONTENDS", size_of::<FrontendKey>(), size_of::<Tagged>()),
    schema("HEADS", 4, size_of::<Head>()),
    schema("SLOTS", 4, size_of::<SlotRow>()),
    schema("BACKENDS", 4, size_of::<Backend>()),
    schema("AFFINITY", size_of::<AffinityKey>(), size_of::<AffinityValue>()),
    schema("NODE_ADDRESSES", 4, 4),
    schema("POD_NETNS", 8, size_of::<Tagged>()),
    schema("SETTINGS", 4, size_of::<Settings>()),
    schema("SOCKETS", 4, size_of::<SocketState>()),
    schema("FLOWS", size_of::<FlowKey>(), size_of::<Flow>()),
    schema("DATAGRAMS", size_of::<FlowKey>(), size_of::<Flow>()),
    schema("FRAGMENTS", size_of::<FragmentKey>(), size_of::<Tagged>()),
    schema("SOURCE_RANGES", 4 + size_of::<SourceRangeKey>(), 4),
    schema("DROPS", 4, 8),
    schema("CONNECTIONS", 4, 8),
];

/// Raise when the meaning of a field changes without its size.
const REVISION: u32 = 1;

/// Part of the pin path: programs never meet maps of another layout.
pub const ABI_HASH: u32 = abi_hash();

const fn abi_hash() -> u32 {
    let mut hash = mix(0x811c_9dc5, REVISION);
    let mut map = 0;
    while map < MAPS.len() {
        let name = MAPS[map].name.as_bytes();
        let mut byte = 0;
        while byte < name.len() {
            hash = mix(hash, name[byte] as u32);
            byte += 1;
        }
        hash = mix(mix(hash, MAPS[map].key), MAPS[map].value);
        map += 1;
    }
    hash
}

/// FNV-1a over words instead of bytes: enough to tell layouts apart.
const fn mix(hash: u32, word: u32) -> u32 {
    (hash ^ word).wrapping_mul(0x0100_0193)
}

// A size equal to the sum of the fields means that there is no implicit padding.
const _: () = {
    assert!(size_of::<FrontendKey>() == 4 + 2 + 1 + 1);
    assert!(size_of::<Head>() == 16);
    assert!(size_of::<SlotRow>() == 64);
    assert!(size_of::<Backend>() == 16);
    assert!(size_of::<AffinityKey>() == 8);
    assert!(size_of::<AffinityValue>() == 16);
    assert!(size_of::<Translation>() == 12);
    assert!(size_of::<SocketState>() == 12 * 5 + 4);
    assert!(size_of::<FlowKey>() == 16);
    assert!(size_of::<Flow>() == 32);
    assert!(size_of::<FragmentKey>() == 12);
    assert!(size_of::<Tagged>() == 8);
    assert!(size_of::<SourceRangeKey>() == 8);
    assert!(size_of::<Settings>() == 16);
};

#[cfg(feature = "user")]
mod pod {
    #![expect(unsafe_code, reason = "aya's marker for types that may cross the kernel boundary is unsafe")]
    macro_rules! pod {
        ($($type:ty),* $(,)?) => { $(
            // SAFETY: repr(C), no implicit padding (asserted above), every bit pattern valid.
            unsafe impl aya::Pod for $type {}
        )* };
    }
    pod!(
        super::FrontendKey,
        super::AffinityKey,
        super::AffinityValue,
        super::SocketState,
        super::FlowKey,
        super::Flow,
        super::FragmentKey,
        super::Tagged,
        super::SourceRangeKey,
    );
}
