//! Services at the socket: the destination is replaced once, at connect, so that established connections run
//! at the speed of a direct one. UDP of pods is left to the packet path: a connected datagram socket would keep
//! a dead backend. Nothing here touches a packet.

use core::ptr::{addr_of, addr_of_mut, null_mut, read_volatile, write_volatile};

use agent_ebpf_common::{
    abi::{SETTING_POD_SOCKETS_OFF, SOCKET_RING, SocketState, TCP, Translation, UDP},
    flows::Maps as _,
    guard::Drops as _,
    socket::{Asker, Destination, destination},
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_sock_addr,
    helpers::generated::{bpf_get_netns_cookie, bpf_set_retval},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};

use crate::maps::{KernelMaps, SOCKETS, client_of, settings};

const PROCEED: i32 = 1;
const REFUSE: i32 = 0;
/// `IPPROTO_MPTCP`: a TCP connection to everybody else.
const MPTCP: u32 = 262;
const ECONNREFUSED: i32 = 111;
/// `::ffff:0:0/96` as the third word of an address.
const MAPPED: u32 = 0xffff_u32.to_be();

/// 1 when the kernel has `bpf_set_retval` (5.18). A constant to the verifier, which drops the dead branch.
#[unsafe(no_mangle)]
static HAS_SET_RETVAL: u32 = 0;

#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(ctx: SockAddrContext) -> i32 {
    connect(&ctx, &V4)
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6(ctx: SockAddrContext) -> i32 {
    connect(&ctx, &Mapped)
}

#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn sendmsg4(ctx: SockAddrContext) -> i32 {
    sendmsg(&ctx, &V4)
}

#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn sendmsg6(ctx: SockAddrContext) -> i32 {
    sendmsg(&ctx, &Mapped)
}

#[cgroup_sock_addr(recvmsg4)]
pub(crate) fn recvmsg4(ctx: SockAddrContext) -> i32 {
    recvmsg(&ctx, &V4)
}

#[cgroup_sock_addr(recvmsg6)]
pub(crate) fn recvmsg6(ctx: SockAddrContext) -> i32 {
    recvmsg(&ctx, &Mapped)
}

#[cgroup_sock_addr(getpeername4)]
pub(crate) fn getpeername4(ctx: SockAddrContext) -> i32 {
    getpeername(&ctx, &V4)
}

#[cgroup_sock_addr(getpeername6)]
pub(crate) fn getpeername6(ctx: SockAddrContext) -> i32 {
    getpeername(&ctx, &Mapped)
}

/// Where a socket of some family keeps the IPv4 destination.
trait Place {
    /// The destination, when it is IPv4.
    fn addr(&self, ctx: *const bpf_sock_addr) -> Option<u32>;
    /// Replaces it.
    fn set_addr(&self, ctx: *mut bpf_sock_addr, addr_be: u32);
}

struct V4;

impl Place for V4 {
    #[inline(always)]
    fn addr(&self, ctx: *const bpf_sock_addr) -> Option<u32> {
        // SAFETY: a context field; volatile keeps the access at the width the verifier allows.
        Some(unsafe { read_volatile(addr_of!((*ctx).user_ip4)) })
    }

    #[inline(always)]
    fn set_addr(&self, ctx: *mut bpf_sock_addr, addr_be: u32) {
        // SAFETY: as above.
        unsafe { write_volatile(addr_of_mut!((*ctx).user_ip4), addr_be) }
    }
}

/// IPv4 through an IPv6 socket.
struct Mapped;

impl Place for Mapped {
    #[inline(always)]
    fn addr(&self, ctx: *const bpf_sock_addr) -> Option<u32> {
        // SAFETY: as for [`V4`].
        let words = unsafe {
            [
                read_volatile(addr_of!((*ctx).user_ip6[0])),
                read_volatile(addr_of!((*ctx).user_ip6[1])),
                read_volatile(addr_of!((*ctx).user_ip6[2])),
                read_volatile(addr_of!((*ctx).user_ip6[3])),
            ]
        };
        (words[0] == 0 && words[1] == 0 && words[2] == MAPPED).then_some(words[3])
    }

    #[inline(always)]
    fn set_addr(&self, ctx: *mut bpf_sock_addr, addr_be: u32) {
        // SAFETY: as for [`V4`].
        unsafe { write_volatile(addr_of_mut!((*ctx).user_ip6[3]), addr_be) }
    }
}

#[inline(always)]
fn port(ctx: *const bpf_sock_addr) -> u16 {
    // SAFETY: a context field, readable as a word; the port is its low half in network order.
    unsafe { read_volatile(addr_of!((*ctx).user_port)) as u16 }
}

#[inline(always)]
fn set_port(ctx: *mut bpf_sock_addr, port_be: u16) {
    // SAFETY: as above.
    unsafe { write_volatile(addr_of_mut!((*ctx).user_port), u32::from(port_be)) }
}

#[inline(always)]
fn protocol(ctx: *const bpf_sock_addr) -> Option<u8> {
    // SAFETY: a context field.
    match unsafe { read_volatile(addr_of!((*ctx).protocol)) } {
        6 | MPTCP => Some(TCP),
        17 => Some(UDP),
        _ => None,
    }
}

#[inline(always)]
fn connect<P: Place>(ctx: &SockAddrContext, place: &P) -> i32 {
    let raw = ctx.sock_addr;
    let Some(proto) = protocol(raw) else { return PROCEED };
    let Some(addr) = place.addr(raw) else { return PROCEED };
    match translate(ctx, addr, port(raw), proto) {
        Outcome::Pass => {
            if proto == UDP {
                forget_peer(ctx);
            }
            PROCEED
        }
        Outcome::Refused => refuse(),
        Outcome::To(found) => {
            if let Some(state) = state(ctx) {
                // SAFETY: the socket's own storage, not null; the socket is locked during connect.
                unsafe { (*state).peer = found };
            }
            place.set_addr(raw, found.backend_be);
            set_port(raw, found.backend_port_be);
            PROCEED
        }
    }
}

#[inline(always)]
fn sendmsg<P: Place>(ctx: &SockAddrContext, place: &P) -> i32 {
    let raw = ctx.sock_addr;
    let Some(addr) = place.addr(raw) else { return PROCEED };
    match translate(ctx, addr, port(raw), UDP) {
        Outcome::Pass => PROCEED,
        Outcome::Refused => refuse(),
        Outcome::To(found) => {
            if let Some(state) = state(ctx) {
                note_peer(state, found);
            }
            place.set_addr(raw, found.backend_be);
            set_port(raw, found.backend_port_be);
            PROCEED
        }
    }
}

/// A reply carries the backend's address; the program asked the service, and resolvers drop such a mismatch.
#[inline(always)]
fn recvmsg<P: Place>(ctx: &SockAddrContext, place: &P) -> i32 {
    let raw = ctx.sock_addr;
    let Some(addr) = place.addr(raw) else { return PROCEED };
    let port = port(raw);
    let Some(state) = existing_state(ctx) else { return PROCEED };
    for index in 0..=SOCKET_RING {
        // SAFETY: the socket's own storage, not null; the index is within the ring.
        let entry = unsafe { if index == SOCKET_RING { (*state).peer } else { (*state).ring[index] } };
        if entry.backend_be == addr && entry.backend_port_be == port {
            place.set_addr(raw, entry.vip_be);
            set_port(raw, entry.vip_port_be);
            break;
        }
    }
    PROCEED
}

#[inline(always)]
fn getpeername<P: Place>(ctx: &SockAddrContext, place: &P) -> i32 {
    let raw = ctx.sock_addr;
    let Some(addr) = place.addr(raw) else { return PROCEED };
    let Some(state) = existing_state(ctx) else { return PROCEED };
    // SAFETY: the socket's own storage, not null.
    let peer = unsafe { (*state).peer };
    // The socket may have been connected elsewhere since.
    if peer.backend_be == addr && peer.backend_port_be == port(raw) {
        place.set_addr(raw, peer.vip_be);
        set_port(raw, peer.vip_port_be);
    }
    PROCEED
}

/// Where to send what asks for `addr`.
#[inline(always)]
fn translate(ctx: &SockAddrContext, addr: u32, port: u16, proto: u8) -> Outcome {
    let settings = settings();
    // SAFETY: the context is the program's own.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let host = netns == settings.host_cookie;
    if !host && (proto == UDP || settings.flags_and_uplink as u32 & SETTING_POD_SOCKETS_OFF != 0) {
        return Outcome::Pass;
    }
    let asker = if host { Asker::Host } else { Asker::Pod(netns) };
    match destination(&KernelMaps, addr, port, proto, asker, client_of) {
        Destination::Own => Outcome::Pass,
        Destination::Service(found, service) => {
            KernelMaps.count_connection(service);
            Outcome::To(found)
        }
        Destination::Refused(reason) => {
            KernelMaps.count_drop(reason);
            Outcome::Refused
        }
    }
}

enum Outcome {
    Pass,
    Refused,
    To(Translation),
}

/// Before 5.18 a program can only make connect fail with EPERM. The connect is let through untranslated
/// instead, and the packet path answers with a reset, which the client sees as ECONNREFUSED.
#[inline(always)]
fn refuse() -> i32 {
    // SAFETY: a constant of the object, set by the loader before the verifier reads it.
    if unsafe { read_volatile(addr_of!(HAS_SET_RETVAL)) } == 0 {
        return PROCEED;
    }
    // SAFETY: no pointers.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    REFUSE
}

#[inline(always)]
fn state(ctx: &SockAddrContext) -> Option<*mut SocketState> {
    // SAFETY: the map checks the socket; without an initial value a new element is zero.
    let state = unsafe { SOCKETS.get_or_insert_ptr_mut(ctx, None) };
    (state != null_mut()).then_some(state)
}

#[inline(always)]
fn existing_state(ctx: &SockAddrContext) -> Option<*mut SocketState> {
    // SAFETY: as above.
    let state = unsafe { SOCKETS.get_ptr_mut(ctx) };
    (state != null_mut()).then_some(state)
}

/// A datagram socket connected to something that is no service must not show an earlier one as its peer.
#[inline(always)]
fn forget_peer(ctx: &SockAddrContext) {
    if let Some(state) = existing_state(ctx) {
        // SAFETY: the socket's own storage, not null.
        unsafe { (*state).peer = Translation::default() };
    }
}

#[inline(always)]
fn note_peer(state: *mut SocketState, found: Translation) {
    for index in 0..SOCKET_RING {
        // SAFETY: the socket's own storage, not null; the index is within the ring.
        let entry = unsafe { (*state).ring[index] };
        if entry.backend_be == found.backend_be && entry.backend_port_be == found.backend_port_be {
            // SAFETY: as above.
            unsafe { (*state).ring[index] = found };
            return;
        }
    }
    // SAFETY: as above; the mask keeps within the ring, which has a power of two of entries.
    unsafe {
        let next = (*state).next;
        (*state).ring[(next as usize) & (SOCKET_RING - 1)] = found;
        (*state).next = next.wrapping_add(1);
    }
}
