//! Answers that the datapath makes itself when a service has no endpoint: a TCP reset or an ICMP port
//! unreachable, as a node without that port would send. Pure: headers in, headers out.

use crate::{
    abi::TCP,
    checksum::{add, finish},
    nat::{ACK, FIN, RST, SYN},
};

/// Bytes of an IPv4 header without options.
pub const IP: usize = 20;
/// Bytes of a reset: IPv4 and TCP.
pub const RESET: usize = IP + 20;
/// Bytes of an unreachable: IPv4, ICMP, and the refused packet's IPv4 header and first 8 bytes.
pub const UNREACHABLE: usize = IP + 8 + IP + 8;

const TTL: u8 = 64;
const ICMP: u8 = 1;
const DESTINATION_UNREACHABLE: u8 = 3;
const PORT_UNREACHABLE: u8 = 3;

/// The reset for a segment (RFC 9293, 3.10.7.1). `None` for a reset: those are never answered.
#[inline(always)]
pub fn reset(ip: &[u8; IP], tcp: &[u8; 20], segment: u32) -> Option<[u8; RESET]> {
    let flags = tcp[13];
    if flags & RST != 0 {
        return None;
    }
    let mut reply = [0; RESET];
    header(&mut reply, ip, TCP, RESET as u16);
    copy(&mut reply, IP, tcp, 2, 2);
    copy(&mut reply, IP + 2, tcp, 0, 2);
    if flags & ACK != 0 {
        // The reset takes its sequence number from the acknowledgement.
        copy(&mut reply, IP + 4, tcp, 8, 4);
        reply[IP + 13] = RST;
    } else {
        let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let length = segment + (flags & SYN != 0) as u32 + (flags & FIN != 0) as u32;
        let acknowledged = sequence.wrapping_add(length).to_be_bytes();
        copy(&mut reply, IP + 8, &acknowledged, 0, 4);
        reply[IP + 13] = RST | ACK;
    }
    reply[IP + 12] = 5 << 4;
    // The pseudo-header: addresses, protocol, length of the TCP part.
    let mut sum = TCP as u32 + 20;
    let mut at = 12;
    while at < RESET {
        sum += (reply[at] as u32) << 8 | reply[at + 1] as u32;
        at += 2;
    }
    let checksum = finish(sum).to_be_bytes();
    copy(&mut reply, IP + 16, &checksum, 0, 2);
    Some(reply)
}

/// The port unreachable for a datagram.
#[inline(always)]
pub fn unreachable(ip: &[u8; IP], first: &[u8; 8]) -> [u8; UNREACHABLE] {
    let mut reply = [0; UNREACHABLE];
    let mut outer = [0; IP];
    header(&mut outer, ip, ICMP, UNREACHABLE as u16);
    copy(&mut reply, 0, &outer, 0, IP);
    reply[IP] = DESTINATION_UNREACHABLE;
    reply[IP + 1] = PORT_UNREACHABLE;
    copy(&mut reply, IP + 8, ip, 0, IP);
    copy(&mut reply, IP + 8 + IP, first, 0, 8);
    let mut sum = (DESTINATION_UNREACHABLE as u32) << 8 | PORT_UNREACHABLE as u32;
    sum = add(add(sum, ip), first);
    let checksum = finish(sum).to_be_bytes();
    copy(&mut reply, IP + 2, &checksum, 0, 2);
    reply
}

/// An IPv4 header from the refused packet's destination back to its source.
#[inline(always)]
fn header<const N: usize>(reply: &mut [u8; N], ip: &[u8; IP], proto: u8, length: u16) {
    let mut header = [0; IP];
    header[0] = 0x45;
    copy(&mut header, 2, &length.to_be_bytes(), 0, 2);
    // Do not fragment: an answer this small never is.
    header[6] = 0x40;
    header[8] = TTL;
    header[9] = proto;
    copy(&mut header, 12, ip, 16, 4);
    copy(&mut header, 16, ip, 12, 4);
    let checksum = finish(add(0, &header)).to_be_bytes();
    copy(&mut header, 10, &checksum, 0, 2);
    copy(reply, 0, &header, 0, IP);
}

/// `copy_from_slice` without the panic that the verifier would have to follow.
#[inline(always)]
fn copy<const N: usize, const M: usize>(
    to: &mut [u8; N],
    at: usize,
    from: &[u8; M],
    start: usize,
    length: usize,
) {
    let mut offset = 0;
    while offset < length {
        if at + offset < N && start + offset < M {
            to[at + offset] = from[start + offset];
        }
        offset += 1;
    }
}

#[cfg(test)]
mod tests;
