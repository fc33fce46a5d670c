//! The eBPF programs: services at connect (cgroup hooks) and per packet (tc).
//!
//! They own no policy: the agent computes endpoint sets, these programs look one up and follow it. Everything
//! they decide is in `agent-ebpf-common`, which the host tests; what is here reads maps, and reads and writes sockets
//! and packets for it. They never write a hash map that the agent owns.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "helpers, maps and contexts of the kernel are raw pointers")]

mod maps;
mod packet;
mod panic;
mod socket;
mod tc;

/// The kernel lets only GPL-compatible programs call most helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
