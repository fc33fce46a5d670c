//! A packet as the core sees it: bytes to load and store, checksums to amend. The kernel's helpers stand behind it in
//! the programs, plain memory in the tests. Never holds a pointer into a packet.

/// Bytes of the Ethernet header in front of every packet here.
pub const ETHERNET: u32 = 14;

/// Where a checksum is, and how it takes a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum {
    /// Offset of its two bytes.
    pub at: u32,
    /// Zero means "none" (UDP): it must neither be made up nor come about.
    pub optional: bool,
    /// What changes is in the pseudo-header: it is summed, but not part of the bytes that the checksum is in.
    pub pseudo: bool,
}

/// A packet. Every method fails when the packet is too short; then nothing is promised about its bytes.
pub trait Wire {
    /// Index of the interface at which the program runs.
    fn interface(&self) -> u32;
    /// Reads `N` bytes.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
    /// Writes `N` bytes, leaving checksums to the caller.
    fn store<const N: usize>(&self, offset: u32, bytes: &[u8; N]) -> Option<()>;
    /// Amends the checksum of an IPv4 header, at `at`, for a word of it that changes.
    fn amend_header(&self, at: u32, from: u32, to: u32) -> Option<()>;
    /// Amends a transport's checksum for two bytes.
    fn amend_half(&self, sum: Sum, from: u16, to: u16) -> Option<()>;
    /// Amends a transport's checksum for four bytes.
    fn amend_word(&self, sum: Sum, from: u32, to: u32) -> Option<()>;
    /// Amends a transport's checksum for sixteen bytes.
    fn amend_wide(&self, sum: Sum, from: &[u32; 4], to: &[u32; 4]) -> Option<()>;
    /// Cuts or extends the packet to `length` bytes.
    fn resize(&self, length: u32) -> Option<()>;
}

/// Exchanges the Ethernet addresses: the packet goes back to whoever sent it.
#[inline(always)]
pub fn swap_ethernet<W: Wire>(wire: &W) -> Option<()> {
    let old: [u8; 12] = wire.load(0)?;
    let new =
        [old[6], old[7], old[8], old[9], old[10], old[11], old[0], old[1], old[2], old[3], old[4], old[5]];
    wire.store(0, &new)
}

/// Four bytes of a packet as they are kept in maps.
#[inline(always)]
pub const fn word(bytes: [u8; 4]) -> u32 {
    u32::from_ne_bytes(bytes)
}

/// Two bytes of a packet as they are kept in maps.
#[inline(always)]
pub const fn half(bytes: [u8; 2]) -> u16 {
    u16::from_ne_bytes(bytes)
}
