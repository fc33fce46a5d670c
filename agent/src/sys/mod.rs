//! Thin syscall wrappers: the only unsafe code of the agent.
#![expect(unsafe_code, reason = "every block upholds and states its own invariant; nothing outside has any")]

pub mod arp;
pub(crate) mod bpf;
pub(crate) mod mapped;
pub(crate) mod memory;
pub(crate) mod netns;
