//! The kernel ABI of the datapath (map keys, values, names, limits) and its pure decision logic.
//!
//! Both sides compile this crate: the eBPF programs for the BPF target, the agent for the host. It owns every
//! layout that crosses the kernel boundary and every decision about a connection or packet, and it never does
//! I/O: maps are reached through the traits in [`select`], [`parse`], [`flows`] and [`policy`], packets through the one in [`wire`],
//! so that the tests on the host run the very code that the kernel runs. It is written once for both address families
//! ([`family`]).
//!
//! Rules of the maps (measured reasons in docs/adr): a hash map that the datapath reads is insert- and
//! delete-only and holds an index; whatever changes sits behind the index in a memory-mapped array and is
//! published by one aligned 64-bit store. The kernel recycles deleted elements at once, under readers too, so that every
//! value says whose it is ([`tag`]).
#![cfg_attr(not(test), no_std)]

pub mod abi;
pub mod admit;
pub mod checksum;
pub mod errors;
pub mod family;
pub mod flows;
pub mod guard;
pub mod nat;
pub mod parse;
pub mod path;
pub mod policy;
pub mod reply;
pub mod rewrite;
pub mod schema;
pub mod select;
pub mod socket;
pub mod tag;
#[cfg(test)]
mod testing;
pub mod wire;
pub mod words;
