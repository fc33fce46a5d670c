//! The fields packed into 64-bit words, so that each is read and replaced whole.

use crate::{
    abi::{Backend, Endpoint, Head},
    family::V4,
};

/// [`Publish`]: clients stick to a backend.
pub const AFFINITY: u16 = 1;
/// [`Publish`]: an empty set drops instead of refusing (endpoints exist elsewhere).
pub const EMPTY_DROP: u16 = 2;
/// [`Publish`]: packets to a backend on another node take this node's address as their source.
pub const MASQUERADE: u16 = 4;
/// [`Publish`]: clients must be in the service's source ranges.
pub const SOURCE_RANGES: u16 = 8;
/// [`Publish`]: the set holds endpoints of this node only; affinity to any other is void.
pub const LOCAL_ONLY: u16 = 16;
/// [`Publish`]: from this bit up, what the set is for, in the words of who publishes it. Programs never look at it; who
/// takes the maps over finds there which of a service's sets is which.
pub const ROLE_SHIFT: u32 = 13;

/// Largest number of slots of one set.
pub const MAX_SLOTS: u32 = u16::MAX as u32;
/// Largest number of rows in the slot table.
pub const MAX_ROWS: u32 = 1 << 24;
/// Bits of a handle that are the backend's index.
pub const INDEX_BITS: u32 = 20;
/// Bits of a handle that are the generation.
pub const GENERATIONS: u32 = 1 << (32 - INDEX_BITS);

/// The publish word: base row 24, slots 16, flags 16, epoch 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish {
    /// First row of the set.
    pub row: u32,
    /// Number of slots.
    pub slots: u16,
    /// Flags.
    pub flags: u16,
    /// Counts publications; never decides anything, makes changes visible in dumps.
    pub epoch: u8,
}

impl Publish {
    /// To a word.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        (self.row as u64 & 0xff_ffff) << 40
            | (self.slots as u64) << 24
            | (self.flags as u64) << 8
            | self.epoch as u64
    }

    /// From a word.
    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        Self {
            row: (word >> 40) as u32,
            slots: (word >> 24) as u16,
            flags: (word >> 8) as u16,
            epoch: word as u8,
        }
    }
}

impl Head {
    /// The second word: service index and affinity timeout in ticks.
    #[inline(always)]
    pub const fn aux(service: u32, timeout: u32) -> u64 {
        (service as u64) << 32 | timeout as u64
    }

    /// Service index.
    #[inline(always)]
    pub const fn service(&self) -> u32 {
        (self.aux >> 32) as u32
    }

    /// Affinity timeout in ticks.
    #[inline(always)]
    pub const fn timeout(&self) -> u32 {
        self.aux as u32
    }
}

/// Names a backend of one generation: index in the low 20 bits, generation above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(pub u32);

impl Handle {
    /// From parts; the generation wraps.
    #[inline(always)]
    pub const fn new(index: u32, generation: u32) -> Self {
        Self((generation % GENERATIONS) << INDEX_BITS | index & ((1 << INDEX_BITS) - 1))
    }

    /// Index into the backend table.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.0 & ((1 << INDEX_BITS) - 1)
    }

    /// Generation.
    #[inline(always)]
    pub const fn generation(self) -> u32 {
        self.0 >> INDEX_BITS
    }
}

/// [`Backend::state`]: new connections may use it.
pub const ACTIVE: u8 = 1;
/// [`Backend::state`]: removed; datagram flows choose again, TCP connections drain.
pub const DEAD: u8 = 2;
/// [`Backend::flags`]: runs on this node.
pub const LOCAL: u8 = 1;

impl Backend {
    /// A live backend.
    #[inline(always)]
    pub const fn new(addr_be: u32, port_be: u16, generation: u32, flags: u8, service: u32) -> Self {
        Self {
            target: (addr_be as u64) << 32 | (port_be as u64) << 16 | (generation % GENERATIONS) as u64,
            state: (service as u64) << 32 | (flags as u64) << 8 | ACTIVE as u64,
        }
    }

    /// The same backend, removed.
    #[must_use]
    #[inline(always)]
    pub const fn dead(self) -> Self {
        Self { state: self.state & !0xff | DEAD as u64, ..self }
    }

    /// Address.
    #[inline(always)]
    pub const fn addr_be(&self) -> u32 {
        (self.target >> 32) as u32
    }

    /// Port.
    #[inline(always)]
    pub const fn port_be(&self) -> u16 {
        (self.target >> 16) as u16
    }

    /// Generation.
    #[inline(always)]
    pub const fn generation(&self) -> u32 {
        (self.target & 0xffff) as u32
    }

    /// Flags.
    #[inline(always)]
    pub const fn flags(&self) -> u8 {
        (self.state >> 8) as u8
    }

    /// Owner service.
    #[inline(always)]
    pub const fn service(&self) -> u32 {
        (self.state >> 32) as u32
    }

    /// Whether `handle` still names this backend and it takes new connections.
    #[inline(always)]
    pub const fn alive(&self, handle: Handle) -> bool {
        self.generation() == handle.generation() && self.state as u8 == ACTIVE
    }
}

impl Endpoint {
    /// The word of IPv4 address and interface index.
    #[inline(always)]
    pub const fn place(v4: V4, interface: u32) -> u64 {
        (interface as u64) << 32 | v4 as u64
    }

    /// IPv4 address.
    #[inline(always)]
    pub const fn v4(&self) -> V4 {
        self.place as u32
    }

    /// Index of the interface on the host's side.
    #[inline(always)]
    pub const fn interface(&self) -> u32 {
        (self.place >> 32) as u32
    }
}

/// One tick is 2^20 ns (1.05 ms): a shift of the coarse clock, which costs 5 ns where `ktime_get_ns` costs 33
/// on a virtual machine. A `u32` of ticks wraps after 52 days, so ticks are only ever subtracted.
pub const TICK_SHIFT: u32 = 20;

/// Seconds to ticks, rounded up.
pub const fn ticks(seconds: u32) -> u32 {
    ((seconds as u64 * 1_000_000_000).div_ceil(1 << TICK_SHIFT)) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn publish_survives_packing(row in 0..MAX_ROWS, slots: u16, flags: u16, epoch: u8) {
            let word = Publish { row, slots, flags, epoch };
            prop_assert_eq!(Publish::unpack(word.pack()), word);
        }

        #[test]
        fn handle_survives_packing(index in 0..1u32 << INDEX_BITS, generation: u32) {
            let handle = Handle::new(index, generation);
            prop_assert_eq!(handle.index(), index);
            prop_assert_eq!(handle.generation(), generation % GENERATIONS);
        }

        #[test]
        fn backend_fields_do_not_touch(addr: u32, port: u16, generation in 0..GENERATIONS, flags: u8, service: u32) {
            let backend = Backend::new(addr, port, generation, flags, service);
            prop_assert_eq!((backend.addr_be(), backend.port_be(), backend.generation()), (addr, port, generation));
            prop_assert_eq!((backend.flags(), backend.service()), (flags, service));
            prop_assert!(backend.alive(Handle::new(7, generation)));
            prop_assert!(!backend.alive(Handle::new(7, generation + 1)));
            let dead = backend.dead();
            prop_assert!(!dead.alive(Handle::new(7, generation)));
            prop_assert_eq!((dead.target, dead.flags(), dead.service()), (backend.target, flags, service));
        }

        #[test]
        fn an_endpoints_place_survives_packing(v4: u32, interface: u32) {
            let endpoint = Endpoint { place: Endpoint::place(v4, interface), ..Endpoint::default() };
            prop_assert_eq!((endpoint.v4(), endpoint.interface()), (v4, interface));
        }

        #[test]
        fn aux_survives_packing(service: u32, timeout: u32) {
            let head = Head { word: 0, aux: Head::aux(service, timeout) };
            prop_assert_eq!((head.service(), head.timeout()), (service, timeout));
        }
    }

    #[test]
    fn the_longest_affinity_fits() {
        assert!(ticks(86_400) < u32::MAX / 2);
        assert_eq!(ticks(1), 954);
    }
}
