//! Packets for the test runs, made and read by the book: a second opinion, which shares no code with the programs.

use agent_ebpf_common::abi::{TCP, UDP};

/// Address and port.
pub(super) type End = ([u8; 4], u16);

/// Bytes of the Ethernet header.
pub(super) const ETHERNET: usize = 14;
/// In the IP header's word about fragments.
pub(super) const MORE_FRAGMENTS: u16 = 0x2000;
/// See [`MORE_FRAGMENTS`].
pub(super) const FRAGMENT_OFFSET: u16 = 0x1fff;

/// A TCP segment or datagram over IPv4, to be put into a frame.
#[derive(Clone, Debug)]
pub(super) struct Frame<'a> {
    pub(super) proto: u8,
    pub(super) src: End,
    pub(super) dst: End,
    pub(super) tcp_flags: u8,
    /// IP options: a multiple of four bytes, 40 at most.
    pub(super) options: &'a [u8],
    pub(super) payload: &'a [u8],
    /// A datagram may do without.
    pub(super) checksum: bool,
    pub(super) id: u16,
}

impl<'a> Frame<'a> {
    /// One with right checksums and nothing special.
    pub(super) fn new(proto: u8, src: End, dst: End) -> Self {
        Self { proto, src, dst, tcp_flags: 0x10, options: &[], payload: &[], checksum: true, id: 0x1234 }
    }

    /// All of it in one frame.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.framed(0, &self.l4())
    }

    /// In frames with `size` bytes of it each, a multiple of eight.
    pub(super) fn fragments(&self, size: usize) -> Vec<Vec<u8>> {
        let l4 = self.l4();
        let (chunks, last) = (l4.chunks(size), l4.len().div_ceil(size) - 1);
        let part = |(number, chunk): (usize, &[u8])| {
            let more = if number == last { 0 } else { MORE_FRAGMENTS };
            self.framed(more | (number * size / 8) as u16, chunk)
        };
        chunks.enumerate().map(part).collect()
    }

    fn l4(&self) -> Vec<u8> {
        let mut l4 = Vec::new();
        l4.extend(self.src.1.to_be_bytes());
        l4.extend(self.dst.1.to_be_bytes());
        if self.proto == TCP {
            l4.extend([0, 0, 0, 9, 0, 0, 0, 0, 0x50, self.tcp_flags, 0xff, 0xff, 0, 0, 0, 0]);
        } else {
            l4.extend((8 + self.payload.len() as u16).to_be_bytes());
            l4.extend([0, 0]);
        }
        l4.extend(self.payload);
        if self.checksum {
            let at = checksum_at(self.proto);
            let pseudo = pseudo(self.src.0, self.dst.0, self.proto, l4.len());
            let checksum = match (self.proto, fold(sum(&l4) + pseudo)) {
                (UDP, 0) => 0xffff,
                (_, checksum) => checksum,
            };
            l4[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        }
        l4
    }

    fn framed(&self, fragment: u16, l4: &[u8]) -> Vec<u8> {
        let header = 20 + self.options.len();
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        frame.extend([0x40 | (header / 4) as u8, 0]);
        frame.extend(((header + l4.len()) as u16).to_be_bytes());
        frame.extend(self.id.to_be_bytes());
        frame.extend(fragment.to_be_bytes());
        frame.extend([64, self.proto, 0, 0]);
        frame.extend(self.src.0);
        frame.extend(self.dst.0);
        frame.extend(self.options);
        set_ip_checksum(&mut frame);
        frame.extend(l4);
        frame
    }
}

/// Puts the right checksum into an IP header.
pub(super) fn set_ip_checksum(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let header = ETHERNET..l4_at(frame).clamp(34, frame.len());
    let checksum = fold(sum(&frame[header])).to_be_bytes();
    frame[24..26].copy_from_slice(&checksum);
}

/// Sum of 16-bit words.
pub(super) fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum()
}

/// The checksum of a sum.
pub(super) fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The sum over addresses, protocol and length that TCP and UDP checksums include.
fn pseudo(src: [u8; 4], dst: [u8; 4], proto: u8, length: usize) -> u32 {
    sum(&src) + sum(&dst) + u32::from(proto) + length as u32
}

/// Where the IP header ends, by its own word.
pub(super) fn l4_at(frame: &[u8]) -> usize {
    ETHERNET + usize::from(frame[ETHERNET] & 0x0f) * 4
}

/// Where in a TCP or UDP header the checksum is.
pub(super) fn checksum_at(proto: u8) -> usize {
    if proto == TCP { 16 } else { 6 }
}

/// What the checksum of a frame's segment or datagram is off by: 0 when it is right. A rewrite must not change it,
/// whatever it was.
pub(super) fn l4_fault(frame: &[u8]) -> u16 {
    let (l4, proto) = (&frame[l4_at(frame)..], frame[23]);
    let pseudo = pseudo(address(frame, 26), address(frame, 30), proto, l4.len());
    fold(sum(l4) + pseudo)
}

/// The same of the IP header.
pub(super) fn ip_fault(frame: &[u8]) -> u16 {
    fold(sum(&frame[ETHERNET..l4_at(frame).min(frame.len())]))
}

fn check_ip(frame: &[u8]) {
    assert_eq!(ip_fault(frame), 0, "the IP checksum of {frame:02x?}");
}

/// Fails unless a receiver would take the packet.
pub(super) fn check(frame: &[u8]) {
    check_ip(frame);
    if frame[23] == TCP || frame[23] == UDP {
        assert_eq!(l4_fault(frame), 0, "the checksum of {frame:02x?}");
        assert_ne!(l4_checksum(frame), [0, 0], "a zero is no checksum: {frame:02x?}");
    }
}

/// The checksum that is written in a TCP or UDP header.
pub(super) fn l4_checksum(frame: &[u8]) -> [u8; 2] {
    let at = l4_at(frame) + checksum_at(frame[23]);
    [frame[at], frame[at + 1]]
}

/// The address that starts there.
pub(super) fn address(frame: &[u8], at: usize) -> [u8; 4] {
    [frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]
}

/// Source and destination.
pub(super) fn ends(frame: &[u8]) -> (End, End) {
    let l4 = l4_at(frame);
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    ((address(frame, 26), port(l4)), (address(frame, 30), port(l4 + 2)))
}
