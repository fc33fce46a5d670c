//! Reading and rewriting IPv4 packets. All access goes through helpers, which see through non-linear buffers
//! and keep checksums right under offloads; nothing here decides anything.

use core::mem::MaybeUninit;

use agent_ebpf_common::{
    abi::{FragmentKey, Reason, TCP, UDP},
    nat::Tuple,
    tag::Tagged,
};
use aya_ebpf::{
    bindings::{BPF_ANY, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::generated::{
        bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_redirect, bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
    programs::TcContext,
};

use crate::maps::{FRAGMENTS, count_drop, own};

/// Bytes of the Ethernet header in front of every packet here.
pub(crate) const ETHERNET: u32 = 14;
pub(crate) const IPV4: u32 = 0x0800_u16.to_be() as u32;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// What becomes of a packet. Must be returned to the kernel: a verdict that is computed and dropped is the
/// classic fault of such programs.
#[must_use]
pub(crate) struct Verdict(pub(crate) i32);

impl Verdict {
    /// On its way. Programs and filters behind ours, which are somebody else's, have their say.
    pub(crate) const PASS: Self = Self(TC_ACT_UNSPEC);

    /// Gone, and counted.
    #[inline(always)]
    pub(crate) fn drop(reason: Reason) -> Self {
        count_drop(reason);
        Self(TC_ACT_SHOT as i32)
    }

    /// Back out of the interface that it came in by.
    #[inline(always)]
    pub(crate) fn send_back(ctx: &TcContext) -> Self {
        // SAFETY: the context is the program's own; the helper takes plain numbers.
        Self(unsafe { bpf_redirect((*ctx.skb.skb).ifindex, 0) } as i32)
    }
}

/// A packet that the load balancer may care about.
pub(crate) struct Packet {
    pub(crate) tuple: Tuple,
    /// Where the TCP or UDP header starts.
    pub(crate) l4: u32,
    pub(crate) tcp_flags: u8,
    /// Has no TCP or UDP header: a later fragment.
    pub(crate) headless: bool,
}

/// Reads `N` bytes.
#[inline(always)]
pub(crate) fn load<const N: usize>(ctx: &TcContext, offset: u32) -> Option<[u8; N]> {
    let mut bytes = MaybeUninit::<[u8; N]>::uninit();
    // SAFETY: the helper writes exactly N bytes or fails.
    unsafe {
        let result =
            bpf_skb_load_bytes(ctx.skb.skb.cast_const().cast(), offset, bytes.as_mut_ptr().cast(), N as u32);
        (result == 0).then(|| bytes.assume_init())
    }
}

/// Writes `N` bytes, leaving checksums to the caller.
#[inline(always)]
pub(crate) fn store<const N: usize>(ctx: &TcContext, offset: u32, bytes: &[u8; N]) -> Option<()> {
    // SAFETY: the helper reads exactly N bytes.
    let result = unsafe { bpf_skb_store_bytes(ctx.skb.skb, offset, bytes.as_ptr().cast(), N as u32, 0) };
    (result == 0).then_some(())
}

#[inline(always)]
pub(crate) fn word(bytes: [u8; 4]) -> u32 {
    u32::from_ne_bytes(bytes)
}

#[inline(always)]
pub(crate) fn half(bytes: [u8; 2]) -> u16 {
    u16::from_ne_bytes(bytes)
}

/// Reads the headers. `None` when it is not TCP or UDP over IPv4, or a later fragment of a datagram whose first
/// was not seen: none of that is for the load balancer.
#[inline(always)]
pub(crate) fn parse(ctx: &TcContext, leg: u8) -> Option<Packet> {
    // SAFETY: a context field.
    if unsafe { (*ctx.skb.skb).protocol } != IPV4 {
        return None;
    }
    let ip: [u8; 20] = load(ctx, ETHERNET)?;
    let proto = ip[9];
    if proto != TCP && proto != UDP {
        return None;
    }
    let header = ((ip[0] & 0x0f) as u32) * 4;
    // No IP header is that short: the stack will drop it.
    if header < ip.len() as u32 {
        return None;
    }
    let l4 = ETHERNET + header;
    let src_be = word([ip[12], ip[13], ip[14], ip[15]]);
    let dst_be = word([ip[16], ip[17], ip[18], ip[19]]);
    let fragment = u16::from_be_bytes([ip[6], ip[7]]);
    let key = FragmentKey { src_be, dst_be, id_be: half([ip[4], ip[5]]), proto, leg };
    if fragment & FRAGMENT_OFFSET != 0 {
        let ports = own(FRAGMENTS.get_ptr(&key), &key)?.to_ne_bytes();
        let (sport_be, dport_be) = (half([ports[0], ports[1]]), half([ports[2], ports[3]]));
        let tuple = Tuple { src_be, dst_be, sport_be, dport_be, proto };
        return Some(Packet { tuple, l4, tcp_flags: 0, headless: true });
    }
    let ports: [u8; 4] = load(ctx, l4)?;
    let (sport_be, dport_be) = (half([ports[0], ports[1]]), half([ports[2], ports[3]]));
    if fragment & MORE_FRAGMENTS != 0 {
        // A full table evicts; the worst is a datagram that its later fragments do not complete.
        let _ = FRAGMENTS.insert(&key, &Tagged::new(&key, word(ports)), BPF_ANY as u64);
    }
    let tcp_flags = if proto == TCP { load::<1>(ctx, l4 + 13)?[0] } else { 0 };
    let tuple = Tuple { src_be, dst_be, sport_be, dport_be, proto };
    Some(Packet { tuple, l4, tcp_flags, headless: false })
}

/// Makes `packet` carry `to`.
#[inline(always)]
pub(crate) fn rewrite(ctx: &TcContext, packet: &Packet, to: &Tuple) -> Option<()> {
    let from = &packet.tuple;
    if from.src_be != to.src_be {
        address(ctx, packet, ETHERNET + 12, from.src_be, to.src_be)?;
    }
    if from.dst_be != to.dst_be {
        address(ctx, packet, ETHERNET + 16, from.dst_be, to.dst_be)?;
    }
    if packet.headless {
        return Some(());
    }
    if from.sport_be != to.sport_be {
        port(ctx, packet, packet.l4, from.sport_be, to.sport_be)?;
    }
    if from.dport_be != to.dport_be {
        port(ctx, packet, packet.l4 + 2, from.dport_be, to.dport_be)?;
    }
    Some(())
}

/// Offset of the checksum, and the flags its helper wants: a UDP checksum of zero means none, and must neither
/// be made up nor come about.
#[inline(always)]
fn checksum(packet: &Packet) -> (u32, u64) {
    if packet.tuple.proto == TCP { (packet.l4 + 16, 0) } else { (packet.l4 + 6, BPF_F_MARK_MANGLED_0 as u64) }
}

#[inline(always)]
fn address(ctx: &TcContext, packet: &Packet, offset: u32, from: u32, to: u32) -> Option<()> {
    let skb = ctx.skb.skb;
    let (at, flags) = checksum(packet);
    // SAFETY: the context is the program's own; the helpers take plain numbers.
    unsafe {
        // The checksum of a later fragment is in the first.
        if !packet.headless
            && bpf_l4_csum_replace(skb, at, from as u64, to as u64, flags | BPF_F_PSEUDO_HDR as u64 | 4) != 0
        {
            return None;
        }
        if bpf_l3_csum_replace(skb, ETHERNET + 10, from as u64, to as u64, 4) != 0 {
            return None;
        }
    }
    store(ctx, offset, &to.to_ne_bytes())
}

#[inline(always)]
fn port(ctx: &TcContext, packet: &Packet, offset: u32, from: u16, to: u16) -> Option<()> {
    let (at, flags) = checksum(packet);
    // SAFETY: as above.
    if unsafe { bpf_l4_csum_replace(ctx.skb.skb, at, from as u64, to as u64, flags | 2) } != 0 {
        return None;
    }
    store(ctx, offset, &to.to_ne_bytes())
}

/// Exchanges the Ethernet addresses: the packet goes back to whoever sent it.
#[inline(always)]
pub(crate) fn swap_ethernet(ctx: &TcContext) -> Option<()> {
    let old: [u8; 12] = load(ctx, 0)?;
    let new =
        [old[6], old[7], old[8], old[9], old[10], old[11], old[0], old[1], old[2], old[3], old[4], old[5]];
    store(ctx, 0, &new)
}
