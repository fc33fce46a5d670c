//! The pinned maps: names and sizes, which both sides check, and the digest of them that is part of the pins' path.

use core::mem::size_of;

use crate::{
    abi::{
        AffinityKey, AffinityValue, Backend, Endpoint, Flow, FlowKey, FragmentKey, FrontendKey, Head,
        Settings, SlotRow, SocketState, SourceRangeKey, Translation,
    },
    family::{V4, V6},
    tag::Tagged,
};

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
pub const MAPS: [MapSchema; 17] = [
    schema("FRONTENDS", size_of::<FrontendKey<V4>>(), size_of::<Tagged>()),
    schema("HEADS", 4, size_of::<Head>()),
    schema("SLOTS", 4, size_of::<SlotRow>()),
    schema("BACKENDS", 4, size_of::<Backend>()),
    schema("AFFINITY", size_of::<AffinityKey<V4>>(), size_of::<AffinityValue<V4>>()),
    schema("NODE_ADDRESSES", 4, 4),
    schema("POD_NETNS", 8, size_of::<Tagged>()),
    schema("POD_INTERFACES", 4, size_of::<Tagged>()),
    schema("ENDPOINTS", 4, size_of::<Endpoint>()),
    schema("SETTINGS", 4, size_of::<Settings>()),
    schema("SOCKETS", 4, size_of::<SocketState<V4>>()),
    schema("FLOWS", size_of::<FlowKey<V4>>(), size_of::<Flow<V4>>()),
    schema("DATAGRAMS", size_of::<FlowKey<V4>>(), size_of::<Flow<V4>>()),
    schema("FRAGMENTS", size_of::<FragmentKey<V4>>(), size_of::<Tagged>()),
    schema("SOURCE_RANGES", 4 + size_of::<SourceRangeKey<V4>>(), 4),
    schema("DROPS", 4, 8),
    schema("CONNECTIONS", 4, 8),
];

/// Raise when the meaning of a field changes without its size.
const REVISION: u32 = 1;

/// Part of the pin path: programs never meet maps of another layout.
pub const ABI_HASH: u32 = abi_hash();

const fn abi_hash() -> u32 {
    let mut hash = step(0x811c_9dc5, REVISION);
    let mut map = 0;
    while map < MAPS.len() {
        let name = MAPS[map].name.as_bytes();
        let mut byte = 0;
        while byte < name.len() {
            hash = step(hash, name[byte] as u32);
            byte += 1;
        }
        hash = step(step(hash, MAPS[map].key), MAPS[map].value);
        map += 1;
    }
    hash
}

/// FNV-1a over words instead of bytes: enough to tell layouts apart.
const fn step(hash: u32, word: u32) -> u32 {
    (hash ^ word).wrapping_mul(0x0100_0193)
}

// A size equal to the sum of the fields means that there is no implicit padding.
const _: () = {
    assert!(size_of::<Head>() == 16);
    assert!(size_of::<SlotRow>() == 64);
    assert!(size_of::<Backend>() == 16);
    assert!(size_of::<Endpoint>() == 32);
    assert!(size_of::<Tagged>() == 8);
    assert!(size_of::<Settings>() == 16);
};
macro_rules! no_padding {
    ($family:ty, $address:literal) => {
        const _: () = {
            assert!(size_of::<$family>() == $address);
            assert!(size_of::<FrontendKey<$family>>() == $address + 2 + 1 + 1);
            assert!(size_of::<AffinityKey<$family>>() == $address + 4);
            assert!(size_of::<AffinityValue<$family>>() == $address + 12);
            assert!(size_of::<Translation<$family>>() == 2 * $address + 4);
            assert!(size_of::<SocketState<$family>>() == 5 * (2 * $address + 4) + 4);
            assert!(size_of::<FlowKey<$family>>() == 2 * $address + 8);
            assert!(size_of::<Flow<$family>>() == 2 * $address + 24);
            assert!(size_of::<FragmentKey<$family>>() == 2 * $address + 8);
            assert!(size_of::<SourceRangeKey<$family>>() == $address + 4);
        };
    };
}
no_padding!(V4, 4);
no_padding!(V6, 16);
