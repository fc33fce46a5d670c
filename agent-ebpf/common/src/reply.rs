//! Answers that the datapath makes itself when a service has no endpoint: a TCP reset or an ICMP port unreachable, as a
//! node without that port would send. Written over the refused packet.

use crate::{
    abi::TCP,
    checksum::{add, finish},
    family::Family,
    nat::{ACK, FIN, RST, SYN},
    parse::Packet,
    wire::{ETHERNET, Wire, swap_ethernet},
};

/// Bytes of a TCP header without options.
const TCP_HEADER: usize = 20;
/// Bytes of an ICMP header, and as many of the refused datagram are quoted behind its IP header.
const ICMP_HEADER: u32 = 8;
/// IP headers without options are one or two of these.
const CHUNK: u32 = 20;

/// Turns the packet, which must be TCP or UDP, into its refusal. `None` when nothing may or can be said.
#[inline(always)]
pub fn refuse<A: Family, W: Wire>(wire: &W, packet: &Packet<A>) -> Option<()> {
    if packet.is_headless() {
        return None;
    }
    if packet.tuple.proto == TCP {
        reset(wire, packet)?;
    } else {
        unreachable(wire, packet)?;
    }
    swap_ethernet(wire)
}

/// The reset for a segment (RFC 9293, 3.10.7.1). `None` for a reset: those are never answered.
#[inline(never)]
fn reset<A: Family, W: Wire>(wire: &W, packet: &Packet<A>) -> Option<()> {
    let ip = A::ip(wire, ETHERNET)?;
    let tcp: [u8; TCP_HEADER] = wire.load(packet.l4)?;
    let flags = tcp[13];
    if flags & RST != 0 {
        return None;
    }
    let data = packet.l4 + ((tcp[12] >> 4) as u32) * 4;
    let mut reply = [0; TCP_HEADER];
    [reply[0], reply[1], reply[2], reply[3]] = [tcp[2], tcp[3], tcp[0], tcp[1]];
    if flags & ACK != 0 {
        // The reset takes its sequence number from the acknowledgement.
        [reply[4], reply[5], reply[6], reply[7]] = [tcp[8], tcp[9], tcp[10], tcp[11]];
        reply[13] = RST;
    } else {
        let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let segment = ip.end.saturating_sub(data);
        let length = segment + (flags & SYN != 0) as u32 + (flags & FIN != 0) as u32;
        [reply[8], reply[9], reply[10], reply[11]] = sequence.wrapping_add(length).to_be_bytes();
        reply[13] = RST | ACK;
    }
    reply[12] = 5 << 4;
    let pseudo = ip.dst.sum(ip.src.sum(TCP as u32 + TCP_HEADER as u32));
    [reply[16], reply[17]] = finish(add(pseudo, &reply)).to_be_bytes();
    wire.resize(ETHERNET + A::HEADER + TCP_HEADER as u32)?;
    A::put_header(wire, ETHERNET, ip.dst, ip.src, TCP, TCP_HEADER as u16)?;
    wire.store(ETHERNET + A::HEADER, &reply)
}

/// The port unreachable for a datagram.
#[inline(never)]
fn unreachable<A: Family, W: Wire>(wire: &W, packet: &Packet<A>) -> Option<()> {
    // With options or extension headers the quoted header would not be the packet's own.
    if packet.l4 != ETHERNET + A::HEADER {
        return None;
    }
    let first: [u8; ICMP_HEADER as usize] = wire.load(packet.l4)?;
    let quote = ETHERNET + A::HEADER + ICMP_HEADER;
    wire.resize(quote + A::HEADER + ICMP_HEADER)?;
    wire.store(quote + A::HEADER, &first)?;
    let [kind, code] = A::PORT_UNREACHABLE;
    let mut sum = add((kind as u32) << 8 | code as u32, &first);
    // The header moves back by more than its length.
    let mut at = 0;
    while at < A::HEADER {
        let chunk: [u8; CHUNK as usize] = wire.load(ETHERNET + at)?;
        sum = add(sum, &chunk);
        wire.store(quote + at, &chunk)?;
        at += CHUNK;
    }
    let length = ICMP_HEADER + A::HEADER + ICMP_HEADER;
    let (src, dst) = (packet.tuple.dst_be, packet.tuple.src_be);
    if A::ICMP_PSEUDO {
        sum = src.sum(dst.sum(sum + A::ICMP as u32 + length));
    }
    let [high, low] = finish(sum).to_be_bytes();
    wire.store(ETHERNET + A::HEADER, &[kind, code, high, low, 0, 0, 0, 0])?;
    A::put_header(wire, ETHERNET, src, dst, A::ICMP, length as u16)
}
