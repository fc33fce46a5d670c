//! Frames made and read by the book: a second opinion, which shares no code with the core.

use std::net::{IpAddr, SocketAddr};

pub(crate) const ETHERNET: usize = 14;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SYN: u8 = 2;
pub(crate) const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const EXTENSIONS: [u8; 8] = [0, 43, FRAGMENT, AUTHENTICATION, 60, 135, 139, 140];

/// What stands between the IP header and the upper layer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Between {
    /// IPv4: bytes of options, a multiple of four, 40 at most.
    pub(crate) options: usize,
    /// IPv6: extension headers, each with its size in units beyond the least.
    pub(crate) chain: Vec<(u8, u8)>,
}

/// One packet.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) proto: u8,
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
    pub(crate) tcp_flags: u8,
    pub(crate) between: Between,
    pub(crate) payload: Vec<u8>,
    pub(crate) checksum: bool,
    pub(crate) id: u16,
}

impl Frame {
    pub(crate) fn new(proto: u8, src: SocketAddr, dst: SocketAddr) -> Self {
        let between = Between::default();
        Self {
            proto,
            src,
            dst,
            tcp_flags: 0x10,
            between,
            payload: b"odd".to_vec(),
            checksum: true,
            id: 0x1234,
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        framed(self.src.ip(), self.dst.ip(), self.proto, &self.between, None, &self.upper())
    }

    /// In frames with `size` bytes of the upper layer each, a multiple of eight.
    pub(crate) fn fragments(&self, size: usize) -> Vec<Vec<u8>> {
        let upper = self.upper();
        let count = upper.len().div_ceil(size);
        let part = |(number, chunk): (usize, &[u8])| {
            let place = (self.id, (number * size / 8) as u16, number + 1 < count);
            framed(self.src.ip(), self.dst.ip(), self.proto, &self.between, Some(place), chunk)
        };
        upper.chunks(size).enumerate().map(part).collect()
    }

    fn upper(&self) -> Vec<u8> {
        let mut upper = Vec::new();
        upper.extend(self.src.port().to_be_bytes());
        upper.extend(self.dst.port().to_be_bytes());
        let at = match self.proto {
            TCP => {
                upper.extend([0, 0, 0, 9, 0, 0, 0, 0, 0x50, self.tcp_flags, 0xff, 0xff, 0, 0, 0, 0]);
                16
            }
            UDP => {
                upper.extend((8 + self.payload.len() as u16).to_be_bytes());
                upper.extend([0, 0]);
                6
            }
            _ => {
                upper.extend([0xab; 8]);
                upper.extend(&self.payload);
                return upper;
            }
        };
        upper.extend(&self.payload);
        if self.checksum {
            let checksum =
                match fold(sum(&upper) + pseudo(self.src.ip(), self.dst.ip(), self.proto, upper.len())) {
                    0 if self.proto == UDP => 0xffff,
                    checksum => checksum,
                };
            upper[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        }
        upper
    }
}

/// An ICMP message with its checksum.
pub(crate) fn icmp(src: IpAddr, dst: IpAddr, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend(body);
    let proto = icmp_of(src);
    let addresses = if src.is_ipv6() { pseudo(src, dst, proto, message.len()) } else { 0 };
    let checksum = fold(sum(&message) + addresses).to_be_bytes();
    message[2..4].copy_from_slice(&checksum);
    framed(src, dst, proto, &Between::default(), None, &message)
}

/// An ICMP error, "too big for the next link", by `by` to `to` about a packet.
pub(crate) fn error(by: IpAddr, to: IpAddr, about: &Frame) -> Vec<u8> {
    let frame = about.bytes();
    let (kind, quoted) = if by.is_ipv6() { (2, 1000) } else { (3, read(&frame, ETHERNET).l4 - ETHERNET + 8) };
    let about = &frame[ETHERNET..];
    let mut body = vec![0, 0, 5, 0x78];
    body.extend(&about[..about.len().min(quoted)]);
    icmp(by, to, kind, &body)
}

fn icmp_of(address: IpAddr) -> u8 {
    if address.is_ipv6() { 58 } else { 1 }
}

/// A frame; `place` in a fragmented packet: identification, offset in units of eight, more to come.
pub(crate) fn framed(
    src: IpAddr,
    dst: IpAddr,
    proto: u8,
    between: &Between,
    place: Option<(u16, u16, bool)>,
    upper: &[u8],
) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let header = 20 + between.options;
            frame.extend([8, 0, 0x40 | (header / 4) as u8, 0]);
            frame.extend(((header + upper.len()) as u16).to_be_bytes());
            let (id, offset, more) = place.unwrap_or((0x1234, 0, false));
            frame.extend(id.to_be_bytes());
            frame.extend((offset | u16::from(more) << 13).to_be_bytes());
            frame.extend([64, proto, 0, 0]);
            frame.extend(src.octets());
            frame.extend(dst.octets());
            frame.extend(vec![1; between.options]);
            let checksum = fold(sum(&frame[ETHERNET..])).to_be_bytes();
            frame[24..26].copy_from_slice(&checksum);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut chain = between.chain.clone();
            if place.is_some() {
                chain.push((FRAGMENT, 0));
            }
            let mut extensions = Vec::new();
            for (number, &(kind, more)) in chain.iter().enumerate() {
                let next = chain.get(number + 1).map_or(proto, |(kind, _)| *kind);
                match (kind, place) {
                    (FRAGMENT, place) => {
                        let (id, offset, more) = place.unwrap_or((0x1234, 0, false));
                        extensions.extend([next, 0]);
                        extensions.extend((offset << 3 | u16::from(more)).to_be_bytes());
                        extensions.extend(u32::from(id).to_be_bytes());
                    }
                    (AUTHENTICATION, _) => {
                        extensions.extend([next, more + 1]);
                        extensions.extend(vec![0xcc; usize::from(more + 3) * 4 - 2]);
                    }
                    _ => {
                        extensions.extend([next, more]);
                        extensions.extend(vec![1; usize::from(more + 1) * 8 - 2]);
                    }
                }
            }
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(((extensions.len() + upper.len()) as u16).to_be_bytes());
            frame.extend([chain.first().map_or(proto, |(kind, _)| *kind), 64]);
            frame.extend(src.octets());
            frame.extend(dst.octets());
            frame.extend(extensions);
        }
        ends => panic!("{ends:?}"),
    }
    frame.extend(upper);
    frame
}

/// Sum of 16-bit words.
pub(crate) fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum()
}

/// The checksum of a sum.
pub(crate) fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn pseudo(src: IpAddr, dst: IpAddr, proto: u8, length: usize) -> u32 {
    let of = |address| match address {
        IpAddr::V4(address) => sum(&address.octets()),
        IpAddr::V6(address) => sum(&address.octets()),
    };
    of(src) + of(dst) + u32::from(proto) + length as u32
}

/// A packet as its receiver reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) proto: u8,
    /// Where the upper layer starts.
    pub(crate) l4: usize,
    pub(crate) later: bool,
}

fn octets<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().unwrap()
}

/// Reads a packet that starts at `at`.
pub(crate) fn read(frame: &[u8], at: usize) -> Seen {
    if frame[at] >> 4 == 4 {
        let later = u16::from_be_bytes(octets(frame, at + 6)) & 0x1fff != 0;
        let (src, dst) = (octets::<4>(frame, at + 12).into(), octets::<4>(frame, at + 16).into());
        return Seen { src, dst, proto: frame[at + 9], l4: at + usize::from(frame[at] & 15) * 4, later };
    }
    let (mut proto, mut l4, mut later) = (frame[at + 6], at + 40, false);
    while EXTENSIONS.contains(&proto) && !later {
        let (next, length) = (frame[l4], usize::from(frame[l4 + 1]));
        later = proto == FRAGMENT && u16::from_be_bytes(octets(frame, l4 + 2)) >> 3 != 0;
        l4 += match proto {
            FRAGMENT => 8,
            AUTHENTICATION => (length + 2) * 4,
            _ => (length + 1) * 8,
        };
        proto = next;
    }
    Seen {
        src: octets::<16>(frame, at + 8).into(),
        dst: octets::<16>(frame, at + 24).into(),
        proto,
        l4,
        later,
    }
}

/// Source and destination of the packet that starts at `at`.
pub(crate) fn ends(frame: &[u8], at: usize) -> (SocketAddr, SocketAddr) {
    let seen = read(frame, at);
    let port = |at| u16::from_be_bytes(octets(frame, at));
    (SocketAddr::new(seen.src, port(seen.l4)), SocketAddr::new(seen.dst, port(seen.l4 + 2)))
}

/// Fails unless a receiver would take the frame, which is no fragment: all lengths and checksums are right.
pub(crate) fn check(frame: &[u8]) {
    let seen = read(frame, ETHERNET);
    let upper = &frame[seen.l4..];
    let length = match seen.src {
        IpAddr::V4(_) => {
            assert_eq!(fold(sum(&frame[ETHERNET..seen.l4])), 0, "the header's checksum: {frame:02x?}");
            u16::from_be_bytes(octets(frame, ETHERNET + 2))
        }
        IpAddr::V6(_) => u16::from_be_bytes(octets(frame, ETHERNET + 4)) + 40,
    };
    assert_eq!(usize::from(length), frame.len() - ETHERNET, "the length");
    let addresses = pseudo(seen.src, seen.dst, seen.proto, upper.len());
    match seen.proto {
        1 => assert_eq!(fold(sum(upper)), 0, "the checksum of {frame:02x?}"),
        TCP | 58 => assert_eq!(fold(sum(upper) + addresses), 0, "the checksum of {frame:02x?}"),
        UDP if upper[6..8] != [0, 0] => {
            assert_eq!(fold(sum(upper) + addresses), 0, "the checksum of {frame:02x?}");
        }
        _ => {}
    }
}
